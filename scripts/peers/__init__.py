"""The same cells through Assay, a bare loop and other benchmarks: ``python -m scripts.peers``."""
