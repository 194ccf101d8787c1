"""How an agent's program runs: what it awaits, its replay, its turns. Internal."""
