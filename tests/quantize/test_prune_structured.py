"""Heads and columns cut out of a transformer: the right ones, and nothing else changed."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from compile.artifact import Artifact, Store
from compile.data import Batch, fitted, with_empty_caches
from compile.errors import InputError, Unsupported
from compile.models.config import TransformerConfig
from compile.models.model import load_model, save_model, transformer_model
from compile.training import forward
from quantize.audit import PassFailed
from quantize.build import build
from quantize.passes import PruneStructured
from quantize.prune_structured import Kept, cut, masked, most_important, smaller_config
from quantize.pruning.importance import Importance, measure_importance
from quantize.recipe import recipe_from_table

SMALL = {"vocabulary": 40, "max_sequence": 32, "width": 32, "layers": 2, "ffn": 48}
ENCODER = TransformerConfig(
    "encoder", **SMALL, heads=4, kv_heads=4, segments=2, classes=3, initial_std=0.3
)
DECODER = TransformerConfig(
    "decoder",
    **SMALL,
    heads=4,
    kv_heads=2,
    position="rotary",
    norm="rmsnorm",
    norm_first=True,
    activation="swiglu",
    bias=False,
    head="causal-lm",
    initial_std=0.3,
)
QUICK = {"examples": 4, "steps": 3, "batch_size": 4}


def recipe(*after: dict, **parameters):
    first = {"pass": "prune_structured", **QUICK, **parameters}
    return recipe_from_table("r", {"passes": [first, *after]}, "test")


def quiet(_: str) -> None:
    pass


def put(config: TransformerConfig, store: Store) -> Artifact:
    from compile.artifact import Step

    model = transformer_model("tiny", config)
    step = Step("test", 1, {"config": config.to_json()})
    return store.derive(step, None, lambda folder: save_model(model, folder))


class Tokens:
    """Random tokens; a decoder is asked for the next one, its caches are empty."""

    def __init__(self, config: TransformerConfig) -> None:
        self.signature = config.signature()
        self.labels = config.classes or config.vocabulary
        self.by_token = config.kind == "decoder"
        self.fingerprint = "tokens"

    def calibration_examples(self, most: int) -> int:
        return most

    def calibration(self, examples: int) -> Iterator[dict[str, np.ndarray]]:
        for seed in range(examples):
            yield self.signature.feeds({"batch": 1, "sequence": 3 + seed % 5}, seed)

    def training(self, batch_size: int, seed: int) -> Iterator[Batch]:
        while True:
            feeds = self.signature.feeds({"batch": batch_size, "sequence": 7}, seed)
            tokens = feeds["input_ids"] % self.labels
            yield Batch(feeds, np.roll(tokens, -1, 1) if self.by_token else tokens[:, 0])
            seed += 1


@pytest.mark.parametrize("config", [ENCODER, DECODER], ids=lambda c: c.kind)
def test_cut_module_equals_the_masked_one(config: TransformerConfig) -> None:
    whole = transformer_model("tiny", config)
    small_config = smaller_config(config, PruneStructured(heads=0.5, ffn=0.6, multiple=8))
    # Others in each layer, and not the first ones.
    kept = Kept(
        [
            torch.arange(config.kv_heads)[-small_config.kv_heads :],
            torch.tensor([0, 2][: small_config.kv_heads]),
        ],
        [torch.arange(5, 5 + small_config.ffn), torch.arange(small_config.ffn) * 2],
    )
    small = cut(whole, small_config, kept)
    reference = masked(whole.module, kept)
    for feeds in Tokens(config).calibration(6):
        with torch.inference_mode():
            want = forward(reference, feeds)[0]
            have = forward(small.module, with_empty_caches(feeds, small.signature))[0]
            dense = forward(whole.module, feeds)[0]
        assert (want - have).abs().max() <= 1e-5 * want.abs().max()
        assert (want - dense).abs().max() > 1e-2 * want.abs().max()
    # Smaller in fact: parameters are those of the new shape alone.
    count = sum(p.numel() for p in small.module.parameters())
    assert count < sum(p.numel() for p in whole.module.parameters())
    assert small.module.layers[0].feed_forward.up.weight.shape == (small_config.ffn, 32)
    assert small.module.layers[0].attention.query.weight.shape == (small_config.heads * 8, 32)


@pytest.mark.parametrize("config", [ENCODER, DECODER], ids=lambda c: c.kind)
def test_importance_is_the_derivative_of_a_gate(config: TransformerConfig) -> None:
    """By finite differences in float64: each head's and column's part of the reading matrix is
    scaled up and down a little."""
    module = transformer_model("tiny", config).module.double()
    data = Tokens(config)
    found = measure_importance(module, data, 3, seed=0)
    batches = [batch for _, batch in zip(range(3), data.training(1, 0), strict=False)]
    step = 1e-3

    def slope(layer: int, part: str, inputs: slice) -> float:
        total = 0.0
        for batch in batches:
            losses = []
            for scale in (1 + step, 1 - step):
                gated = copy.deepcopy(module)
                with torch.no_grad():
                    gated.layers[layer].get_submodule(part).weight[:, inputs] *= scale
                    logits = forward(gated, batch.feeds)[0].flatten(0, -2)
                    labels = torch.from_numpy(batch.labels).flatten()
                    losses.append(float(nn.functional.cross_entropy(logits, labels)))
            total += abs(losses[0] - losses[1]) / (2 * step)
        return total / len(batches)

    group = config.head_size * config.heads // config.kv_heads
    for layer in range(config.layers):
        for head in range(config.kv_heads):
            want = slope(layer, "attention.output", slice(head * group, (head + 1) * group))
            assert found.heads[layer, head] == pytest.approx(want, rel=1e-3, abs=1e-5)
        for column in (0, 7, 47):
            want = slope(layer, "feed_forward.down", slice(column, column + 1))
            assert found.columns[layer, column] == pytest.approx(want, rel=1e-3, abs=1e-5)


def test_the_most_important_stay_in_their_order() -> None:
    importance = Importance(
        torch.tensor([[1.0, 4, 2, 3], [9, 1, 1, 8]]), torch.arange(96.0).reshape(2, 48)
    )
    kept = most_important(importance, smaller_config(ENCODER, PruneStructured(ffn=0.7)))
    assert [h.tolist() for h in kept.heads] == [[1, 3], [0, 3]]
    assert [c.tolist() for c in kept.columns] == [list(range(32, 48))] * 2


@pytest.mark.parametrize(
    ("asked", "heads", "kv_heads", "ffn"),
    [
        ({}, 2, 1, 32),
        ({"heads": 0}, 4, 2, 32),
        ({"ffn": 0}, 2, 1, 48),
        ({"heads": 0.9, "ffn": 0.99}, 2, 1, 16),
        ({"multiple": 8}, 2, 1, 24),
        ({"multiple": 100, "heads": 0.5}, 2, 1, 48),
    ],
)
def test_sizes_are_whole_heads_and_multiples_of_columns(
    asked: dict, heads: int, kv_heads: int, ffn: int
) -> None:
    config = smaller_config(DECODER, PruneStructured(**asked))
    assert (config.heads, config.kv_heads, config.ffn) == (heads, kv_heads, ffn)
    assert config.head_size == DECODER.head_size


def test_nothing_to_remove_is_an_error() -> None:
    with pytest.raises(PassFailed, match="as many as before: 2 key/value heads and 48 columns"):
        smaller_config(DECODER, PruneStructured(heads=0.1, ffn=0.01))
    with pytest.raises(InputError, match="heads = 0 and ffn = 0 leave nothing to remove"):
        recipe(heads=0.0, ffn=0.0)


@pytest.mark.parametrize("config", [ENCODER, DECODER], ids=lambda c: c.kind)
def test_pass_makes_a_smaller_module_and_says_what_it_kept(
    config: TransformerConfig, store: Store
) -> None:
    source, data = put(config, store), Tokens(config)
    built = build(recipe(), source, "torch", store, data, quiet)
    module, facts = load_model(built.folder).module, built.facts
    kv = config.kv_heads // 2
    assert (module.config.kv_heads, module.config.ffn) == (kv, 32)
    assert facts["parameters"] == sum(p.numel() for p in module.parameters())
    assert facts["parameters_before"] == source.facts["parameters"]
    assert [len(heads) for heads in facts["kv_heads_kept"]] == [kv, kv]
    assert facts["cut_difference"] <= 1e-5
    assert len(facts["loss_curve"]) == QUICK["steps"]
    assert all(0.3 < share <= 1 for share in facts["ffn_importance_kept"])
    bare = build(recipe(steps=0), source, "torch", store, data, quiet)
    assert "loss_curve" not in bare.facts
    cutting = bare.facts["kv_heads_kept"], load_model(bare.folder).module
    importance = measure_importance(load_model(source.folder).module, data, 4, seed=0)
    kept = most_important(importance, module.config)
    assert cutting[0] == [heads.tolist() for heads in kept.heads]
    want = cut(load_model(source.folder), module.config, kept).module.state_dict()
    for name, value in cutting[1].state_dict().items():
        assert torch.equal(value, want[name])


def test_recovery_brings_it_closer_to_the_whole_model(store: Store) -> None:
    source, data = put(ENCODER, store), Tokens(ENCODER)
    teacher = load_model(source.folder).module

    def distance(steps: int) -> float:
        asked = recipe(steps=steps, batch_size=16, alpha=1.0, lr=3e-3)
        module = load_model(build(asked, source, "torch", store, data, quiet).folder).module
        with torch.inference_mode():
            pairs = [(forward(teacher, f)[0], forward(module, f)[0]) for f in data.calibration(16)]
        return float(np.mean([(a.softmax(-1) - b.softmax(-1)).abs().sum() for a, b in pairs]))

    assert distance(40) < 0.6 * distance(0)


def test_later_passes_calibrate_and_train_on_the_caches_that_are_left(store: Store) -> None:
    """A decoder with half of its key/value heads takes other inputs than the data were made for."""
    source, data = put(DECODER, store), Tokens(DECODER)
    wanda = {"pass": "prune", "method": "wanda", "steps": 2, "batch_size": 2, "examples": 4}
    static = {"pass": "int8", "mode": "static", "examples": 4}
    built = build(recipe(wanda, static), source, "onnx", store, data, quiet)
    assert [entry.step for entry in built.lineage] == [
        "test",
        "prune_structured",
        "prune",
        "export",
        "int8",
    ]
    caches = [s for s in built.signature.inputs if "past" in s.shape]
    assert {spec.shape[1] for spec in caches} == {1}
    assert {s.shape[1] for s in source.signature.inputs if "past" in s.shape} == {2}


def test_data_are_fitted_only_where_there_are_caches() -> None:
    data = Tokens(ENCODER)
    assert fitted(data, ENCODER.signature()) is data
    small = smaller_config(DECODER, PruneStructured()).signature()
    narrow = fitted(Tokens(DECODER), small)
    assert narrow.fingerprint == "tokens"
    assert narrow.calibration_examples(7) == 7
    feeds, batch = next(narrow.calibration(1)), next(narrow.training(5, 0))
    for found, rows in ((feeds, 1), (batch.feeds, 5)):
        assert list(found) == [spec.name for spec in small.inputs]
        assert found["past_key_values.1.value"].shape == (rows, 1, 0, 8)
        assert found["input_ids"].shape[0] == rows


def test_other_modules_are_unsupported(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    import quantize.prune_structured

    source = put(ENCODER, store)
    model = replace(load_model(source.folder), module=nn.Linear(2, 2))
    monkeypatch.setattr(quantize.prune_structured, "load_model", lambda folder: model)
    with pytest.raises(Unsupported, match="cuts Assay's own transformer; 'tiny' is a Linear"):
        build(recipe(), source, "torch", store, Tokens(ENCODER), quiet)
