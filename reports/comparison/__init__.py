"""The parts of a comparison of two stored runs: see `reports/compare.py`."""
