"""What brings a module of somebody else's to the contract of ``Model``: positional tensors in the
order of the signature, a tuple of tensors out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from compile.parity import resize
from compile.signature import Feeds, TensorSpec


class Adapter(nn.Module):
    """``inner`` is the module itself: its weights are kept under its own names."""

    inner: nn.Module


class KeywordAdapter(Adapter):
    """Calls a module with keywords and brings what it returns into a tuple of tensors."""

    def __init__(self, inner: nn.Module, names: tuple[str, ...], **constants: object) -> None:
        """``names`` are the inputs in their order, ``constants`` further keywords of each call."""
        super().__init__()
        self.inner = inner
        self.names = names
        self.constants = constants

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.named(*inputs).values())

    def named(self, *inputs: Tensor) -> dict[str, Tensor]:
        """The outputs by name, in the order in which ``forward`` returns them."""
        keywords = dict(zip(self.names, inputs, strict=True))
        return named_outputs(self.inner(**keywords, **self.constants))


def named_outputs(returned: Any) -> dict[str, Tensor]:
    """What a module returned, by name: ``output``, ``output_0``, ``output_1`` ..., or its keys.

    Entries that are None are left out. Raises TypeError for anything else than tensors.
    """
    if isinstance(returned, Mapping):
        found = {str(name): value for name, value in returned.items() if value is not None}
    elif isinstance(returned, tuple | list):
        found = {f"output_{index}": value for index, value in enumerate(returned)}
    else:
        found = {"output": returned}
    for name, value in found.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"its {name} is a {type(value).__name__}, not a tensor")
    if not found:
        raise TypeError("it returned no output")
    return found


def observe_outputs(
    call: Callable[[Feeds, str], dict[str, Tensor]],
    inputs: tuple[TensorSpec, ...],
    examples: Feeds,
) -> tuple[TensorSpec, ...]:
    """Names, types and shapes of the outputs: an axis that follows an input's axis has its name.

    Found by trying: ``call`` is given the examples, then the examples with each named axis
    resized in turn, and in words what is being tried.
    """
    sizes = {
        axis: size
        for spec in inputs
        for axis, size in zip(spec.shape, examples[spec.name].shape, strict=True)
        if isinstance(axis, str)
    }
    first = call(examples, "its own inputs")
    shapes: dict[str, list[int | str]] = {name: list(v.shape) for name, v in first.items()}
    for axis, size in sizes.items():
        # A batch may always grow; any other axis may be at its limit already.
        other = 2 * size if axis == "batch" or size == 1 else size // 2
        feeds = {s.name: resize(examples[s.name], s, {**sizes, axis: other}) for s in inputs}
        for name, value in call(feeds, f"{axis} = {other}").items():
            for place, found in enumerate(value.shape):
                if found != first[name].shape[place]:
                    shapes[name][place] = axis
    return tuple(
        TensorSpec(name, str(value.dtype).removeprefix("torch."), tuple(shapes[name]))
        for name, value in first.items()
    )


def run_named(adapter: KeywordAdapter, feeds: Feeds) -> dict[str, Tensor]:
    """One call with arrays, outputs by name."""
    with torch.inference_mode():
        return adapter.named(*(torch.from_numpy(feeds[name]) for name in adapter.names))
