"""Arrivals, episodes, their figures, saturation and capacity: pure functions of a schedule."""
