"""The measuring loop and its statistics."""
