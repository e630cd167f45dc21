from __future__ import annotations

import pytest
import torch
from torch import nn

from compile.artifact import Artifact, Store
from compile.errors import InputError, Unsupported
from compile.models.model import load_model
from compile.training import forward
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


def matrices(artifact: Artifact) -> dict[str, torch.Tensor]:
    return {name: layer.weight.detach() for name, layer in layers(artifact).items()}


@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt"])
@pytest.mark.parametrize(("pattern", "most"), [("2:4", 2), ("3:8", 3)])
def test_pattern_holds_in_every_group_and_after_recovery(
    method: str, pattern: str, most: int, classifier, examples, store: Store
) -> None:
    data = examples(classifier.signature)
    asked = recipe(method=method, pattern=pattern, steps=3, batch_size=4)
    built = build(asked, classifier, "torch", store, data, quiet)
    group = int(pattern[-1])
    for weight in matrices(built).values():
        assert ((weight.reshape(-1, group) != 0).sum(1) <= most).all()
    assert built.facts["pattern"] == pattern
    assert built.facts["method"] == method
    values = sum(weight.numel() for weight in matrices(built).values())
    assert built.facts["groups_proven"] == values // group
    assert built.facts["sparsity"] == pytest.approx(1 - most / group, abs=1e-4)
    assert "storage only" in built.facts["kernels"]


def test_who_knows_more_keeps_more_of_every_layers_outputs(
    classifier, examples, store: Store
) -> None:
    data = examples(classifier.signature)
    errors = {}
    for method in ("magnitude", "wanda", "sparsegpt"):
        asked = recipe(method=method, steps=0, examples=32)
        built = build(asked, classifier, "torch", store, data, quiet)
        errors[method] = built.facts["reconstruction_error"]
        assert built.facts["calibration_examples"] == 32
        assert built.facts["sparsity"] == pytest.approx(0.5, abs=1e-3)
    assert errors["wanda"].keys() == layers(classifier).keys()
    means = {method: sum(by_layer.values()) for method, by_layer in errors.items()}
    assert means["sparsegpt"] < means["wanda"] < means["magnitude"]


def test_wanda_zeroes_the_same_share_of_each_row(classifier, examples, store: Store) -> None:
    asked = recipe(method="wanda", sparsity=0.25, steps=0, exclude=["head*"])
    built = build(asked, classifier, "torch", store, examples(classifier.signature), quiet)
    before = matrices(classifier)
    for name, weight in matrices(built).items():
        if name.startswith("head"):
            continue
        assert ((weight == 0).sum(1) == round(0.25 * weight.shape[1])).all()
        # What is left is as it was.
        assert torch.equal(weight[weight != 0], before[name][weight != 0])


def test_sparsegpt_changes_the_weights_that_are_left(classifier, examples, store: Store) -> None:
    asked = recipe(method="sparsegpt", steps=0)
    built = build(asked, classifier, "torch", store, examples(classifier.signature), quiet)
    before = matrices(classifier)
    for name, weight in matrices(built).items():
        assert not torch.equal(weight[weight != 0], before[name][weight != 0])


def test_magnitude_measures_only_where_examples_are_asked_for(
    classifier, examples, store: Store
) -> None:
    data = examples(classifier.signature)
    bare = build(recipe(steps=0), classifier, "torch", store, None, quiet)
    measured = build(recipe(steps=0, examples=16), classifier, "torch", store, data, quiet)
    assert "reconstruction_error" not in bare.facts
    assert all(error > 0 for error in measured.facts["reconstruction_error"].values())
    for name, weight in matrices(bare).items():
        assert torch.equal(weight, matrices(measured)[name])


@pytest.mark.parametrize(("method", "calibrated"), [("wanda", True), ("magnitude", False)])
def test_other_data_are_another_artifact_where_they_are_looked_at(
    method: str, calibrated: bool, classifier, examples, store: Store
) -> None:
    asked = recipe(method=method, steps=0)
    keys = {
        build(asked, classifier, "torch", store, examples(classifier.signature, text), quiet).key
        for text in ("a text", "b text")
    }
    assert len(keys) == 1 + calibrated


def test_too_few_examples_are_refused(classifier, examples, store: Store) -> None:
    few = examples(classifier.signature, held=15)
    with pytest.raises(PassFailed, match="128 examples to calibrate on, or at least 16, found 15"):
        build(recipe(method="wanda", steps=0), classifier, "torch", store, few, quiet)


def test_rows_that_are_not_whole_groups_are_refused(classifier, examples, store: Store) -> None:
    data = examples(classifier.signature)
    with pytest.raises(PassFailed, match=r"expected a multiple of 3 for pattern 1:3, .* found 64"):
        build(recipe(pattern="1:3", steps=0), classifier, "torch", store, data, quiet)


def test_weights_that_are_not_finite_are_refused(classifier, store: Store) -> None:
    from compile.artifact import Step
    from compile.models.model import save_model

    model = load_model(classifier.folder)
    with torch.no_grad():
        model.module.layers[1].feed_forward.up.weight[3, 4] = float("nan")
    broken = store.derive(Step("broken", 1), None, lambda folder: save_model(model, folder))
    with pytest.raises(PassFailed, match=r"weights of 'layers\.1\.feed_forward\.up': "):
        build(recipe(steps=0), broken, "torch", store, None, quiet)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"pattern": "2/4"}, 'pattern = \'2/4\': a pattern is "unstructured", or "n:m"'),
        ({"pattern": "4:4"}, "n below m"),
        ({"pattern": "2:4", "sparsity": 0.6}, 'no effect with pattern = "2:4"'),
        ({"pattern": "2:4", "scope": "layer"}, "no effect but on unstructured magnitude"),
        ({"method": "wanda", "scope": "global"}, "no effect but on unstructured magnitude"),
        ({"steps": 0, "alpha": 0.5}, "no effect without steps of recovery"),
        ({"method": "obs"}, "method = 'obs'"),
    ],
)
def test_parameters_without_a_meaning_are_refused(parameters: dict, words: str) -> None:
    with pytest.raises(InputError) as refused:
        recipe(**parameters)
    assert words in str(refused.value)


def test_recovery_from_logits_goes_back_to_what_the_whole_model_said(
    classifier, examples, store: Store
) -> None:
    data = examples(classifier.signature)
    whole = load_model(classifier.folder).module

    def distance(**parameters) -> float:
        asked = recipe(method="wanda", examples=16, **parameters)
        module = load_model(build(asked, classifier, "torch", store, data, quiet).folder).module
        total = 0.0
        with torch.inference_mode():
            for feeds in data.calibration(16):
                a, b = (forward(m, feeds)[0].log_softmax(-1) for m in (whole, module))
                total += float(nn.functional.kl_div(b, a, reduction="sum", log_target=True))
        return total

    quick = {"steps": 30, "batch_size": 16, "lr": 1e-4}
    taught, pruned, labels = distance(alpha=1.0, **quick), distance(steps=0), distance(**quick)
    assert taught < 0.8 * pruned
    assert taught < 0.8 * labels
