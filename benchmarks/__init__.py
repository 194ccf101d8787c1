"""Performance, measured: each figure beside its bound, in one run on one machine. See ``__main__``."""
