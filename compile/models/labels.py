"""The names that a model's author gave its classes, from a transformers configuration."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def label_names(config: Mapping[str, Any]) -> tuple[str, ...]:
    """``id2label`` in the order of the logits; empty where nobody named the classes, which
    transformers writes as ``LABEL_0``, ``LABEL_1``, ..."""
    named = config.get("id2label")
    if not isinstance(named, Mapping):
        return ()
    names = tuple(str(named.get(str(k), named.get(k))) for k in range(len(named)))
    numbered = all(str(key) in map(str, range(len(named))) for key in named)
    unnamed = all(name == f"LABEL_{k}" for k, name in enumerate(names))
    return names if numbered and not unnamed else ()


def label_names_beside(path: Path) -> tuple[str, ...]:
    """Those of the ``config.json`` that exporters leave beside an ONNX file; empty without one."""
    try:
        config = json.loads((path.parent / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ()  # what else lies there under that name is nobody's mistake
    return label_names(config) if isinstance(config, dict) else ()
