"""How a weight is rounded to few bits, one algorithm a file."""
