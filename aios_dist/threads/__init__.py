"""Threads, loops and forks of the programs that use us. Internal."""
