"""Celery's side: the one app definition, its channels, and tickets. Internal."""
