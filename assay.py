"""The door: checks that the rooms are Assay's own, then starts the command.

The rooms have plain names (``compile``, ``reports``, ...). Another distribution, or a folder on
``PYTHONPATH``, may use one of them too; the command then stops here and names the intruder,
before any of its code is imported as ours.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

ROOMS = ("compile", "quantize", "runtimes", "suites", "reports")
HOME = Path(__file__).resolve().parent


def intruders() -> dict[str, str]:
    """Room -> where Python finds it instead of beside this file; empty when all is well."""
    found = {}
    for room in ROOMS:
        spec = importlib.util.find_spec(room)
        origin = Path(spec.origin).resolve() if spec and spec.origin else None
        if origin != HOME / room / "__init__.py":
            found[room] = str(origin) if origin else "nowhere (the package is missing)"
    return found


def main() -> int:
    if found := intruders():
        for room, place in found.items():
            print(
                f"assay: the package {room!r} is found at {place}, not in {HOME}. Install Assay in "
                "an environment of its own (pipx, uv tool or tox), or take that folder off "
                "PYTHONPATH.",
                file=sys.stderr,
            )
        return 2
    from suites.cli import main as command

    return command(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
