"""Widgets of the notebooks. None waits for input: each has a default."""
