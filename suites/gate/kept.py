"""A kept baseline: the artifacts of a release, and what has to be true before one is held to them.

DIR/baseline.json          what the cells were, and on what data
DIR/artifacts/KEY/...      each artifact as it was in the store

Nothing that was measured is judged later: the artifacts are measured again, beside the candidate.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compile.artifact import Artifact
from compile.errors import Corrupted, InputError

FILE = "baseline.json"
VERSION = 1


@dataclass(frozen=True)
class KeptBaseline:
    """A baseline folder that was read, its artifacts found whole."""

    folder: Path
    suite: str
    cells: Mapping[str, Mapping[str, Any]]
    """By cell id: ``label`` and ``artifact`` (its key)."""
    data: Mapping[str, str | None]
    """By model: the fingerprint of the task's data, None for a model without a task."""

    @classmethod
    def load(cls, folder: Path) -> KeptBaseline:
        """Raises InputError for a folder that holds no baseline, or whose artifacts are not what
        they were."""
        path = folder / FILE
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
            version = facts["version"]
        except FileNotFoundError:
            raise InputError(
                f"{folder} holds no baseline ({FILE} is missing); assay gate SUITE --keep {folder} "
                "makes one"
            ) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} cannot be read: {error}") from error
        if version != VERSION:
            raise InputError(f"{path} has version {version}, this Assay reads {VERSION}: keep anew")
        try:
            kept = cls(folder, facts["suite"], facts["cells"], facts["data"])
            keys = {cell["artifact"] for cell in kept.cells.values()}
            # A key names a folder: one with a separator in it would lead out of the baseline.
            if any(Path(key).name != key for key in keys):
                raise ValueError("an artifact's key is no folder's name")
            for key in sorted(keys):
                kept.artifact(key).verify()
        except (KeyError, TypeError, AttributeError, ValueError, Corrupted) as error:
            raise InputError(f"{path}: {error}; keep the baseline anew") from error
        return kept

    def artifact(self, key: str) -> Artifact:
        return Artifact.load(self.folder / "artifacts" / key)


def keep(
    folder: Path,
    suite: str,
    cells: Mapping[str, Mapping[str, Any]],
    data: Mapping[str, str | None],
    artifacts: Mapping[str, Artifact],
    facts: Mapping[str, Any],
) -> None:
    """Write a baseline folder in one rename, replacing an older baseline of the same suite.

    Raises InputError where the folder is something else.
    """
    if folder.exists():
        require_replaceable(folder, suite)
    draft = folder.with_name(f".{folder.name}-{uuid.uuid4().hex[:8]}")
    try:
        (draft / "artifacts").mkdir(parents=True)
        for key, artifact in artifacts.items():
            shutil.copytree(artifact.folder, draft / "artifacts" / key)
        written = {"version": VERSION, "suite": suite, "cells": cells, "data": data, **facts}
        (draft / FILE).write_text(json.dumps(written, indent=1, default=str) + "\n")
        if folder.exists():
            old = folder.with_name(f".{folder.name}-{uuid.uuid4().hex[:8]}")
            folder.rename(old)
            draft.rename(folder)
            shutil.rmtree(old, ignore_errors=True)
        else:
            draft.rename(folder)
    except OSError as error:
        raise InputError(f"{folder} cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def require_replaceable(folder: Path, suite: str) -> None:
    """Raise InputError unless the folder is empty or a baseline of that suite."""
    if not folder.is_dir():
        raise InputError(f"{folder} is a file; --keep wants a folder")
    if not any(folder.iterdir()):
        return
    try:
        kept = json.loads((folder / FILE).read_text(encoding="utf-8"))["suite"]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{folder} is not empty and holds no baseline; choose another") from None
    if kept != suite:
        raise InputError(f"{folder} holds the baseline of suite {kept!r}, not of {suite!r}")
