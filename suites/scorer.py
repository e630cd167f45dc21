"""Every session's results on the task's test split, each in a worker that is never timed.

Scoring makes thousands of calls of many shapes, for which runtimes keep kernels and memory. In a
worker of its own it leaves no trace in the session that is measured, whether the scores were
computed in this run or found from an earlier one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from runtimes import doctor, registry
from suites import rows
from suites.blocks import SHARE_OF_MEMORY, available_memory, session_bytes
from suites.scoring import BATCH, VERSION, Scored, score
from suites.sessions import LiveSession
from suites.tasks.task import Task

AT_ONCE = 2
"""Workers that score side by side, the cores shared among them: two small models on a thread each
are faster than one on two, and one imports its libraries while the other computes."""


class ScoreCache:
    """Scores by what decides them: the artifact, the runtime with its versions and options, the
    data. They are deterministic, so that a second run need not compute them again; times never
    are, and are never kept."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def get(self, key: str) -> Scored | None:
        try:
            with np.load(self._root / f"{key}.npz", allow_pickle=False) as file:
                arrays = dict(file)
        except Exception:  # noqa: BLE001 - a damaged file raises anything, from zlib to tokenize
            return None
        logits = arrays.pop("__logits__", None)
        return Scored(arrays, logits) if arrays else None

    def put(self, key: str, scores: Scored) -> None:
        arrays = dict(scores.examples)
        if scores.logits is not None:
            arrays["__logits__"] = scores.logits
        draft = self._root / f".{key}.{os.getpid()}.npz"
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            np.savez_compressed(draft, allow_pickle=False, **arrays)
            draft.replace(self._root / f"{key}.npz")
        except OSError:
            # A full disk costs the next run some seconds, and must not end this one.
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)
        finally:
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)

    @staticmethod
    def key(**parts: Mapping[str, Any] | str | int) -> str:
        text = json.dumps(parts, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


class Scorer:
    """Scores sessions on a task's test split, each (artifact, runtime, options) once."""

    def __init__(
        self,
        task: Task,
        cache: ScoreCache,
        versions: Mapping[str, Mapping[str, str]],
        progress: Callable[[str, float], None],
    ) -> None:
        """``versions`` are those of the distributions that each runtime stands on."""
        self._task = task
        self._cache = cache
        self._versions = versions
        self._progress = progress
        self._processor = {name: doctor.cpu()[name] for name in ("model", "isa")}

    def score(self, sessions: Sequence[LiveSession]) -> list[tuple[Scored | Exception, float]]:
        """Each session's scores, or what ended their computation, and the seconds it took.

        The sessions themselves are not opened.
        """
        keys = [self._key(session) for session in sessions]
        results: dict[str, tuple[Scored | Exception, float]] = {
            key: (found, 0.0)
            for key in dict.fromkeys(keys)
            if (found := self._cache.get(key)) is not None
        }
        wanted = {k: s for k, s in zip(keys, sessions, strict=True) if k not in results}
        at_once = _at_once(list(wanted.values()))
        apart = {k: s.apart(max(1, s.threads // at_once)) for k, s in wanted.items()}
        # Those that compile first take longest: begun last, one would be waited for alone.
        missing = sorted(apart, key=lambda key: not _compiles(apart[key]))
        done = dict.fromkeys(missing, 0.0)

        def compute(key: str) -> tuple[Scored | Exception, float]:
            def progress(fraction: float) -> None:
                done[key] = fraction
                share = sum(done.values()) / len(done)
                self._progress(f"scoring {len(done)} builds", share)

            start = time.perf_counter()
            outcome = self._scored(apart[key], progress)
            if isinstance(outcome, Scored):
                self._cache.put(key, outcome)
            return outcome, time.perf_counter() - start

        # A worker dies with the thread that spawned it: each is spawned and closed in one call.
        pool = ThreadPoolExecutor(at_once)
        try:
            results |= dict(zip(missing, pool.map(compute, missing), strict=True))
        except BaseException:  # a Ctrl-C does not wait for the test split's end
            pool.shutdown(wait=False, cancel_futures=True)
            for session in apart.values():
                session.abandon()
            raise
        pool.shutdown()
        return [results[key] for key in keys]

    def _scored(
        self, session: LiveSession, progress: Callable[[float], None]
    ) -> Scored | Exception:
        try:
            return score(
                self._task.for_artifact(session.artifact),
                session.worker.answer,
                one_shape=_compiles(session),
                progress=progress,
            )
        except rows.SESSION_FAILURES as error:
            return error
        finally:
            session.close()

    def _key(self, session: LiveSession) -> str:
        return ScoreCache.key(
            artifact=session.artifact.key,
            task=self._task.fingerprint,
            runtime=session.key.runtime,
            # Threads change the rounding of a sum and no more.
            options=asdict(replace(session.options, threads=1)),
            versions=self._versions.get(session.key.runtime, {}),
            # Integer kernels saturate on some processors and not on others.
            processor=self._processor,
            scoring={"version": VERSION, "batch": BATCH},
        )


def _compiles(session: LiveSession) -> bool:
    return registry.entry(session.key.runtime).compiles_shapes


def _at_once(sessions: Sequence[LiveSession]) -> int:
    """As many workers as there are and fit into memory whichever they are, at most ``AT_ONCE``."""
    largest = max((session_bytes(s.artifact.bytes, s.key.runtime) for s in sessions), default=1)
    fit = int(available_memory() * SHARE_OF_MEMORY) // largest
    return max(1, min(AT_ONCE, fit, len(sessions)))
