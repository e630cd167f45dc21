"""A suite file expands to the cells that it says, and to no others."""

from __future__ import annotations

from pathlib import Path

import pytest

from compile.errors import InputError
from suites.cell import Cell
from suites.reading import shipped_suites
from suites.suite import load_suite
from suites.suite_file import Workload

SUITE = """
[matrix]
model = ["encoder-small", "gpt2"]
recipe = ["fp32", "int8-dynamic"]
runtime = ["torch-eager", "onnxruntime-cpu", "onnxruntime-cuda"]
workload = ["one"]
[workloads.one]
batch = 1
sequence = 16
"""


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str) -> str:
        path = tmp_path / "s.toml"
        path.write_text(text)
        return str(path)

    return write


def test_matrix_is_the_product_of_its_axes(write):
    cells = load_suite(write(SUITE), [], cuda=False).cells
    assert len(cells) == 2 * 2 * 3
    assert len({cell.id for cell in cells}) == len(cells)


def test_auto_device_is_the_runtimes_own(write):
    def devices(cuda: bool) -> dict[str, str]:
        return {c.runtime: c.device for c in load_suite(write(SUITE), [], cuda).cells}

    here = {"torch-eager": "cpu", "onnxruntime-cpu": "cpu", "onnxruntime-cuda": "cuda:0"}
    assert devices(cuda=False) == here
    assert devices(cuda=True) == {**here, "torch-eager": "cuda:0"}


def test_exclude_removes_what_matches_on_every_named_axis(write):
    more = '[[exclude]]\nrecipe = "int*"\nruntime = "torch-*"\n'
    cells = load_suite(write(SUITE + more), [], cuda=False).cells
    assert len(cells) == 10
    assert not [c for c in cells if c.recipe == "int8-dynamic" and c.runtime == "torch-eager"]


def test_include_adds_a_cell_once(write):
    more = '[[include]]\nmodel = "gpt2"\nruntime = "openvino"\nworkload = "one"\n' * 2
    cells = load_suite(write(SUITE + more), [], cuda=False).cells
    assert len(cells) == 13
    assert cells[-1] == Cell("gpt2", "fp32", "openvino", "default", "one", "cpu")


def test_available_stands_for_the_runtimes_of_this_machine(write):
    text = SUITE.replace('["torch-eager", "onnxruntime-cpu", "onnxruntime-cuda"]', '["available"]')
    cells = load_suite(write(text), ["openvino"], cuda=False).cells
    assert {cell.runtime for cell in cells} == {"openvino"}


def test_only_matches_labels_and_single_axes(write):
    suite = load_suite(write(SUITE), [], cuda=False)
    assert {c.recipe for c in suite.only("int8*")} == {"int8-dynamic"}
    assert len(suite.only("gpt2/fp32/*")) == 3
    with pytest.raises(InputError, match="matches none of the 12 cells"):
        suite.only("nothing")


def test_cell_ids_depend_on_the_axes_alone():
    cell = Cell("m", "fp32", "openvino", "default", "one", "cpu")
    assert cell.id == Cell("m", "fp32", "openvino", "default", "one", "cpu").id
    assert cell.id != Cell("m", "fp32", "openvino", "default", "two", "cpu").id
    assert len(cell.id) == 12


@pytest.mark.parametrize("name", shipped_suites())
def test_shipped_suite_is_valid(name):
    cells = load_suite(name, ["torch-eager", "onnxruntime-cpu", "openvino"], cuda=False).cells
    assert len(cells) >= 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("batch = 1", "batch = 1\npast = 3"), "past belongs to decode"),
        (("batch = 1", 'kind = "decode"'), "give past"),
        (("sequence = 16", 'kind = "prefill"'), "prefill needs a sequence"),
        (("[workloads.one]", "[measure]\nprecisoin = 1\n[workloads.one]"), "'precision'"),
        (("[workloads.one]", "[measure]\nprecision = 7\n[workloads.one]"), "between 0 and 1"),
        (('workload = ["one"]', 'workload = ["on"]'), "did you mean 'one'"),
        (("[workloads.one]", "[models.gpt3]\nsource = 'gpt2'\n[workloads.one]"), "'gpt3'"),
        (("[workloads.one]", "[recipes.mine]\npasses = []\n[workloads.one]"), "no cell uses it"),
        (('workload = ["one"]', 'workload = ["one"]\ndevice = ["tpu"]'), "matrix.device"),
        (('workload = ["one"]', 'workload = ["one"]\ndevice = ["cpu"]'), "runs on cuda only"),
        (("[workloads.one]", "[recipes.fp32]\npasses = []\n[workloads.one]"), "the reference's"),
    ],
)
def test_mistake_names_the_file_the_key_and_the_way_out(write, change, message):
    with pytest.raises(InputError, match=r"s\.toml: ") as error:
        load_suite(write(SUITE.replace(*change)), [], cuda=False)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_decode_feeds_one_token_beside_its_cache():
    assert Workload(kind="decode", batch=2, past=7).sizes == {
        "batch": 2,
        "sequence": 1,
        "past": 7,
    }
