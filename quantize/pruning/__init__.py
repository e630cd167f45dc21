"""Which weights of one layer become zero: one algorithm a file, pure functions on arrays."""
