"""Rows become tables and pictures."""
