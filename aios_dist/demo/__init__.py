"""``aios-dist demo``: what it runs and what it draws. Internal."""
