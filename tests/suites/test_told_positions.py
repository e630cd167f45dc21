"""A decoder that is told its positions, beside its twin that counts them itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from compile.artifact import Artifact, Store
from compile.errors import InputError
from compile.models.resolve import resolve
from compile.models.source import source_artifact
from compile.parity import open_session
from runtimes.likelihood import Answers, answers
from suites.run import run
from suites.scoring import Scored, score
from suites.suite_file import Workload
from suites.tasks.examples import Examples
from suites.tasks.language import CausalLM
from suites.tasks.prepared import Prepared, Vocabulary
from suites.workload import workload_feeds

LENGTHS = (5, 9, 16, 12)


@pytest.fixture
def task() -> CausalLM:
    random = np.random.default_rng(3)
    rows = [random.integers(3, 20, length).astype(np.int32) for length in LENGTHS]
    examples = Examples.of(rows)
    splits = {"train": examples, "calibration": examples, "test": examples}
    data = Prepared(splits, Vocabulary(20, 0, 1, 2, (0, 1, 2)), 16, (), np.arange(20), "small")
    return CausalLM("small", data, {"steps": 1})


def source(path: Path) -> Artifact:
    return source_artifact(resolve(str(path), base=path.parent), Store(path.parent / "store"))


def scored(artifact: Artifact, task: CausalLM) -> Scored:
    session = open_session(artifact.folder / "model.onnx")

    def answer(feeds: dict[str, np.ndarray], labels: np.ndarray) -> Answers:
        return answers(session.run(["logits"], feeds)[0], labels)

    return score(task.for_signature(artifact.signature), answer)


def test_both_score_alike(gpt2_file: Callable[..., Path], task: CausalLM) -> None:
    told, counts = (scored(source(gpt2_file(64, told=t)), task) for t in (True, False))
    assert told.examples.keys() == counts.examples.keys()
    for name, values in counts.examples.items():
        np.testing.assert_allclose(told.examples[name], values, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    "workload",
    [
        Workload(kind="prefill", batch=2, sequence=7),
        Workload(kind="decode", batch=2, past=9),
        Workload(kind="decode", batch=2, past=9, sequence=1),
    ],
)
def test_workloads_ask_the_same_of_both(
    gpt2_file: Callable[..., Path], task: CausalLM, workload: Workload
) -> None:
    artifact, twin = (source(gpt2_file(64, told=told)) for told in (True, False))
    feeds = workload_feeds(workload, artifact.signature, task, None, 0)
    session, other = (open_session(a.folder / "model.onnx") for a in (artifact, twin))
    (got,) = session.run(["logits"], feeds)
    positions = feeds.pop("position_ids")
    assert positions[0, 0] == (workload.past or 0)
    np.testing.assert_allclose(got, other.run(["logits"], feeds)[0], atol=1e-5)


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("asked", ["sequence = 100", 'kind = "decode"\npast = 5000'])
def test_a_workload_longer_than_the_table_is_refused(
    gpt2_file: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    told: bool,
    asked: str,
) -> None:
    monkeypatch.setenv("ASSAY_HOME", str(tmp_path / "home"))
    suite = tmp_path / "long.toml"
    suite.write_text(f"""
[matrix]
model = ["m"]
runtime = ["onnxruntime-cpu"]
workload = ["long"]
[models.m]
source = "{gpt2_file(64, told=told).name}"
[workloads.long]
{asked}
""")
    with pytest.raises(InputError, match=r"workloads\.long.* more than .* maximum of 64"):
        run(str(suite), tmp_path / "out")
