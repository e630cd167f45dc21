"""Whole gates, counted: ``python -m scripts.promise``."""
