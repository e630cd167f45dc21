"""Real data, its labels, and a score for every example."""
