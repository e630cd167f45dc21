from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from compile.errors import InputError
from quantize.passes import PASSES, Int4, Int8
from quantize.recipe import load_recipe, recipe_from_table, shipped_recipes

HERE = Path()


def refusal(table: dict[str, Any]) -> str:
    with pytest.raises(InputError) as refused:
        recipe_from_table("mine", table, "suite.toml: recipes.mine")
    message = str(refused.value)
    assert message.startswith("suite.toml: recipes.mine")
    assert "\n" not in message
    return message


def one(**entry: Any) -> dict[str, Any]:
    return {"passes": [entry]}


def test_shipped_recipes_are_all_valid() -> None:
    assert {"fp32", "int8-static", "int4", "int4-gptq", "int4-hqq"} <= set(shipped_recipes())
    for name in shipped_recipes():
        recipe = load_recipe(name, HERE)
        assert recipe.name == name
        assert recipe.description
        assert recipe.passes or name == "fp32"


@pytest.mark.parametrize("name", shipped_recipes())
def test_table_survives_json_when_sent_to_another_process(name: str) -> None:
    recipe = load_recipe(name, HERE)
    sent = json.loads(json.dumps(recipe.to_table(), allow_nan=False))
    assert recipe_from_table(name, sent, "sent") == recipe


def test_load_reads_a_file_relative_to_its_base(tmp_path: Path) -> None:
    (tmp_path / "small.toml").write_text('[[passes]]\npass = "int4"\nblock = 128\n')
    recipe = load_recipe("small.toml", tmp_path)
    assert recipe.name == "small"
    assert recipe.passes == (Int4(block=128),)


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("int8-dynamik", ["'int8-dynamik'", "did you mean 'int8-dynamic'", "distilled"]),
        ("absent.toml", ["absent.toml", "cannot be read", "No such file"]),
        ("../etc/passwd", ["cannot be read"]),
    ],
)
def test_load_says_what_is_missing(reference: str, words: list[str], tmp_path: Path) -> None:
    with pytest.raises(InputError) as refused:
        load_recipe(reference, tmp_path)
    assert all(word in str(refused.value) for word in words)


@pytest.mark.parametrize("content", [b"passes = [", b"\xff\xfe\x00"])
def test_load_names_the_file_when_it_is_not_toml(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_bytes(content)
    with pytest.raises(InputError, match=r"bad\.toml is not valid TOML"):
        load_recipe("bad.toml", tmp_path)


def test_unknown_pass_is_refused_with_near_match_and_all_names() -> None:
    message = refusal(one(**{"pass": "int5"}))
    assert "passes[0]: unknown pass 'int5'" in message
    assert "did you mean 'int" in message
    assert all(name in message for name in PASSES)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"pass": "int4", "block": 48}, ["(int4): block = 48", "16, 32, 64, 128 or 256"]),
        ({"pass": "int4", "blocks": 32}, ["'blocks'", "did you mean 'block'", "symmetric"]),
        ({"pass": "int4", "symmetric": "yes"}, ["symmetric = 'yes'", "boolean"]),
        ({"pass": "int4", "block": True}, ["block = True"]),
        ({"pass": "int8", "exclude": "head"}, ["exclude = 'head'", "must be a list"]),
        ({"pass": "int8", "mode": "static", "calibration": "max"}, ["'minmax', 'percentile'"]),
        ({"pass": "prune", "sparsity": 1.5}, ["sparsity = 1.5", "less than 1"]),
        ({"pass": "prune", "sparsity": float("nan")}, ["sparsity = nan"]),
        ({"pass": "distill", "steps": 0}, ["steps = 0", "greater than or equal to 1"]),
        ({"mode": "static"}, ["names its pass"]),
    ],
)
def test_wrong_parameter_is_refused_with_key_value_and_what_is_allowed(
    entry: dict[str, Any], words: list[str]
) -> None:
    message = refusal(one(**entry))
    assert "passes[0]" in message
    assert all(word in message for word in words), message


def test_parameter_without_effect_is_refused() -> None:
    assert 'mode = "static"' in refusal(one(**{"pass": "int8", "percentile": 99.9}))
    unused = one(**{"pass": "int8", "mode": "static", "calibration": "minmax", "percentile": 99.9})
    assert 'calibration = "percentile"' in refusal(unused)


@pytest.mark.parametrize(
    "names",
    [
        ("int8", "fuse"),
        ("int8", "int4"),
        ("fp16", "bf16"),
        ("prune", "distill"),
        ("fuse", "prune"),
        ("int8", "int8"),
    ],
)
def test_illegal_order_is_refused_with_the_rule(names: tuple[str, str]) -> None:
    message = refusal({"passes": [{"pass": name} for name in names]})
    assert f"{names[1]!r} cannot come after {names[0]!r}" in message
    assert "distill, prune" in message


def test_legal_order_is_kept() -> None:
    names = ["distill", "prune", "fuse", "int8"]
    recipe = recipe_from_table("long", {"passes": [{"pass": name} for name in names]}, "here")
    assert [step.name for step in recipe.passes] == names


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"tolerance": {"snr": 3}}, ["tolerance: unknown key 'snr'", "min_snr_db"]),
        ({"tolerance": 3}, ["tolerance", "must be a table"]),
        ({"tolerance": {"min_top1_agreement": 1.5}}, ["min_top1_agreement = 1.5"]),
        ({"descripton": "x"}, ["'descripton'", "did you mean 'description'"]),
        ({"passes": {"pass": "int8"}}, ["array of tables"]),
        ({"passes": [3]}, ["passes[0]", "must be a table"]),
        ({"name": "other"}, ["name is not a key"]),
        # The suite's [ship] says what may be lost, in a fraction; a recipe is not told twice.
        ({"max_drop": 1.0}, ["unknown key 'max_drop'", "description, passes, tolerance"]),
    ],
)
def test_wrong_key_of_the_recipe_is_refused(table: dict[str, Any], words: list[str]) -> None:
    message = refusal(table)
    assert all(word in message for word in words), message


def test_data_is_needed_only_by_passes_that_learn_from_it() -> None:
    assert Int8(mode="static").needs_data
    assert not Int8(mode="dynamic").needs_data
    assert not PASSES["prune"](steps=0).needs_data
    assert load_recipe("distilled-int8", HERE).needs_data
    assert not load_recipe("int4", HERE).needs_data


def test_importing_recipes_loads_nothing_heavy() -> None:
    code = (
        "import sys, quantize.recipe; "
        "print(*sorted({'torch', 'onnx', 'onnxruntime', 'transformers'} & sys.modules.keys()))"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""
