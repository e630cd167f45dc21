"""A torch module pruned block by block, each on what the pruned blocks before it hand on.

As SparseGPT does it: the statistics of a block's layers are those of a model whose earlier blocks
are pruned already, so that later layers make up for what earlier ones lost. A block is an entry of
the module's outermost list of layers (``encoder.layer.3``), or a linear layer outside of any.

The calibration examples run through the module once for each block, up to its end: for B equal
blocks (B + 1) / 2 forward passes of each example. One example's activations are held at a time, and
the Gram matrices of one block, 4 K^2 bytes for a layer of K inputs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compile.errors import Incorrect
from compile.models.model import Model
from compile.signature import Feeds
from quantize.audit import PassFailed
from quantize.half import torch_run
from quantize.weights import ATTENTION, Weights

Prune = Callable[[str, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""A layer's name, its float32 (out, in) weight and its inputs' (in, in) Gram matrix -> the pruned
weight and its mask, True where a weight stays."""


@dataclass
class Gram:
    """The mean of x'x over a layer's inputs, kept up so that float32 holds it however many come.

    By torch, as the module runs by torch: with NumPy in between, the thread pools of both would
    wait for each other on the same cores.
    """

    mean: Tensor
    """float32 (in, in)."""
    count: int = 0

    def add(self, values: Tensor) -> None:
        """(..., in) more inputs."""
        rows = values.flatten(0, -2)
        before, self.count = self.count, self.count + len(rows)
        if len(rows):
            self.mean.addmm_(rows.T, rows, beta=before / self.count, alpha=1 / self.count)


@dataclass
class Block:
    """Layers whose statistics are found in one run over the examples."""

    names: list[str] = field(default_factory=list)
    end: nn.Module | None = None
    """What is called next, where that is the first that is heard of it."""


def prune_in_order(
    name: str,
    model: Model,
    selection: Weights,
    examples: Callable[[], Iterable[Feeds]],
    prune: Prune,
) -> dict[str, np.ndarray]:
    """Prune the selected weights of ``model`` in place. Returns the masks by layer.

    ``name`` is the pass's. ``examples`` is asked once for each block, and once more for one example
    that shows the order. Raises PassFailed for a layer whose input is not seen, and Incorrect where
    one is not finite.
    """
    run = torch_run(model)
    masks: dict[str, np.ndarray] = {}
    for block in blocks_in_order(name, run, selection, examples):
        for layer, gram in _grams(name, run, selection, block, examples).items():
            matrix = selection.matrix(layer)
            pruned, masks[layer] = prune(layer, matrix.float().numpy(), gram.mean.numpy())
            matrix.copy_(torch.from_numpy(pruned))
    return masks


def blocks_in_order(
    name: str,
    run: Callable[[Feeds], Any],
    selection: Weights,
    examples: Callable[[], Iterable[Feeds]],
) -> list[Block]:
    """The blocks in the order in which an example comes to them."""
    calls: list[tuple[str, nn.Module]] = []

    def record(layer: str, module: nn.Module, _: Tensor) -> None:
        calls.append((layer, module))

    with _watching(selection, list(selection.linear), record):
        run(next(iter(examples())))
    for layer in selection.linear.keys() - {layer for layer, _ in calls}:
        _refuse(name, layer)
    blocks: dict[str, Block] = {}
    for place, (layer, _) in enumerate(calls):
        block = blocks.setdefault(block_of(layer), Block())
        if layer not in block.names:
            block.names.append(layer)
        block.end = None
        if place + 1 < len(calls):
            after = calls[place + 1][1]
            new = all(module is not after for _, module in calls[: place + 1])
            block.end = after if new else None
    return list(blocks.values())


def block_of(layer: str) -> str:
    """``encoder.layer.3.output.dense`` -> ``encoder.layer.3``; ``pooler.dense`` as it is."""
    parts = layer.split(".")
    for place, part in enumerate(parts):
        if part.isdigit():
            return ".".join(parts[: place + 1])
    return layer


def _grams(
    name: str,
    run: Callable[[Feeds], Any],
    selection: Weights,
    block: Block,
    examples: Callable[[], Iterable[Feeds]],
) -> dict[str, Gram]:
    """Of the inputs of a block's layers, over all examples."""
    widths = {layer: selection.matrix(layer).shape[1] for layer in block.names}
    found = {layer: Gram(torch.zeros(width, width)) for layer, width in widths.items()}

    def add(layer: str, _: nn.Module, values: Tensor) -> None:
        if not torch.isfinite(values).all():
            raise Incorrect(f"calibration: the input of {layer!r} is not finite")
        found[layer].add(values)

    def stop(*_: Any) -> None:
        raise _EndOfBlockError

    with _watching(selection, block.names, add), contextlib.ExitStack() as ended:
        if block.end is not None:
            ended.callback(block.end.register_forward_pre_hook(stop).remove)
        for feeds in examples():
            with contextlib.suppress(_EndOfBlockError):
                run(feeds)
    for layer, gram in found.items():
        if not gram.count:
            _refuse(name, layer)
    return found


class _EndOfBlockError(Exception):
    """The example has passed the block: the rest of the module need not run."""


@contextlib.contextmanager
def _watching(
    selection: Weights, layers: Iterable[str], see: Callable[[str, nn.Module, Tensor], None]
) -> Iterator[None]:
    """Tell ``see`` of each call of these layers: name, module and float32 (..., in) input."""
    with contextlib.ExitStack() as hooks:
        for name in layers:
            for module in selection.layers[name]:

                def hook(module: nn.Module, args: Any, kwargs: Any, name: str = name) -> None:
                    values = next(iter((*args, *kwargs.values())))
                    see(name, module, values.float())

                # Attention is called with more than its projections multiply.
                if not isinstance(module, nn.MultiheadAttention):
                    handle = module.register_forward_pre_hook(hook, with_kwargs=True)
                    hooks.callback(handle.remove)
        yield


def _refuse(name: str, layer: str) -> None:
    inside = layer.rpartition(".")[2] in ATTENTION or layer.endswith("out_proj")
    why = ": nn.MultiheadAttention multiplies by it without calling it" if inside else ""
    raise PassFailed(
        name,
        f"calibration of {layer!r}",
        "its input to be seen, or its name in exclude",
        f"no call of it{why}",
    )
