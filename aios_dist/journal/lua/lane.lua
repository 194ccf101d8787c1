-- lane: the rules of a lane, for the whole fleet, from now on; what waits is ranked anew by the reconciler.
-- ARGV 1: lane, source, policy, oldest, fair, retention_ms
--   source: "hand", "file", or "reset" (what aios.toml said last); policy, oldest, fair: nil leaves each as it is
-- returns: {policy, oldest, fair, set by hand (1) or not (0)}
-- include: mend, rules
return set_lane({ lane = A.lane, policy = A.policy, oldest = A.oldest, fair = A.fair }, A.source)
