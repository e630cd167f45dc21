"""The environment of optimum-benchmark: it cannot share one with Assay's transformers.

    python -m scripts.peers.environment FOLDER

Makes it where it is missing or made from other pins. Its PyTorch backend imports a name that
transformers 5 no longer has, so ``constraints-peers.txt`` holds transformers 4.57.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

CONSTRAINTS = Path(__file__).resolve().parents[2] / "constraints-peers.txt"
WANTED = ("optimum-benchmark==0.6.0", "torch")
MADE_FROM = "made-from.txt"
"""In the environment's folder when it is whole: the pins that it was made from."""


def make(folder: Path) -> None:
    """Raises subprocess.CalledProcessError where pip fails, and FileExistsError for a folder that
    is no virtual environment: what else is somewhere is not removed."""
    pins = CONSTRAINTS.read_text()
    mark = folder / MADE_FROM
    if mark.is_file() and mark.read_text() == pins:
        return
    if folder.exists():
        if not (folder / "pyvenv.cfg").is_file():
            raise FileExistsError(
                f"{folder} is there and is no virtual environment (it has no pyvenv.cfg): name "
                "another folder"
            )
        shutil.rmtree(folder)
    venv.create(folder, with_pip=True)
    subprocess.run(
        [str(interpreter(folder)), "-m", "pip", "install", "--quiet", *WANTED],
        env={**os.environ, "PIP_CONSTRAINT": str(CONSTRAINTS)},
        check=True,
    )
    mark.write_text(pins)


def interpreter(folder: Path) -> Path:
    return folder / "bin" / "python"


if __name__ == "__main__":
    try:
        make(Path(sys.argv[1]))
    except FileExistsError as error:
        sys.exit(str(error))
