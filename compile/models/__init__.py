"""Models defined in torch: our own transformer, the zoo, and what users bring."""
