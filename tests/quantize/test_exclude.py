"""``exclude`` of every pass: what it matches, and that it matches something."""

from __future__ import annotations

from pathlib import Path

import pytest

from compile.artifact import Artifact, Store
from compile.graph import load_onnx
from quantize.audit import PassFailed
from quantize.build import build
from quantize.exclude import matching, unmatched
from quantize.recipe import load_recipe, recipe_from_table, shipped_recipes


def made(source: Artifact, store: Store, **entry) -> Artifact:
    recipe = recipe_from_table("r", {"passes": [entry]}, "test")
    target = "torch" if entry["pass"] == "prune" else "onnx"
    return build(recipe, source, target, store, None, lambda _: None)


def test_a_layer_answers_to_each_of_its_names() -> None:
    names = ["head", "head.weight"]
    assert matching(["up*", "*.weight", "head"], names) == "*.weight"
    assert matching(["Head", "weight"], names) is None
    assert unmatched(["he?d", "haed*", "*.weight", "up"], names) == ["haed*", "up"]


@pytest.mark.parametrize("name", ["fp16", "int8", "int4"])
def test_slip_of_the_pen_is_refused_with_the_nearest_name(name: str, graphs, store) -> None:
    source = graphs.put(graphs.ffn())
    with pytest.raises(PassFailed, match=rf"pass {name}: exclude 'donw': .* none .* like 'down'"):
        made(source, store, **{"pass": name, "exclude": ["up", "donw"]})


@pytest.mark.parametrize("name", ["fp16", "int8", "int4"])
def test_weight_is_excluded_by_its_own_name(name: str, graphs, store: Store) -> None:
    built = made(graphs.put(graphs.ffn()), store, **{"pass": name, "exclude": ["down.w*"]})
    types = {t.name: t.data_type for t in load_onnx(built.folder).graph.initializer}
    assert types["down.weight"] == 1
    assert "up.weight" not in types or types["up.weight"] == 10
    if name == "fp16":
        assert built.facts["kept_nodes"] == ["down"]
    else:
        assert built.facts["layers_excluded"] == {"down": "excluded by 'down.w*'"}


def test_slip_of_the_pen_is_refused_of_modules_too(classifier: Artifact, store: Store) -> None:
    with pytest.raises(PassFailed, match=r"pass prune: exclude 'haed': .* like 'head\.\w+'"):
        made(classifier, store, **{"pass": "prune", "steps": 0, "exclude": ["haed"]})
    # Never pruned, so there is nothing to exclude.
    with pytest.raises(PassFailed, match=r"exclude '\*embedding\*'"):
        made(classifier, store, **{"pass": "prune", "steps": 0, "exclude": ["*embedding*"]})


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_embedding_can_be_named_only_where_embeddings_are_taken(name: str, graphs, store) -> None:
    source = graphs.put(graphs.tied(), graphs.TIED)
    for pattern in ("embed", "table"):
        asked = {"pass": name, "exclude": [pattern]}
        assert made(source, store, embeddings=True, **asked).facts["embeddings"] == 0
        with pytest.raises(PassFailed, match=f"exclude '{pattern}': .* none among 2 names"):
            made(source, store, **asked)


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_name_no_layer(name: str) -> None:
    """They are for any model, where a name would match nothing."""
    for step in load_recipe(name, Path()).passes:
        assert not getattr(step, "exclude", ())
