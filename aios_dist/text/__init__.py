"""Errors and secrets in words. Internal."""
