"""Artifacts and the content-addressed store that keeps them.

An artifact is a folder: the files that a step made, and ``manifest.json``, which says what they
are, where they came from and what their bytes hash to. Its key is a hash of everything that
decides those bytes: the step, its version, its parameters, the key of the artifact it started
from, the data it consumed, and the versions of the libraries that did the work. Asking for the
same thing twice therefore finds the first one, and asking for something else never does.

A folder appears in the store by one rename, so that a half-written one is never seen; builders
of the same key wait for one another; files that no longer match their hashes are built again.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock

from compile.errors import Corrupted, InputError
from compile.signature import Signature

SCHEMA = 1
MANIFEST = "manifest.json"
Kind = Literal["torch", "onnx"]


@dataclass(frozen=True)
class Step:
    """One transformation as asked for: everything, beside its input, that decides its result."""

    name: str
    version: int
    """Raised whenever the step's code would make other bytes from the same input."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    data: str = ""
    """Fingerprint of the batches that it calibrates or trains on; empty where it takes none."""
    libraries: tuple[str, ...] = ()
    """Distributions whose version matters to the result, for example ``("torch", "onnx")``."""

    def key(self, parent: Artifact | None) -> str:
        """The key of this step's result: 32 hexadecimal digits of a SHA-256."""
        material = {
            "schema": SCHEMA,
            "step": self.name,
            "version": self.version,
            "parameters": dict(self.parameters),
            "data": self.data,
            "libraries": self.library_versions(),
            "parent": parent.key if parent else None,
        }
        text = json.dumps(material, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def library_versions(self) -> dict[str, str]:
        return {name: importlib.metadata.version(name) for name in sorted(self.libraries)}


@dataclass(frozen=True)
class Made:
    """What a step says of the files that it has just written."""

    kind: Kind
    signature: Signature
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What was measured while making it (nodes matched, bytes saved, parity, loss curve):
    JSON values, shown in the report's lineage."""


@dataclass(frozen=True)
class LineageEntry:
    """One step of an artifact's history, oldest first."""

    key: str
    step: str
    version: int
    parameters: Mapping[str, Any]
    data: str
    libraries: Mapping[str, str]
    facts: Mapping[str, Any]
    seconds: float
    bytes: int


@dataclass(frozen=True)
class Artifact:
    """A finished folder of the store."""

    folder: Path
    key: str
    kind: Kind
    signature: Signature
    lineage: tuple[LineageEntry, ...]
    files: Mapping[str, Mapping[str, Any]]
    """Relative path -> ``{"sha256": ..., "bytes": ...}``."""

    @property
    def bytes(self) -> int:
        """Bytes of all files, the manifest aside."""
        return sum(entry["bytes"] for entry in self.files.values())

    @property
    def facts(self) -> Mapping[str, Any]:
        """What the last step measured."""
        return self.lineage[-1].facts

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of a classifier's classes in the order of its logits, as the model came with
        them; empty where it came with none."""
        return tuple(self.lineage[0].facts.get("labels", ())) if self.lineage else ()

    @classmethod
    def load(cls, folder: Path) -> Artifact:
        """Read a folder's manifest without checking its files (``verify`` does).

        Raises InputError where the folder holds no readable manifest.
        """
        try:
            data = json.loads((folder / MANIFEST).read_text())
            return cls(
                folder=folder,
                key=data["key"],
                kind=data["kind"],
                signature=Signature.from_json(data["signature"]),
                lineage=tuple(LineageEntry(**entry) for entry in data["lineage"]),
                files=data["files"],
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{folder} is not an artifact: {error}") from error

    def verify(self) -> None:
        """Hash every file against the manifest. Raises Corrupted at the first that differs."""
        for name, entry in self.files.items():
            path = self.folder / name
            if not path.is_file() or path.stat().st_size != entry["bytes"]:
                raise Corrupted(f"{path} is missing or has another size than its manifest says")
            if file_sha256(path) != entry["sha256"]:
                raise Corrupted(f"{path} does not hash to what its manifest says")


def require_writable(folder: Path) -> None:
    """Make the folder of a cache, or raise InputError saying how to put it elsewhere."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK | os.X_OK)
        why = "no permission"
    except OSError as error:
        writable, why = False, error.strerror or str(error)
    if not writable:
        raise InputError(f"{folder} cannot be written ({why}); ASSAY_HOME puts it elsewhere")


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Store:
    """A folder of artifacts by key, safe for any number of processes on one machine."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._verified: set[str] = set()

    @classmethod
    def default(cls) -> Store:
        """``$ASSAY_HOME/artifacts``; without the variable, in the user's cache folder."""
        home = os.environ.get("ASSAY_HOME")
        cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        return cls((Path(home) if home else Path(cache).expanduser() / "assay") / "artifacts")

    def require_writable(self) -> None:
        """Raise InputError where nothing can be stored, before anything is made."""
        require_writable(self.root)

    def get(self, key: str) -> Artifact | None:
        """The artifact of that key, its files verified once by this process; None if absent.

        A corrupted one counts as absent, so that ``derive`` builds it again.
        """
        folder = self.root / key
        if not (folder / MANIFEST).is_file():
            return None
        try:
            artifact = Artifact.load(folder)
            if key not in self._verified:
                artifact.verify()
                self._verified.add(key)
        except (Corrupted, InputError):
            return None
        return artifact

    def derive(self, step: Step, parent: Artifact | None, make: Callable[[Path], Made]) -> Artifact:
        """The result of ``step`` on ``parent``: found, or made by ``make`` in an empty folder.

        ``make`` writes its files into the folder that it is given and returns what they are.
        Whatever it raises passes through, and leaves nothing behind.
        """
        key = step.key(parent)
        if found := self.get(key):
            return found
        locks = self.root / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        with FileLock(locks / key):
            if found := self.get(key):
                return found
            draft = self.root / "drafts" / key
            # Under the lock, a draft that is already there was left by a builder that was killed.
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
            try:
                start = time.perf_counter()
                made = make(draft)
                _seal(draft, key, step, parent, made, time.perf_counter() - start)
                # Under the lock nobody else can have made it: what is there now is corrupted.
                shutil.rmtree(self.root / key, ignore_errors=True)
                draft.rename(self.root / key)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
        self._verified.add(key)
        return Artifact.load(self.root / key)


def _seal(
    draft: Path, key: str, step: Step, parent: Artifact | None, made: Made, seconds: float
) -> None:
    """Hash the files of a draft and write the manifest that makes it an artifact."""
    files: dict[str, dict[str, Any]] = {
        path.relative_to(draft).as_posix(): {
            "sha256": file_sha256(path),
            "bytes": path.stat().st_size,
        }
        for path in sorted(draft.rglob("*"))
        if path.is_file()
    }
    entry = LineageEntry(
        key=key,
        step=step.name,
        version=step.version,
        parameters=dict(step.parameters),
        data=step.data,
        libraries=step.library_versions(),
        facts=dict(made.facts),
        seconds=round(seconds, 3),
        bytes=sum(item["bytes"] for item in files.values()),
    )
    lineage = (*(parent.lineage if parent else ()), entry)
    manifest = {
        "schema": SCHEMA,
        "key": key,
        "kind": made.kind,
        "signature": made.signature.to_json(),
        "lineage": [asdict(item) for item in lineage],
        "files": files,
    }
    (draft / MANIFEST).write_text(json.dumps(manifest, indent=1, allow_nan=False))
