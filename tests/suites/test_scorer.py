"""Scoring in workers of its own, on fake sessions whose answers are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from compile.artifact import Artifact
from compile.errors import Incorrect
from compile.signature import Signature, TensorSpec
from quantize.recipe import Tolerance
from runtimes.fake import Behaviour, write_fake
from suites.blocks import SessionKey
from suites.scorer import ScoreCache, Scorer
from suites.scoring import Scored, columns, score
from suites.sessions import LiveSession
from suites.suite_file import RuntimeEntry
from suites.tasks.classification import Classification
from suites.tasks.examples import Examples
from suites.tasks.prepared import Prepared, Vocabulary

CLASSES = 4
LABELS = [3, 3, 0, 3, 1]
TOKENS = Signature(
    inputs=tuple(
        TensorSpec(name, "int64", ("batch", "sequence"), 20)
        for name in ("input_ids", "attention_mask")
    ),
    outputs=(TensorSpec("logits", "float32", ("batch", CLASSES)),),
)
PROGRESS: list[tuple[str, float]] = []


@pytest.fixture
def task() -> Classification:
    rows = [np.arange(1, 4 + length, dtype=np.int32) for length in range(len(LABELS))]
    examples = Examples.of(rows, LABELS)
    splits = {"train": examples, "calibration": examples, "test": examples}
    data = Prepared(splits, Vocabulary(20, 0, 1, 2, (0, 1, 2)), 16, tuple("abcd"), fingerprint="f")
    return Classification("small", data, {"steps": 1})


@pytest.fixture
def session(tmp_path: Path):
    def make(name: str, runtime: str = "fake", **behaviour) -> LiveSession:
        folder = tmp_path / name
        write_fake(folder, TOKENS, Behaviour(latency_ms=0, **behaviour))
        return LiveSession(
            SessionKey("m", name, runtime, "default", "cpu"),
            Artifact(folder, name, "torch", TOKENS, (), {}),
            Tolerance(),
            RuntimeEntry(timeout=20.0),
            4,
            tmp_path / "logs",
        )

    return make


@pytest.fixture
def scorer(task: Classification, tmp_path: Path) -> Scorer:
    PROGRESS.clear()
    cache = ScoreCache(tmp_path / "scores")
    return Scorer(task, cache, {}, lambda label, done: PROGRESS.append((label, done)))


def test_scores_are_the_known_answers_and_the_session_stays_unopened(session, scorer, monkeypatch):
    threads: list[int] = []
    spawn = LiveSession.spawn
    monkeypatch.setattr(LiveSession, "spawn", lambda s: (threads.append(s.threads), spawn(s))[1])
    mine = session("a")
    [(scored, seconds)] = scorer.score([mine])
    assert isinstance(scored, Scored)
    # A healthy fake answers 0, 1, 2, 3 to everything: class 3.
    np.testing.assert_array_equal(scored.examples["predicted"], [3] * 5)
    np.testing.assert_array_equal(scored.examples["correct"], np.array(LABELS) == 3)
    assert scored.logits is not None
    assert scored.logits.shape == (5, CLASSES)
    assert seconds > 0
    assert threads == [4]  # alone it has all of them
    assert mine.start_s == 0.0  # nothing was spawned for the session itself
    assert PROGRESS[-1] == ("scoring 1 builds", 1.0)


def test_one_that_fails_leaves_the_others_alone(session, scorer, monkeypatch):
    threads: list[int] = []
    spawn = LiveSession.spawn
    monkeypatch.setattr(LiveSession, "spawn", lambda s: (threads.append(s.threads), spawn(s))[1])
    good, bad, crash = scorer.score(
        [session("good"), session("nan", fault="nan"), session("crash", fault="crash")]
    )
    assert isinstance(good[0], Scored)
    assert isinstance(bad[0], Incorrect)
    assert "test examples 0..4" in str(bad[0])
    assert "SIGSEGV" in str(crash[0])
    assert threads == [2, 2, 2]  # two side by side share four


def test_what_was_scored_is_found_again_without_a_worker(session, scorer, monkeypatch):
    [(first, _)] = scorer.score([session("a")])
    monkeypatch.setattr(LiveSession, "spawn", lambda s: pytest.fail("a worker was started"))
    [(again, seconds)] = scorer.score([session("a")])
    assert seconds == 0.0
    assert again.examples.keys() == first.examples.keys()
    for name, values in first.examples.items():
        np.testing.assert_array_equal(again.examples[name], values)
    np.testing.assert_array_equal(again.logits, first.logits)


def test_sessions_of_one_artifact_on_one_runtime_are_scored_once(session, scorer, monkeypatch):
    spawned = []
    spawn = LiveSession.spawn
    monkeypatch.setattr(LiveSession, "spawn", lambda s: (spawned.append(s), spawn(s))[1])
    (one, _), (other, _) = scorer.score([session("a"), session("a")])
    assert len(spawned) == 1
    np.testing.assert_array_equal(one.logits, other.logits)


def test_failures_are_not_remembered(session, scorer):
    [(failed, _)] = scorer.score([session("a", fault="nan")])
    assert isinstance(failed, Incorrect)
    [(scored, _)] = scorer.score([session("a")])
    assert isinstance(scored, Scored)


@pytest.mark.parametrize("one_shape", [False, True])
def test_padding_to_one_shape_changes_no_score(task, one_shape):
    shapes = set()

    def answer(feeds, labels):
        from runtimes.likelihood import answers

        shapes.add(feeds["input_ids"].shape)
        # The number of tokens decides the answer, padding aside.
        length = feeds["attention_mask"].sum(axis=1)
        return answers(np.eye(CLASSES, dtype=np.float32)[length % CLASSES], labels)

    scored = score(task, answer, one_shape=one_shape)
    np.testing.assert_array_equal(scored.examples["predicted"], [3, 0, 1, 2, 3])
    assert shapes == ({(32, 16)} if one_shape else {(5, 7)})


def test_damaged_scores_are_computed_again(tmp_path: Path) -> None:
    cache = ScoreCache(tmp_path)
    cache.put("key", Scored({"correct": np.arange(4000) % 3 == 0}, None))
    path = tmp_path / "key.npz"
    whole = path.read_bytes()
    for place in range(40, len(whole), max(1, len(whole) // 50)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        found = cache.get("key")
        assert found is None or np.array_equal(found.examples["correct"], np.arange(4000) % 3 == 0)
    path.write_bytes(whole[: len(whole) // 2])
    assert cache.get("key") is None


def test_the_reference_is_known_to_lose_nothing(task) -> None:
    scores = Scored(
        {
            "correct": np.array([True, False] * 20),
            "predicted": np.zeros(40, np.int64),
            "label": np.zeros(40, np.int64),
            "nll": np.ones(40),
        },
        None,
    )
    same = Scored(dict(scores.examples), None)
    assert columns(task, scores, scores)["accuracy_drop_bound"] == 0.0
    # Another session that answers alike has been seen to lose nothing on 40 examples, no more.
    assert columns(task, same, scores)["accuracy_drop_bound"] > 0.05
