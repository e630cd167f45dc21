"""A suite file becomes rows, and a decision."""
