"""The store: the same is made once, and nothing half-made or damaged is handed out."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from compile.artifact import Artifact, Made, Step, Store
from compile.errors import Corrupted, InputError
from compile.signature import Signature, TensorSpec

SIGNATURE = Signature(
    inputs=(TensorSpec("ids", "int64", ("batch", "sequence"), high=7),),
    outputs=(TensorSpec("logits", "float32", ("batch", 3)),),
    max_sequence=16,
)


def make_weights(folder: Path) -> Made:
    (folder / "sub").mkdir()
    (folder / "weights.bin").write_bytes(b"w" * 1000)
    (folder / "sub" / "config.json").write_text("{}")
    return Made("torch", SIGNATURE, {"loss": 0.5})


def test_second_request_finds_the_first_result(tmp_path):
    store = Store(tmp_path)
    first = store.derive(Step("train", 1), None, make_weights)
    second = store.derive(Step("train", 1), None, lambda folder: pytest.fail("made twice"))
    assert second == first
    assert first.bytes == 1002
    assert first.signature == SIGNATURE
    assert first.facts == {"loss": 0.5}


@pytest.mark.parametrize(
    "other",
    [
        Step("prune", 1),
        Step("train", 2),
        Step("train", 1, {"lr": 0.1}),
        Step("train", 1, data="other"),
        Step("train", 1, libraries=("numpy",)),
    ],
)
def test_key_changes_with_everything_that_decides_the_bytes(other):
    assert other.key(None) != Step("train", 1).key(None)


def test_key_changes_with_the_parent(tmp_path):
    store = Store(tmp_path)
    parent = store.derive(Step("train", 1), None, make_weights)
    assert Step("fp16", 1).key(parent) != Step("fp16", 1).key(None)


def test_key_changes_with_a_library_version(monkeypatch):
    step = Step("train", 1, libraries=("numpy",))
    before = step.key(None)
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.0.0")
    assert step.key(None) != before


def test_lineage_keeps_every_step_in_order(tmp_path):
    store = Store(tmp_path)
    parent = store.derive(Step("train", 1, {"lr": 0.1}), None, make_weights)
    child = store.derive(Step("fp16", 3), parent, make_weights)
    assert [(e.step, e.version, e.key) for e in child.lineage] == [
        ("train", 1, parent.key),
        ("fp16", 3, child.key),
    ]
    assert child.lineage[0].parameters == {"lr": 0.1}
    assert Artifact.load(child.folder) == child


def test_nothing_stays_behind_when_a_step_fails(tmp_path):
    store = Store(tmp_path)

    def fail(folder: Path) -> Made:
        (folder / "half").write_bytes(b"x")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        store.derive(Step("train", 1), None, fail)
    assert store.get(Step("train", 1).key(None)) is None
    assert list((tmp_path / "drafts").iterdir()) == []


def test_unserialisable_facts_fail_before_the_artifact_appears(tmp_path):
    store = Store(tmp_path)

    def make_nan(folder: Path) -> Made:
        return Made("torch", SIGNATURE, {"loss": float("nan")})

    with pytest.raises(ValueError, match="JSON"):
        store.derive(Step("train", 1), None, make_nan)
    assert store.get(Step("train", 1).key(None)) is None


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "manifest"])
def test_damaged_artifact_is_built_again(tmp_path, damage):
    artifact = Store(tmp_path).derive(Step("train", 1), None, make_weights)
    weights = artifact.folder / "weights.bin"
    if damage == "flip":
        weights.write_bytes(b"w" * 999 + b"v")
    elif damage == "truncate":
        weights.write_bytes(b"w" * 10)
    elif damage == "delete":
        weights.unlink()
    else:
        (artifact.folder / "manifest.json").write_text('{"schema": 1')
    store = Store(tmp_path)
    assert store.get(artifact.key) is None
    rebuilt = store.derive(Step("train", 1), None, make_weights)
    rebuilt.verify()
    assert (rebuilt.folder / "weights.bin").read_bytes() == b"w" * 1000


def test_verify_names_the_damaged_file(tmp_path):
    artifact = Store(tmp_path).derive(Step("train", 1), None, make_weights)
    (artifact.folder / "weights.bin").write_bytes(b"v" * 1000)
    with pytest.raises(Corrupted, match=r"weights\.bin"):
        artifact.verify()


def test_loading_a_folder_without_manifest_names_it(tmp_path):
    with pytest.raises(InputError, match=str(tmp_path)):
        Artifact.load(tmp_path)


def _build_slowly(root: Path, calls: Path) -> None:
    def make(folder: Path) -> Made:
        with calls.open("a") as file:
            file.write("made\n")
        time.sleep(0.2)
        return make_weights(folder)

    Store(root).derive(Step("train", 1), None, make)


def test_concurrent_builders_make_it_once(tmp_path):
    calls = tmp_path / "calls"
    context = multiprocessing.get_context("fork")
    builders = [
        context.Process(target=_build_slowly, args=(tmp_path / "store", calls)) for _ in range(4)
    ]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join(30)
    assert [builder.exitcode for builder in builders] == [0, 0, 0, 0]
    assert calls.read_text() == "made\n"


def _die_while_building(root: Path) -> None:
    def make(folder: Path) -> Made:
        make_weights(folder)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("unreachable")

    Store(root).derive(Step("train", 1), None, make)


def test_killed_builder_leaves_no_artifact_and_no_lock(tmp_path):
    process = multiprocessing.get_context("fork").Process(
        target=_die_while_building, args=(tmp_path,)
    )
    process.start()
    process.join(30)
    assert process.exitcode == -signal.SIGKILL
    store = Store(tmp_path)
    assert store.get(Step("train", 1).key(None)) is None
    assert store.derive(Step("train", 1), None, make_weights).bytes == 1002
    assert list((tmp_path / "drafts").iterdir()) == []


def test_manifest_is_plain_json_with_a_schema(tmp_path):
    artifact = Store(tmp_path).derive(Step("train", 1), None, make_weights)
    manifest = json.loads((artifact.folder / "manifest.json").read_text())
    assert manifest["schema"] == 1
    assert set(manifest["files"]) == {"weights.bin", "sub/config.json"}


class TestFeeds:
    def test_same_seed_gives_same_feeds_within_the_vocabulary(self):
        feeds = SIGNATURE.feeds({"batch": 2, "sequence": 5}, seed=3)
        again = SIGNATURE.feeds({"batch": 2, "sequence": 5}, seed=3)
        assert feeds["ids"].shape == (2, 5)
        assert feeds["ids"].dtype == "int64"
        assert feeds["ids"].max() < 7
        assert (feeds["ids"] == again["ids"]).all()

    def test_total_is_past_plus_sequence(self):
        signature = Signature(
            inputs=(
                TensorSpec("mask", "int64", ("batch", "total"), fill="ones"),
                TensorSpec("key", "float32", ("batch", 2, "past", 4)),
            ),
            outputs=(),
        )
        feeds = signature.feeds({"batch": 1, "sequence": 1, "past": 6})
        assert feeds["mask"].tolist() == [[1] * 7]
        assert feeds["key"].shape == (1, 2, 6, 4)
        assert signature.feeds({"batch": 1, "sequence": 3})["key"].shape == (1, 2, 0, 4)

    @pytest.mark.parametrize(
        ("sizes", "message"),
        [
            ({"batch": 1, "sequence": 17}, "maximum of 16"),
            ({"batch": -1, "sequence": 4}, "'batch' of input 'ids' cannot be -1"),
            ({"batch": 0, "sequence": 4}, "cannot be 0"),
            ({"batch": 1}, "'sequence' that was given no size"),
        ],
    )
    def test_wrong_sizes_are_input_errors(self, sizes, message):
        with pytest.raises(InputError, match=message):
            SIGNATURE.feeds(sizes)
