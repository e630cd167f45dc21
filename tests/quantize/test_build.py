from __future__ import annotations

import importlib.metadata
from collections import Counter

import pytest

from compile.artifact import Artifact, Store
from compile.errors import InputError, Unsupported
from compile.graph import MODEL, array, count_ops, load_onnx
from quantize.audit import decibels, signal_and_noise
from quantize.build import build
from quantize.passes import PASSES, Distill, Int8, Pass
from quantize.recipe import recipe_from_table


def recipe(*passes: dict):
    return recipe_from_table("r", {"passes": list(passes)}, "test")


INT8 = {"pass": "int8"}
STATIC = {"pass": "int8", "mode": "static", "examples": 4}
PRUNE = {"pass": "prune", "steps": 0}


def quiet(_: str) -> None:
    pass


def steps(artifact: Artifact) -> list[str]:
    return [entry.step for entry in artifact.lineage][1:]


@pytest.mark.parametrize(
    ("passes", "target", "expected"),
    [
        ([], "torch", []),
        ([], "onnx", ["export"]),
        ([PRUNE], "torch", ["prune"]),
        ([PRUNE], "onnx", ["prune", "export"]),
        ([INT8], "onnx", ["export", "int8"]),
        ([PRUNE, {"pass": "fuse"}, INT8], "onnx", ["prune", "export", "fuse", "int8"]),
        ([{"pass": "fp16"}], "torch", ["fp16"]),
        ([{"pass": "fp16"}], "onnx", ["export", "fp16"]),
    ],
)
def test_passes_are_steps_in_order_with_the_export_where_it_belongs(
    passes: list, target, expected: list[str], classifier: Artifact, store: Store
) -> None:
    told: list[str] = []
    built = build(recipe(*passes), classifier, target, store, None, told.append)
    assert steps(built) == expected
    assert [line for line in told if line in expected] == expected
    assert built.kind == target


def test_second_build_makes_nothing_again(classifier: Artifact, store: Store) -> None:
    first = build(recipe(PRUNE, INT8), classifier, "onnx", store, None, quiet)
    made = Counter(path.name for path in store.root.iterdir())
    assert build(recipe(PRUNE, INT8), classifier, "onnx", store, None, quiet).key == first.key
    assert Counter(path.name for path in store.root.iterdir()) == made


@pytest.mark.parametrize("name", ["int8", "int4", "fuse"])
def test_onnx_passes_are_unsupported_for_torch(name: str, classifier, store: Store) -> None:
    with pytest.raises(Unsupported, match=f"recipe 'r': pass '{name}' works on ONNX graphs"):
        build(recipe({"pass": name}), classifier, "torch", store, None, quiet)


def test_onnx_file_cannot_become_torch(graphs, store: Store) -> None:
    with pytest.raises(Unsupported, match="cannot become a torch module"):
        build(recipe(), graphs.put(graphs.ffn()), "torch", store, None, quiet)


def test_refusals_come_before_any_work(classifier: Artifact, store: Store) -> None:
    before = sorted(store.root.iterdir())
    with pytest.raises(InputError, match="needs data"):
        build(recipe(PRUNE, STATIC), classifier, "onnx", store, None, quiet)
    assert sorted(store.root.iterdir()) == before


def test_static_int8_calibrates_on_what_the_pass_before_made(
    classifier, examples, store: Store
) -> None:
    data = examples(classifier.signature)
    plain = build(recipe(STATIC), classifier, "onnx", store, data, quiet)
    heavy = {**PRUNE, "sparsity": 0.9}
    pruned = build(recipe(heavy, STATIC), classifier, "onnx", store, data, quiet)

    def scales(artifact: Artifact) -> list[float]:
        graph = load_onnx(artifact.folder).graph
        quantizers = {n.input[1] for n in graph.node if n.op_type == "QuantizeLinear"}
        values = {t.name: array(t) for t in graph.initializer}
        return [float(values[name]) for name in sorted(quantizers)]

    assert len(scales(plain)) == len(scales(pruned))
    assert scales(plain) != scales(pruned)


@pytest.mark.parametrize("mode", ["dynamic", "static"])
def test_int8_of_an_exported_encoder_runs_whole_in_integers(
    mode: str, classifier, examples, store: Store, graphs
) -> None:
    source = build(recipe(), classifier, "onnx", store, None, quiet)
    data = examples(classifier.signature)
    built = build(recipe({"pass": "int8", "mode": mode}), source, "onnx", store, data, quiet)
    # Six layers a block, the pooler and the head.
    assert built.facts["layers"] == 4 * 6 + 2
    assert sum(built.facts["quantized_kernels"].values()) == 26
    assert built.facts["float_products"] == 0
    assert count_ops(load_onnx(built.folder))["Attention"] == 4
    feeds = next(iter(data.calibration(1)))
    want, got = (graphs.run(a.folder / MODEL, feeds) for a in (source, built))
    assert decibels(*signal_and_noise(want, got)) > 20


def test_key_names_onnx_runtime_as_it_is_installed(
    graphs, classifier, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the cuda extra there is an ``onnxruntime-gpu`` and no ``onnxruntime``."""
    version = importlib.metadata.version

    def of_the_gpu(name: str) -> str:
        if name == "onnxruntime":
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.2.3" if name == "onnxruntime-gpu" else version(name)

    found = {"onnxruntime": ["onnxruntime-gpu"]}
    monkeypatch.setattr(importlib.metadata, "version", of_the_gpu)
    monkeypatch.setattr(importlib.metadata, "packages_distributions", lambda: found)
    half = {"pass": "fp16"}
    graph = build(recipe(half), graphs.put(graphs.ffn()), "onnx", store, None, quiet)
    assert graph.lineage[-1].libraries == {"onnx": version("onnx"), "onnxruntime-gpu": "1.2.3"}
    module = build(recipe(half), classifier, "torch", store, None, quiet)
    assert module.lineage[-1].libraries == {"torch": version("torch")}
    fused = build(recipe({"pass": "fuse"}), classifier, "onnx", store, None, quiet)
    assert fused.lineage[-1].libraries == {"onnx": version("onnx"), "onnxruntime-gpu": "1.2.3"}


@pytest.mark.parametrize(
    ("asked", "ran"),
    [
        (Int8(mode="static"), True),
        (Int8(), False),
        (Distill(teacher="onnx"), True),
        (Distill(), False),
    ],
)
def test_key_names_onnx_runtime_where_a_pass_runs_a_graph_to_decide_its_bytes(
    asked: Pass, ran: bool
) -> None:
    named = asked.distributions("onnx")
    assert any(name.startswith("onnxruntime") for name in named) is ran


@pytest.mark.parametrize("asked", PASSES.values())
def test_no_pass_names_one_distribution_of_onnx_runtime(asked: type[Pass]) -> None:
    assert not any(name.startswith("onnxruntime") for name in asked.libraries)
