from __future__ import annotations

import pytest
import torch
from torch import nn

from compile.artifact import Artifact, Store
from compile.errors import InputError, Unsupported
from compile.models.model import load_model
from quantize.audit import PassFailed
from quantize.build import build
from quantize.recipe import recipe_from_table


def recipe(**parameters):
    return recipe_from_table("r", {"passes": [{"pass": "prune", **parameters}]}, "test")


def quiet(_: str) -> None:
    pass


def layers(artifact: Artifact) -> dict[str, nn.Linear]:
    module = load_model(artifact.folder).module
    return {name: m for name, m in module.named_modules() if isinstance(m, nn.Linear)}


@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.9])
def test_without_recovery_the_smallest_weights_are_zero(
    sparsity: float, classifier: Artifact, store: Store
) -> None:
    built = build(recipe(sparsity=sparsity, steps=0), classifier, "torch", store, None, quiet)
    before, after = layers(classifier), layers(built)
    everything = torch.cat([m.weight.abs().flatten() for m in before.values()])
    threshold = everything.sort().values[round(sparsity * everything.numel()) - 1]
    for name, layer in after.items():
        kept = before[name].weight.abs() > threshold
        torch.testing.assert_close(layer.weight, before[name].weight * kept)
    assert built.facts["sparsity"] == pytest.approx(sparsity, abs=1e-3)


def test_recovery_keeps_the_zeros_and_moves_the_rest(classifier, examples, store: Store) -> None:
    data = examples(classifier.signature)
    asked = recipe(scope="layer", steps=4, batch_size=4)
    built = build(asked, classifier, "torch", store, data, quiet)
    bare = build(recipe(scope="layer", steps=0), classifier, "torch", store, None, quiet)
    for name, layer in layers(built).items():
        zero = layers(bare)[name].weight == 0
        assert zero.float().mean() == pytest.approx(0.5, abs=0.01)
        assert torch.equal(layer.weight == 0, zero)
        assert not torch.equal(layer.weight, layers(bare)[name].weight)
    assert len(built.facts["loss_curve"]) == 4
    assert set(built.facts["sparsity_by_layer"]) == set(layers(classifier))


def test_excluded_layers_embeddings_and_norms_stay(classifier: Artifact, store: Store) -> None:
    asked = recipe(exclude=["head*", "layers.0.*"], steps=0)
    built = build(asked, classifier, "torch", store, None, quiet)
    before, after = (load_model(a.folder).module.state_dict() for a in (classifier, built))
    touched = {name for name in before if not torch.equal(before[name], after[name])}
    assert touched
    assert not any(n.startswith(("head", "layers.0", "embedding")) or "norm" in n for n in touched)


def test_nothing_to_prune_is_an_error(classifier: Artifact, store: Store) -> None:
    with pytest.raises(PassFailed, match=r"at least one linear layer's, found none \(all \d+ "):
        build(recipe(exclude=["*"], steps=0), classifier, "torch", store, None, quiet)


def test_recovery_without_data_is_refused(classifier: Artifact, store: Store) -> None:
    with pytest.raises(InputError, match="pass 'prune' needs data"):
        build(recipe(), classifier, "torch", store, None, quiet)


def test_onnx_file_cannot_be_pruned_by_training(graphs, examples, store: Store) -> None:
    with pytest.raises(Unsupported, match="trains a torch module, and this model is an ONNX file"):
        build(recipe(), graphs.put(graphs.ffn()), "onnx", store, examples(graphs.FFN), quiet)
