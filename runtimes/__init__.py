"""An artifact becomes a session that runs."""
