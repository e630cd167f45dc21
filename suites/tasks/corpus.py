"""The standard library of the running interpreter as a corpus of real text.

Every machine that can run Assay has it: about six hundred modules and ten megabytes of code and
prose, under a licence that allows it. It is split by module, never by line, and the splits hold
fixed shares of the bytes whatever modules this Python has: modules are put in the order of a hash
of their path, and the test split is the first 16 % of the bytes in that order, calibration the
next 4 %, train the rest.

Left out, because not every installation has them or because nobody wrote them: test packages,
third-party packages, build configuration, the character tables made by ``gencodec.py`` and
pydoc's topic dump.
"""

from __future__ import annotations

import hashlib
import io
import platform
import sys
import sysconfig
import tokenize
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from compile.errors import Unsupported

VERSION = 1
"""Raised whenever the same files would give another corpus or other splits."""

Split = Literal["train", "calibration", "test"]
TEST_SHARE = 0.16
CALIBRATION_SHARE = 0.04
MINIMUM_BYTES = 4_000_000
"""A standard library smaller than this cannot fill the test splits that the tasks promise."""

_LEFT_OUT = frozenset({"test", "tests", "idle_test", "site-packages", "dist-packages"})
_GENERATED = frozenset({"pydoc_data", "__phello__", "__pycache__"})
_GENERATOR_MARK = b"gencodec.py"


@dataclass(frozen=True)
class Module:
    """One source file: its path below the library's folder with ``/``, its text and its split."""

    path: str
    text: str
    split: Split


@dataclass(frozen=True)
class Corpus:
    """All modules in the order of their paths."""

    modules: tuple[Module, ...]
    fingerprint: str
    """SHA-256 over the paths, the bytes of the files and the Python version."""

    def split(self, name: Split) -> tuple[Module, ...]:
        return tuple(module for module in self.modules if module.split == name)


def standard_library(root: Path | None = None) -> Corpus:
    """The corpus of the interpreter that runs this, or of another library folder.

    Raises Unsupported where the library is not there as source files (an interpreter that ships
    it as a zip archive).
    """
    root = root or Path(sysconfig.get_path("stdlib"))
    sources = {path: (root / path).read_bytes() for path in _module_paths(root)}
    texts = {path: text for path, source in sources.items() if (text := _decode(source))}
    size = sum(len(sources[path]) for path in texts)
    if size < MINIMUM_BYTES:
        raise Unsupported(
            f"the standard library in {root} holds {size:,} bytes of source, fewer than the "
            f"{MINIMUM_BYTES:,} that the embedded data needs; use a Python that ships it as "
            "files, or give the task your own data"
        )
    splits = assign_splits({path: len(sources[path]) for path in texts})
    return Corpus(
        modules=tuple(Module(path, texts[path], splits[path]) for path in sorted(texts)),
        fingerprint=_fingerprint((path, sources[path]) for path in sorted(texts)),
    )


def assign_splits(sizes: dict[str, int]) -> dict[str, Split]:
    """Path -> split. A module belongs where its first byte falls in the hashed order, so that a
    split misses its share by at most one module."""
    total = sum(sizes.values())
    splits: dict[str, Split] = {}
    start = 0
    for path in sorted(sizes, key=lambda path: hashlib.sha256(path.encode()).digest()):
        share = start / total
        if share < TEST_SHARE:
            splits[path] = "test"
        elif share < TEST_SHARE + CALIBRATION_SHARE:
            splits[path] = "calibration"
        else:
            splits[path] = "train"
        start += sizes[path]
    return splits


def _module_paths(root: Path) -> Iterable[str]:
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        top = relative.parts[0].removesuffix(".py")
        if top not in sys.stdlib_module_names or not path.is_file():
            continue
        if (_LEFT_OUT | _GENERATED).isdisjoint(relative.parts):
            yield relative.as_posix()


def _decode(source: bytes) -> str | None:
    """The text with ``\\n`` line ends, or None for what nobody wrote or cannot be decoded."""
    if _GENERATOR_MARK in source[:400]:
        return None
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(source).readline)
        text = source.decode(encoding)
    except (SyntaxError, UnicodeDecodeError):
        return None
    return text.replace("\r\n", "\n")


def _fingerprint(files: Iterable[tuple[str, bytes]]) -> str:
    digest = hashlib.sha256(f"corpus {VERSION} python {platform.python_version()}\n".encode())
    for path, source in files:
        digest.update(f"{path} {hashlib.sha256(source).hexdigest()}\n".encode())
    return digest.hexdigest()
