"""The door: checks that the rooms are Assay's own, then starts the command, or pytest's plugin.

The rooms have plain names (``compile``, ``reports``, ...). Another distribution, or a folder on
``PYTHONPATH``, may use one of them too; the command then stops here and names the intruder,
before any of its code is imported as ours.

It asserts nothing that pytest could explain, and may be imported before its plugin is asked for:
PYTEST_DONT_REWRITE.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

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


def refusals() -> list[str]:
    """A line for each intruder: where it is, and the way out."""
    return [
        f"assay: the package {room!r} is found at {place}, not in {HOME}. Install Assay in "
        "an environment of its own (pipx, uv tool or tox), or take that folder off PYTHONPATH."
        for room, place in intruders().items()
    ]


def main() -> int:
    if refused := refusals():
        print("\n".join(refused), file=sys.stderr)
        return 2
    from suites.cli import main as command

    return command(sys.argv[1:])


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("assay", "each cell of a suite as a test and a benchmark")
    group.addoption("--assay", metavar="SUITE", help="a shipped suite's name or a TOML file")
    group.addoption(
        "--assay-out",
        metavar="DIR",
        help="folder of the run, replaced if it holds one of this suite "
        "(default: assay-results/pytest/SUITE)",
    )
    group.addoption("--assay-only", metavar="GLOB", help="only cells whose label or axis matches")


def pytest_configure(config: pytest.Config) -> None:
    import pytest

    if config.getoption("assay") is None:
        for option in ("--assay-out", "--assay-only"):
            if config.getoption(option) is not None:
                raise pytest.UsageError(f"{option} belongs to --assay SUITE")
        return
    if refused := refusals():
        raise pytest.UsageError(refused[0])
    # Not before: whoever tests something else gets none of the rooms' plain names.
    from suites.pytest_plugin import SuiteTests

    config.pluginmanager.register(SuiteTests(config), "assay-suite")


if __name__ == "__main__":
    sys.exit(main())
