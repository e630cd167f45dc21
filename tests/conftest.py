"""What the tests of several rooms need."""

from __future__ import annotations

import sys
import venv
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest


@pytest.fixture
def environment(tmp_path: Path) -> Callable[..., Path]:
    """Makes another environment, ``tmp_path / "other"``, and gives its interpreter.

    ``packages`` are links to this environment's; nothing else of it can be seen from there.
    ``versions`` are those that the other environment says it has of its distributions.
    """

    def make(*packages: str, **versions: str) -> Path:
        folder = tmp_path / "other"
        venv.create(folder, with_pip=False)
        python = f"python{sys.version_info.major}.{sys.version_info.minor}"
        site_packages = folder / "lib" / python / "site-packages"
        for package in packages:
            spec = find_spec(package)
            assert spec is not None
            assert spec.origin is not None
            installed = Path(spec.origin).parent
            # Wheels keep the shared libraries that they bring in a folder beside the package.
            for part in (installed, installed.with_name(f"{package}.libs")):
                if part.exists():
                    (site_packages / part.name).symlink_to(part)
        for name, version in versions.items():
            about = site_packages / f"{name}-{version}.dist-info"
            about.mkdir()
            (about / "METADATA").write_text(
                f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
            )
        return folder / "bin" / "python"

    return make
