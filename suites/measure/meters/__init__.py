"""What surrounds a block of timed calls, one meter a file; ``surroundings.py`` reads them all."""
