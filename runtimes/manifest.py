"""Read an artifact's manifest without ``compile.artifact``.

That module needs ``filelock``, which a runtime's own environment need not have.
"""

from __future__ import annotations

import json
from pathlib import Path

from compile.errors import InputError
from compile.signature import Signature


def read_signature(folder: str) -> Signature:
    """The signature in the manifest. Raises InputError where the folder holds no readable one."""
    try:
        manifest = json.loads((Path(folder) / "manifest.json").read_text())
        return Signature.from_json(manifest["signature"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder} is not an artifact: {error}") from error
