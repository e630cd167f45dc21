"""A folder of prepared files that any number of processes may fill at once."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from compile.artifact import require_writable


def data_folder() -> Path:
    """``$ASSAY_HOME/data``; without the variable, ``assay/data`` in the user's cache folder."""
    home = os.environ.get("ASSAY_HOME")
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return (Path(home) if home else Path(cache).expanduser() / "assay") / "data"


def cached(name: str, make: Callable[[Path], None]) -> Path:
    """The file ``name`` of the data folder: found, or written by ``make`` to the path it is given.

    Processes that want the same file wait for one another, and a file appears by one rename, so
    that a half-written one is never seen. Whatever ``make`` raises passes through.
    """
    path = data_folder() / name
    if path.is_file():
        return path
    require_writable(path.parent)
    with FileLock(path.with_name(f"{path.name}.lock")):
        if not path.is_file():
            draft = path.with_name(f".{uuid.uuid4().hex[:8]}-{path.name}")
            try:
                make(draft)
                draft.replace(path)
            finally:
                draft.unlink(missing_ok=True)
    return path
