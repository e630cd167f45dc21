"""Release gates: a kept baseline against a candidate, measured in pairs on today's machine."""
