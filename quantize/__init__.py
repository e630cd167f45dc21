"""An artifact becomes a smaller artifact."""
