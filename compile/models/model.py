"""A torch module with what is known of it, and the folder that it is kept in.

The folder of a ``torch`` artifact:

    origin.json          name, task, signature, and the JSON from which the module is rebuilt
    model.safetensors    its weights and persistent buffers; what is shared is written once
    examples.npz         the user's example inputs, where there are any

Weights are read by safetensors alone, which cannot execute anything. The only code that loading
runs outside of Assay and its libraries is a user's file, where the origin names one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from torch.overrides import TorchFunctionMode

from compile.artifact import Made
from compile.errors import Corrupted, InputError
from compile.models.adapter import Adapter
from compile.models.config import TransformerConfig
from compile.models.fp8 import put_fp8, take_fp8
from compile.signature import Feeds, Signature, TensorSpec

ORIGIN = "origin.json"
WEIGHTS = "model.safetensors"
EXAMPLES = "examples.npz"


@dataclass(frozen=True)
class Model:
    """A module in evaluation mode that takes its signature's inputs as positional tensors and
    returns a tuple of its outputs."""

    name: str
    module: nn.Module
    signature: Signature
    task: str | None
    """Name of its task on the model hub (``text-classification``), or None where nobody said."""
    origin: dict[str, Any]
    """What rebuilds the module, weights aside: ``family`` and that family's settings."""
    examples: Feeds | None = None

    @property
    def inner(self) -> nn.Module:
        """The module as its author made it: its weights are known by the names that it gives."""
        return self.module.inner if isinstance(self.module, Adapter) else self.module

    def to(self, dtype: torch.dtype) -> Model:
        """The same model with floating weights, inputs and outputs of another type (in place)."""
        name = str(dtype).removeprefix("torch.")

        def cast(specs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
            return tuple(replace(s, dtype=name) if "float" in s.dtype else s for s in specs)

        signature = replace(
            self.signature,
            inputs=cast(self.signature.inputs),
            outputs=cast(self.signature.outputs),
        )
        return replace(self, module=self.module.to(dtype), signature=signature)


def transformer_model(
    name: str, config: TransformerConfig, *, task: str | None = None, seed: int = 0
) -> Model:
    """A new transformer with random weights, the same for the same seed."""
    from compile.models.transformer import Transformer

    with torch.device("meta"):
        module = Transformer(config)
    module.to_empty(device="cpu").initialise(seed)
    origin = {"family": "transformer", "config": config.to_json()}
    return Model(name, module.eval(), config.signature(), task or config.task, origin)


def save_model(model: Model, folder: Path, facts: Mapping[str, Any] | None = None) -> Made:
    """Write the model into ``folder`` as a torch artifact's files.

    Returns what ``Store.derive`` wants to know; ``facts`` are joined by the parameters' count.
    """
    _save_weights(model.inner, folder / WEIGHTS)
    if model.examples is not None:
        np.savez(folder / EXAMPLES, allow_pickle=False, **model.examples)
    description = {
        "name": model.name,
        "task": model.task,
        "signature": model.signature.to_json(),
        "origin": model.origin,
    }
    (folder / ORIGIN).write_text(json.dumps(description, indent=1, allow_nan=False))
    count = sum(parameter.numel() for parameter in model.module.parameters())
    return Made("torch", model.signature, {"parameters": count, **(facts or {})})


def load_model(folder: Path) -> Model:
    """The model kept in ``folder``, on the CPU, its weights in the type that they were saved in.

    The module is built without initialising it. Raises InputError where the folder holds no
    model, and Corrupted where its weights are not those of the module that its origin describes.
    """
    try:
        data = json.loads((folder / ORIGIN).read_text())
        origin, signature = data["origin"], Signature.from_json(data["signature"])
        name, task, family = data["name"], data["task"], origin["family"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder} holds no torch model: {error}") from error
    return Model(
        name=name,
        module=_rebuild(family, origin, signature, folder).eval(),
        signature=signature,
        task=task,
        origin=origin,
        examples=_load_examples(folder / EXAMPLES),
    )


def _rebuild(family: str, origin: dict[str, Any], signature: Signature, folder: Path) -> nn.Module:
    # Imported here: each family brings libraries that the others do not need.
    if family == "transformer":
        from compile.models.transformer import Transformer

        with torch.device("meta"), _WithoutInitialisation():
            module = Transformer(TransformerConfig.from_json(origin["config"]))
        load_weights(module, folder / WEIGHTS)
        return module
    if family == "hub":
        from compile.models.hub import rebuild_hub

        return rebuild_hub(origin, signature, folder)
    if family == "user":
        from compile.models.user import rebuild_user

        return rebuild_user(origin, signature, folder / WEIGHTS)
    raise InputError(f"{folder}: unknown family {family!r} of models")


class _WithoutInitialisation(TorchFunctionMode):
    """Leaves tensors as they are where a module would draw their first values.

    Drawing them on the meta device has no effect but to import torch's compiler, which takes
    longer than everything else that opening a small model does.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in ("normal_", "uniform_", "trunc_normal_"):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def _save_weights(module: nn.Module, path: Path) -> None:
    """Write a module's state; names that share one tensor are listed in the file's metadata."""
    tensors: dict[str, torch.Tensor] = {}
    aliases: dict[str, str] = {}
    first: dict[tuple[Any, ...], str] = {}
    storages: set[int] = set()
    for name, tensor in module.state_dict().items():
        storage = tensor.untyped_storage().data_ptr()
        place = (storage, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and place in first:
            aliases[name] = first[place]
            continue
        first[place] = name
        # Two different views of one storage are both written whole.
        tensors[name] = (tensor.clone() if storage in storages else tensor).contiguous()
        storages.add(storage)
    save_file(tensors, path, metadata={"format": "pt", "aliases": json.dumps(aliases)})


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """A saved state by name; names that shared one tensor share it again.

    Raises Corrupted for a file that cannot be read.
    """
    try:
        with safe_open(path, framework="pt") as file:
            state: dict[str, torch.Tensor] = {n: file.get_tensor(n) for n in file.keys()}  # noqa: SIM118
            aliases = json.loads((file.metadata() or {}).get("aliases", "{}"))
        return state | {name: state[source] for name, source in aliases.items()}
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise Corrupted(f"{path} does not hold weights: {error}") from error


def load_weights(module: nn.Module, path: Path) -> None:
    """Put the state in ``path`` in place of the module's own, which may be on the meta device.

    Raises Corrupted for a file that cannot be read or belongs to another module.
    """
    state, packed = take_fp8(read_weights(path))
    # One Parameter object for all names that share a tensor keeps them shared.
    parameters: dict[int, nn.Parameter] = {}
    for name, _ in module.named_parameters(remove_duplicate=False):
        if (tensor := state.get(name)) is not None:
            state[name] = parameters.setdefault(
                id(tensor), nn.Parameter(tensor, tensor.is_floating_point())
            )
    try:
        module.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise Corrupted(f"{path} does not hold the weights of its model: {reason}") from error
    put_fp8(module, packed)


def _load_examples(path: Path) -> Feeds | None:
    if not path.exists():
        return None
    with np.load(path, allow_pickle=False) as file:
        return dict(file)
