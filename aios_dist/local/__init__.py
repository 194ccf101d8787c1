"""One machine is enough: an embedded Redis and a whole fleet, for first runs and for tests."""
