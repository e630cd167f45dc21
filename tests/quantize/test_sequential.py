"""Pruning of a torch module in the order in which its layers are called."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

from compile.errors import Incorrect
from compile.models.model import Model
from compile.signature import Feeds, Signature, TensorSpec
from quantize.audit import PassFailed
from quantize.half import torch_run
from quantize.pruning.sequential import Gram, block_of, blocks_in_order, prune_in_order
from quantize.weights import linear_weights

WIDTH = 6


class Stacked(nn.Module):
    """Two blocks of two layers and a head, registered in another order than they are called in."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(WIDTH, 3)
        self.layers = nn.ModuleList(
            nn.ModuleDict({"b": nn.Linear(WIDTH, WIDTH), "a": nn.Linear(WIDTH, WIDTH)})
            for _ in range(2)
        )

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        for layer in self.layers:
            x = x + layer["b"](torch.relu(layer["a"](x)))
        return (self.head(x),)


def as_model(module: nn.Module, width: int = WIDTH) -> Model:
    signature = Signature(
        (TensorSpec("x", "float32", ("batch", "sequence", width)),),
        (TensorSpec("y", "float32", ("batch", "sequence", 3)),),
    )
    return Model("test", module.eval(), signature, None, {})


def examples(count: int = 5, width: int = WIDTH) -> Iterator[Feeds]:
    for seed in range(count):
        random = np.random.default_rng(seed)
        yield {"x": random.standard_normal((1, 2 + seed, width)).astype(np.float32)}


def halved(weight: np.ndarray) -> np.ndarray:
    kept = np.ones(weight.shape, bool)
    kept[:, ::2] = False
    return kept


@torch.no_grad()
def test_statistics_are_those_of_a_model_whose_earlier_blocks_are_pruned() -> None:
    model = as_model(Stacked())
    seen: dict[str, np.ndarray] = {}

    def prune(name: str, weight: np.ndarray, gram: np.ndarray):
        seen[name] = gram.copy()
        return weight * halved(weight), halved(weight)

    selection = linear_weights(model.module, ())
    masks = prune_in_order("prune", model, selection, examples, prune)
    assert list(seen) == ["layers.0.a", "layers.0.b", "layers.1.a", "layers.1.b", "head"]
    assert all(np.array_equal(mask, halved(mask)) for mask in masks.values())

    def gram_of(inputs: list[torch.Tensor]) -> np.ndarray:
        rows = torch.cat([x.flatten(0, 1) for x in inputs]).double()
        return (rows.T @ rows / len(rows)).numpy()

    # By hand: the first block with its own weights, then with pruned ones, and so on.
    dense, pruned = Stacked(), model.module
    xs = [torch.from_numpy(feeds["x"]) for feeds in examples()]
    want = {"layers.0.a": gram_of(xs)}
    want["layers.0.b"] = gram_of([torch.relu(dense.layers[0]["a"](x)) for x in xs])
    first = pruned.layers[0]
    xs = [x + first["b"](torch.relu(first["a"](x))) for x in xs]
    want["layers.1.a"] = gram_of(xs)
    want["layers.1.b"] = gram_of([torch.relu(dense.layers[1]["a"](x)) for x in xs])
    second = pruned.layers[1]
    want["head"] = gram_of([x + second["b"](torch.relu(second["a"](x))) for x in xs])
    for name, expected in want.items():
        np.testing.assert_allclose(seen[name], expected, atol=1e-5)


def test_each_block_runs_no_further_than_its_end() -> None:
    """Three blocks, five examples: the head is computed for its own statistics alone, and once to
    see the order."""
    model = as_model(Stacked())
    calls = dict.fromkeys(("layers.0.a", "layers.1.a", "head"), 0)
    for name in calls:

        def count(*_: object, name: str = name) -> None:
            calls[name] += 1

        model.module.get_submodule(name).register_forward_hook(count)
    with torch.no_grad():
        prune_in_order(
            "prune",
            model,
            linear_weights(model.module, ()),
            examples,
            lambda name, weight, gram: (weight, np.ones(weight.shape, bool)),
        )
    assert calls == {"layers.0.a": 1 + 3 * 5, "layers.1.a": 1 + 2 * 5, "head": 1 + 5}


def test_a_block_called_again_later_is_not_cut_short() -> None:
    class Shared(nn.Module):
        """As ALBERT: one block, three times over."""

        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(WIDTH, WIDTH)])
            self.between = nn.Linear(WIDTH, WIDTH)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            for _ in range(3):
                x = self.between(self.layers[0](x))
            return (x,)

    model = as_model(Shared())
    selection = linear_weights(model.module, ())
    blocks = blocks_in_order("prune", torch_run(model), selection, examples)
    assert [block.names for block in blocks] == [["layers.0"], ["between"]]
    seen: dict[str, np.ndarray] = {}

    def prune(name: str, weight: np.ndarray, gram: np.ndarray):
        seen[name] = gram.copy()
        return weight, np.ones(weight.shape, bool)

    with torch.no_grad():
        prune_in_order("prune", model, selection, examples, prune)
        rows = []
        for feeds in examples():
            x = torch.from_numpy(feeds["x"])
            for _ in range(3):
                rows.append(x.flatten(0, 1).double())
                x = model.module.between(model.module.layers[0](x))
    inputs = torch.cat(rows)
    np.testing.assert_allclose(seen["layers.0"], inputs.T @ inputs / len(inputs), atol=1e-5)


@pytest.mark.parametrize(
    ("layer", "block"),
    [
        ("layers.3.attention.query", "layers.3"),
        ("bert.encoder.layer.11.output.dense", "bert.encoder.layer.11"),
        ("transformer.h.0.mlp.c_fc", "transformer.h.0"),
        ("pooler.dense", "pooler.dense"),
        ("0", "0"),
    ],
)
def test_blocks_are_entries_of_the_outermost_list(layer: str, block: str) -> None:
    assert block_of(layer) == block


def test_layers_whose_input_is_not_seen_are_refused_by_name() -> None:
    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.MultiheadAttention(WIDTH, 2, batch_first=True)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return (self.mix(x, x, x)[0],)

    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(WIDTH, 3), nn.Linear(WIDTH, 3)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return (self.used(x),)

    for module, words in ((Attends(), "multiplies by it without calling"), (Idle(), "'idle'")):
        selection = linear_weights(module, ())
        with pytest.raises(PassFailed, match="or its name in exclude, found no call") as refused:
            blocks_in_order("prune", torch_run(as_model(module)), selection, examples)
        assert words in str(refused.value)


def test_inputs_that_are_not_finite_are_refused_by_name() -> None:
    model = as_model(Stacked())
    broken = [{"x": np.full((1, 2, WIDTH), np.nan, np.float32)}]
    with torch.no_grad(), pytest.raises(Incorrect, match=r"input of 'layers\.0\.a' is not finite"):
        prune_in_order(
            "prune",
            model,
            linear_weights(model.module, ()),
            lambda: broken,
            lambda name, weight, gram: (weight, weight != 0),
        )


def test_matrices_of_gpt2s_layers_are_turned() -> None:
    """``Conv1D`` keeps (in, out): rows of what pruning sees are outputs all the same."""
    from transformers.pytorch_utils import Conv1D

    module = nn.Sequential(Conv1D(5, WIDTH))
    selection = linear_weights(module, ())
    assert selection.matrix("0").shape == (5, WIDTH)
    selection.matrix("0")[2, 3] = 7
    assert module[0].weight[3, 2] == 7


def test_means_hold_however_many_inputs_come() -> None:
    gram = Gram(torch.zeros(3, 3))
    row = torch.tensor([[0.1, 0.2, 0.3]])
    gram.add(row[:0])
    for _ in range(20_000):
        gram.add(row)
    np.testing.assert_allclose(gram.mean, row.T @ row, rtol=1e-4)
    assert gram.count == 20_000
