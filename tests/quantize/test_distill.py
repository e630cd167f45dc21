from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import entropy
from torch import nn

from compile.artifact import Artifact, Store
from compile.errors import InputError, Unsupported
from compile.export import export_onnx
from compile.models.model import load_model
from quantize.audit import PassFailed
from quantize.build import build
from quantize.distill import (
    check_learned,
    compare,
    distillation_loss,
    onnx_teacher,
    shallower,
    torch_teacher,
)
from quantize.passes import Distill
from quantize.recipe import recipe_from_table

SHORT = {"steps": 40, "batch_size": 8, "lr": 1e-3, "alpha": 1.0}


def recipe(**parameters):
    return recipe_from_table("r", {"passes": [{"pass": "distill", **SHORT, **parameters}]}, "test")


def quiet(_: str) -> None:
    pass


@pytest.mark.parametrize(("layers", "kept"), [(1, [0]), (2, [0, 2]), (3, [0, 1, 2])])
def test_student_starts_as_a_copy_of_every_kth_layer(
    layers: int, kept: list[int], classifier: Artifact
) -> None:
    teacher = load_model(classifier.folder)
    student, copied = shallower(teacher, layers)
    assert copied == kept
    theirs, ours = teacher.module.state_dict(), student.module.state_dict()
    for name, value in ours.items():
        parts = name.split(".")
        if parts[0] == "layers":
            parts[1] = str(kept[int(parts[1])])
        assert torch.equal(value, theirs[".".join(parts)])
    assert student.signature == teacher.signature


def test_student_of_a_decoder_has_fewer_past_keys_and_values() -> None:
    from compile.models.config import TransformerConfig
    from compile.models.model import transformer_model

    config = TransformerConfig(
        "decoder", 64, 32, width=32, layers=4, heads=4, kv_heads=2, ffn=64, head="causal-lm"
    )
    student, _ = shallower(transformer_model("d", config), 2)
    assert len(student.signature.inputs) == 2 + 2 * 2
    assert len(student.signature.outputs) == 1 + 2 * 2


def test_loss_is_the_formula() -> None:
    random = np.random.default_rng(0)
    student, teacher = random.standard_normal((2, 3, 4, 5))
    labels = np.array([[0, 1, -100, 2], [-100] * 4, [4, 3, 2, -100]])
    ours, theirs = random.standard_normal((2, 3, 4, 6))
    mask = np.array([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]])
    asked = Distill(temperature=2.5, alpha=0.3, hidden=0.7)

    def log_softmax(x: np.ndarray) -> np.ndarray:
        return x - np.log(np.exp(x).sum(-1, keepdims=True))

    kept = labels != -100
    p, q = log_softmax(teacher[kept] / 2.5), log_softmax(student[kept] / 2.5)
    soft = 2.5**2 * (np.exp(p) * (p - q)).sum(-1).mean()
    hard = -log_softmax(student[kept])[np.arange(kept.sum()), labels[kept]].mean()
    cosine = (
        (ours * theirs).sum(-1) / np.linalg.norm(ours, axis=-1) / np.linalg.norm(theirs, axis=-1)
    )
    distance = (1 - cosine)[mask == 1].mean()

    got = distillation_loss(
        torch.from_numpy(student),
        torch.from_numpy(teacher),
        torch.from_numpy(labels),
        [(torch.from_numpy(ours), torch.from_numpy(theirs))],
        torch.from_numpy(mask),
        asked,
    )
    assert float(got) == pytest.approx(0.3 * soft + 0.7 * hard + 0.7 * distance, rel=1e-9)


def test_loss_is_nothing_when_student_and_teacher_agree() -> None:
    logits, hidden = torch.randn(3, 5), torch.randn(3, 4, 6)
    got = distillation_loss(
        logits, logits, torch.tensor([0, 1, 2]), [(hidden, hidden)], None, Distill(alpha=1.0)
    )
    assert float(got) == pytest.approx(0, abs=1e-6)


def test_teachers_in_torch_and_onnx_give_the_same_logits(classifier, store: Store) -> None:
    feeds = classifier.signature.feeds({"batch": 3, "sequence": 9}, 2)
    logits, hidden = torch_teacher(load_model(classifier.folder))(feeds)
    exported, none = onnx_teacher(export_onnx(classifier, store))(feeds)
    torch.testing.assert_close(exported, logits, rtol=1e-4, atol=1e-5)
    assert [tuple(h.shape) for h in hidden] == [(3, 9, 64)] * 5
    assert none == []


@pytest.mark.parametrize("teacher", ["torch", "onnx"])
def test_student_is_smaller_and_learned(teacher: str, classifier, examples, store: Store) -> None:
    lines: list[str] = []
    data = examples(classifier.signature)
    built = build(recipe(teacher=teacher), classifier, "torch", store, data, lines.append)
    facts = built.facts
    assert (facts["teacher_layers"], facts["layers"]) == (4, 2)
    assert facts["hidden_states"] == (teacher == "torch")
    assert facts["teacher_divergence"] < facts["teacher_divergence_before"]
    assert 0 <= facts["teacher_agreement"] <= 1
    assert built.bytes < classifier.bytes
    student = load_model(built.folder)
    assert len(student.module.layers) == 2
    assert student.signature == classifier.signature
    assert lines[-1].startswith("distill, step 40 of 40, loss ")


def test_teacher_is_left_as_it_was(classifier, examples, store: Store) -> None:
    build(recipe(), classifier, "torch", store, examples(classifier.signature), quiet)
    classifier.verify()


def test_training_that_does_not_come_closer_fails() -> None:
    check_learned(0.5, 0.49)
    with pytest.raises(PassFailed, match=r"less than before training, 0\.5 nats, found 0\.6"):
        check_learned(0.5, 0.6)


def test_comparison_is_the_textbook_divergence(classifier, examples, store: Store) -> None:
    teacher = load_model(classifier.folder)
    student, _ = shallower(teacher, 2)
    data = examples(classifier.signature)

    def logits(model, feeds) -> np.ndarray:
        tensors = [torch.from_numpy(feeds[spec.name]) for spec in model.signature.inputs]
        with torch.no_grad():
            return model.module(*tensors)[0].double().numpy()[0]

    pairs = [(logits(teacher, f), logits(student, f)) for f in data.calibration(64)]
    want = np.mean([entropy(softmax(t), softmax(s)) for t, s in pairs])
    got, same = compare(student, torch_teacher(teacher), data, 64)
    assert got == pytest.approx(want, rel=1e-3)
    assert same == np.mean([t.argmax() == s.argmax() for t, s in pairs])
    assert compare(teacher, torch_teacher(teacher), data, 64) == (pytest.approx(0, abs=1e-7), 1.0)


def test_few_examples_are_compared_and_counted_and_too_few_are_a_failure(
    classifier, examples, store: Store
) -> None:
    asked = recipe(steps=40, layers=2)
    built = build(asked, classifier, "torch", store, examples(classifier.signature, held=17), quiet)
    assert built.facts["compared_examples"] == 17
    few = examples(classifier.signature, "few", held=15)
    with pytest.raises(PassFailed, match=r"comparison with the teacher: .*at least 16, found 15"):
        build(asked, classifier, "torch", store, few, quiet)


def test_as_many_layers_as_the_teacher_are_refused(classifier, examples, store: Store) -> None:
    with pytest.raises(InputError, match="layers = 4 has to be fewer than the teacher's 4"):
        build(recipe(layers=4), classifier, "torch", store, examples(classifier.signature), quiet)


def test_other_modules_are_unsupported(classifier, examples, store: Store, monkeypatch) -> None:
    from dataclasses import replace

    import quantize.distill

    model = replace(load_model(classifier.folder), module=nn.Linear(2, 2))
    monkeypatch.setattr(quantize.distill, "load_model", lambda folder: model)
    with pytest.raises(Unsupported, match="Assay's own transformer; 'tiny' is a Linear"):
        build(recipe(), classifier, "torch", store, examples(classifier.signature), quiet)
