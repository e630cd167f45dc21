"""The versions of what is installed, without importing it."""

from __future__ import annotations

import importlib.metadata


def installed(*names: str) -> dict[str, str]:
    """Version by name of those distributions that this interpreter has."""
    versions = {}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
