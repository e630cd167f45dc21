"""Reading the small files in which Linux tells about itself (``/proc``, ``/sys``)."""

from __future__ import annotations

import os
from pathlib import Path

from suites.measure.meters.meter import Unreadable

CHUNK = 1 << 16


def text(path: Path) -> str:
    """All of the file. Raises Unreadable: missing, forbidden, or its device does not answer."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            parts = [os.read(file, CHUNK)]
            while parts[-1]:  # the kernel hands out some files a page at a time
                parts.append(os.read(file, CHUNK))
        finally:
            os.close(file)
    except OSError as error:
        raise Unreadable(f"{path}: {(error.strerror or str(error)).lower()}") from error
    return b"".join(parts).decode(errors="replace")


def number(path: Path) -> int:
    """A file that holds one whole number. Raises Unreadable, for anything else in it too."""
    written = text(path)
    try:
        return int(written)
    except ValueError:
        raise Unreadable(f"{path} holds no number: {written.strip()[:40]!r}") from None


def fields(path: Path) -> dict[str, str]:
    """``key: value`` lines, the first of each key. Raises Unreadable."""
    found: dict[str, str] = {}
    for line in text(path).splitlines():
        key, colon, value = line.partition(":")
        if colon:
            found.setdefault(key.strip(), value.strip())
    return found


def numbered(folder: Path, pattern: str) -> list[Path]:
    """Entries of a folder that match, ``cpu2`` before ``cpu10``; none where it cannot be listed."""
    try:
        return sorted(folder.glob(pattern), key=lambda path: (len(path.name), path.name))
    except OSError:
        return []
