"""The user's own data: how it is split, and every way in which it can be unusable."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from compile.errors import InputError
from suites.suite_file import TaskEntry
from suites.tasks.corpus import CALIBRATION_SHARE, standard_library
from suites.tasks.examples import Examples
from suites.tasks.prepare import Recipe, prepare
from suites.tasks.prepared import Prepared, Vocabulary, load_prepared, save_prepared
from suites.tasks.registry import load_task
from suites.tasks.tokenizer import embedded_tokenizer, load_tokenizer
from suites.tasks.user_data import calibration_share, prepare_user_data, read_columns

ROWS = [{"text": f"sentence number {i} is about {i % 3}", "label": i % 3} for i in range(200)]


def write(path: Path, rows: list[dict]) -> Path:
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def texts(path: Path, kind: str = "classification") -> dict[str, set[str]]:
    columns = ("text", "label") if kind == "classification" else ("text",)
    data = prepare(Recipe(kind, str(path), columns, None, 64))
    tokenizer = embedded_tokenizer(standard_library())
    return {
        split: {tokenizer.decode(examples[i].tolist()) for i in range(len(examples))}
        for split, examples in data.splits.items()
    }


@pytest.mark.parametrize("name", ["data.jsonl", "data.parquet"])
def test_user_data_is_split_without_overlap_whatever_its_order(tmp_path: Path, name: str) -> None:
    splits = texts(write(tmp_path / name, [*ROWS, *ROWS[:50]]))
    assert set().union(*splits.values()) == {row["text"] for row in ROWS}
    assert sum(map(len, splits.values())) == len(ROWS)
    assert texts(write(tmp_path / f"b{name}", ROWS[::-1])) == splits


def test_small_files_give_enough_to_calibrate_on_and_keep_their_test_texts(tmp_path: Path) -> None:
    """4 % of a thousand texts would be 40, where the shipped recipes ask for 128."""
    rows = [{"text": f"sentence {i} of many", "label": i % 2} for i in range(1000)]
    whole = texts(write(tmp_path / "whole.jsonl", rows))
    half = texts(write(tmp_path / "half.jsonl", rows[:500]))
    assert len(whole["calibration"]) >= 128
    assert len(half["calibration"]) == pytest.approx(100, abs=30)
    assert half["test"] == whole["test"] & {row["text"] for row in rows[:500]}
    assert calibration_share(100_000) == CALIBRATION_SHARE


def test_user_data_gives_a_task_that_another_process_prepared(tmp_path: Path) -> None:
    write(tmp_path / "data.jsonl", ROWS)
    entry = TaskEntry(kind="classification", data="data.jsonl", max_length=16)
    task = load_task(entry, tmp_path)
    assert task.classes == ("0", "1", "2")
    assert task.name == "data.jsonl"
    assert load_task(entry, tmp_path).fingerprint == task.fingerprint
    write(tmp_path / "data.jsonl", ROWS[1:])
    assert load_task(entry, tmp_path).fingerprint != task.fingerprint
    write(tmp_path / "data.jsonl", [{"text": "x", "label": 1}])
    with pytest.raises(InputError, match=r"data\.jsonl: the only label is '1'"):
        load_task(entry, tmp_path)


@pytest.mark.parametrize("kind", ["masked-lm", "causal-lm"])
def test_user_text_alone_gives_a_language_model_task(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / "data.jsonl", [{"text": row["text"]} for row in ROWS])
    splits = texts(path, kind)
    assert set().union(*splits.values()) == {row["text"] for row in ROWS}


def test_user_tokenizer_is_used_and_checked(tmp_path: Path) -> None:
    embedded_tokenizer(standard_library()).save(str(tmp_path / "tokenizer.json"))
    path = write(tmp_path / "data.jsonl", ROWS)
    own = prepare(Recipe("causal-lm", str(path), ("text",), str(tmp_path), 64))
    embedded = prepare(Recipe("causal-lm", str(path), ("text",), None, 64))
    assert (own.splits["test"].tokens == embedded.splits["test"].tokens).all()
    with pytest.raises(InputError, match="does not exist; give a tokenizer"):
        load_tokenizer(tmp_path / "nowhere")
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(InputError, match="is not a tokenizer"):
        load_tokenizer(tmp_path / "bad.json")


def test_bits_per_byte_are_refused_when_the_tokenizer_loses_bytes(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    lossy = Tokenizer(models.WordLevel({"[UNK]": 0, "[MASK]": 1}, unk_token="[UNK]"))
    lossy.pre_tokenizer = pre_tokenizers.Whitespace()
    rows = [(f"text {i}",) for i in range(200)]
    with pytest.raises(InputError, match="does not keep every byte"):
        prepare_user_data(rows, "causal-lm", lossy, 16, tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no examples"),
        (b"\n\n", "holds no examples"),
        (b'{"text": "a", "label": 1}\n{"text": ', "line 2: not JSON"),
        (b"[1]", "line 1: not a JSON object"),
        (b'{"text": "a", "kind": 1}', "line 1: there is no column 'label'; there are text, kind"),
        (b'{"text": null, "label": 1}', "line 1: column 'text' holds nothing instead of a text"),
        (b'{"text": ["a"], "label": 1}', "line 1: column 'text' holds a list instead of a text"),
        (b'{"text": "caf\xe9", "label": 1}', "line 1: not UTF-8"),
        (b'{"text": "\\ud800", "label": 1}', "line 1: column 'text' holds half a character"),
        (b"[" * 100_000, "line 1: not JSON"),
    ],
)
def test_jsonl_is_refused_with_the_line_when_malformed(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as failure:
        read_columns(path, ("text", "label"))
    assert str(path) in str(failure.value)


def test_parquet_is_refused_when_damaged_or_without_the_column(tmp_path: Path) -> None:
    path = write(tmp_path / "data.parquet", ROWS)
    with pytest.raises(InputError, match="there is no column 'body'; there are text, label"):
        read_columns(path, ("body",))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="is not a readable Parquet file"):
        read_columns(path, ("text",))


def test_files_of_another_kind_or_nowhere_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_columns(tmp_path / "data.jsonl", ("text",))
    with pytest.raises(InputError, match=r"end in \.jsonl or \.parquet"):
        read_columns(tmp_path / "data.csv", ("text",))
    with pytest.raises(InputError, match="does not exist"):
        load_task(TaskEntry(kind="causal-lm", data="no.jsonl"), tmp_path)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("a b", "x"), ("c d", "x")], "the only label is 'x'"),
        ([("a b", "x"), ("a  b", "y")], "has two labels"),
        ([("a b", "x"), ("c d", "y")], "leave none to"),
        ([(" ", "x"), ("\n", "y")], "every text is empty"),
    ],
)
def test_labels_are_refused_when_there_is_nothing_to_learn(
    tmp_path: Path, rows: list[tuple[str, str]], message: str
) -> None:
    tokenizer = embedded_tokenizer(standard_library())
    with pytest.raises(InputError, match=message):
        prepare_user_data(rows, "classification", tokenizer, 16, tmp_path / "data.jsonl")


def test_damaged_data_is_prepared_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASSAY_HOME", str(tmp_path))
    examples = Examples.of([np.arange(50, dtype=np.int32)] * 100, [0] * 100)
    splits = {"train": examples, "calibration": examples, "test": examples}
    data = Prepared(splits, Vocabulary(60, 0, 1, 2, (0, 1, 2)), 64, ("a",))
    made = []

    def make(path: Path) -> None:
        made.append(path)
        save_prepared(data, path)

    assert load_prepared({"of": "a test"}, make).max_length == 64
    (path,) = (tmp_path / "data").glob("task-*.npz")
    whole = path.read_bytes()
    path.write_bytes(whole[:3000] + b"\xff" * 200 + whole[3200:])
    np.testing.assert_array_equal(
        load_prepared({"of": "a test"}, make).splits["test"].tokens, examples.tokens
    )
    assert len(made) == 2


def test_a_cache_that_cannot_be_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ASSAY_HOME", str(tmp_path / "file"))
    with pytest.raises(InputError, match=r"cannot be written .*ASSAY_HOME"):
        load_prepared({"of": "a test"}, lambda path: None)
