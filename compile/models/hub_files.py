"""The files of a transformers model, found or downloaded without importing torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from compile.errors import InputError
from compile.models import zoo
from compile.models.resolve import HUB_PREFIX, Reference, resolve

TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
"""Where transformers says which token pads."""
_TOKENIZER_FILES = (TOKENIZER, TOKENIZER_CONFIG)
_MODEL_FILES = ("config.json", "*.safetensors", "*.safetensors.index.json")


def hub_folder(reference: Reference) -> Path:
    """A hub model's folder, or the local copy of the hub's files, its tokenizer among them.

    Raises InputError for a hub that does not give it.
    """
    return reference.path or _download(reference, (*_MODEL_FILES, *_TOKENIZER_FILES))


def model_tokenizer(source: str, base: Path) -> Path | None:
    """The ``tokenizer.json`` that came with a model: in its transformers folder, beside its ONNX
    file, or on the hub. None where none did; a model of the zoo or of a function has none.

    ``source`` and ``base`` are as ``resolve`` takes them. Raises InputError for a model that does
    not exist.
    """
    if source in zoo.ZOO:
        return None
    found = resolve(source, base=base)
    if found.family == "hub":
        folder = found.path or _download(found, _TOKENIZER_FILES)
    elif found.family == "onnx" and found.path is not None:
        folder = found.path.parent
    else:
        return None
    return folder / TOKENIZER if (folder / TOKENIZER).is_file() else None


def _download(reference: Reference, patterns: Sequence[str]) -> Path:
    """The hub's files, from the local cache where they are there already."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    name = reference.text.removeprefix(HUB_PREFIX)
    try:
        return Path(snapshot_download(name, allow_patterns=list(patterns)))
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"model {reference.text!r}: no such folder here, and the model hub does not give it: "
            f"{reason}"
        ) from error
