"""The seed's experiment, repeated on a real fleet and in the simulator. See ``__main__``."""
