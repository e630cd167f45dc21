"""The builder: a process that trains, exports and compresses, so that ``assay`` itself stays small.

torch and the exporter need a gigabyte and may crash; the process that asks for artifacts needs
neither. A builder that dies takes one build with it: the next request starts another.
"""

from __future__ import annotations

import contextlib
import faulthandler
import multiprocessing
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

from compile.artifact import Artifact, Kind, Made, Step, Store
from compile.data import DataSource
from compile.errors import Incorrect, InputError, Unsupported
from compile.models import zoo
from compile.models.hub_files import model_tokenizer
from quantize.recipe import Recipe, load_recipe
from suites.suite_file import ModelEntry, TaskEntry
from suites.tasks.registry import load_task
from suites.tasks.synthetic import Synthetic
from suites.tasks.task import Task

Progress = Callable[[str, float], None]
"""Called with what is being done and the fraction of it that is done (0..1)."""

Status = Literal["unsupported", "incorrect", "out-of-memory", "timeout", "error"]


class BuildFailed(RuntimeError):
    """A build ended without an artifact. ``status`` is what its cells' rows will say."""

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class BuildRequest:
    """One artifact: a model, a recipe, and the kind that the runtime opens."""

    model: ModelEntry
    base: Path
    """Where the model's relative paths start."""
    task: str | TaskEntry | None
    recipe: Recipe
    target: Kind


class Builder:
    """The parent's side. Starts the process at the first request, and again after a crash."""

    def __init__(
        self, store: Store, log: Path, progress: Progress, timeout: float = 3600.0
    ) -> None:
        self._store = store
        self._log = log
        self._progress = progress
        self._timeout = timeout
        self._process: multiprocessing.process.BaseProcess | None = None
        self._connection: Connection | None = None

    def __enter__(self) -> Builder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def build(self, request: BuildRequest) -> Artifact:
        """The artifact, found or made. Raises BuildFailed, or InputError for a user's mistake."""
        connection = self._connect()
        try:
            connection.send(request)
            kind, *rest = self._answer(connection)
        except (EOFError, OSError) as error:
            raise BuildFailed("error", self._how_it_died()) from error
        if kind == "input":
            raise InputError(rest[0])
        if kind == "failed":
            raise BuildFailed(*rest)
        return Artifact.load(Path(rest[0]))

    def close(self) -> None:
        """End the process. The memory that building took is returned before anything is timed."""
        if self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.send(None)
            self._connection.close()
        if self._process is not None:
            self._process.join(10)
            if self._process.is_alive():
                self._process.kill()
                self._process.join()
        self._process = self._connection = None

    def _connect(self) -> Connection:
        if self._connection is None:
            context = multiprocessing.get_context("spawn")
            ours, theirs = context.Pipe()
            self._process = context.Process(
                target=_serve, args=(theirs, self._store.root, self._log), daemon=True
            )
            self._process.start()
            theirs.close()
            self._connection = ours
        return self._connection

    def _answer(self, connection: Connection) -> tuple[Any, ...]:
        while True:
            if not connection.poll(self._timeout):
                self._kill()
                raise BuildFailed("timeout", f"nothing was heard of it for {self._timeout:g} s")
            message = connection.recv()
            if message[0] != "progress":
                return message
            self._progress(*message[1:])

    def _kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self.close()

    def _how_it_died(self) -> str:
        assert self._process is not None
        self._process.join(10)
        code = self._process.exitcode
        self.close()
        if code is not None and code < 0:
            return f"the builder was killed by {signal.Signals(-code).name}; see {self._log}"
        return f"the builder ended with exit code {code}; see {self._log}"


def _serve(connection: Connection, root: Path, log: Path) -> None:
    """The builder's main loop. What libraries print goes to the log, not to the user's terminal."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The parent decides what Ctrl-C ends.
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    faulthandler.enable()

    def progress(text: str, fraction: float) -> None:
        connection.send(("progress", text, fraction))

    store = Store(root)
    while (request := _next(connection)) is not None:
        connection.send(_answer_to(request, store, progress))


def _next(connection: Connection) -> BuildRequest | None:
    try:
        return connection.recv()
    except EOFError:
        return None


def _answer_to(request: BuildRequest, store: Store, progress: Progress) -> tuple[Any, ...]:
    """Every failure becomes an answer: one build must not end the others."""
    try:
        return ("done", str(make(request, store, progress).folder))
    except InputError as error:
        return ("input", str(error))
    except Unsupported as error:
        return ("failed", "unsupported", str(error))
    except Incorrect as error:
        return ("failed", "incorrect", str(error))
    except MemoryError as error:
        return ("failed", "out-of-memory", str(error) or "the builder ran out of memory")
    except Exception as error:  # noqa: BLE001 - it becomes the row of this build's cells
        traceback.print_exc()
        sys.stderr.flush()
        first_line = (str(error).strip().splitlines() or [""])[0]
        return ("failed", "error", f"{type(error).__name__}: {first_line}"[:500])


def make(request: BuildRequest, store: Store, progress: Progress) -> Artifact:
    """Make an artifact in this process (the builder's, or a script's)."""
    from quantize.build import build

    task = None
    if request.task:
        tokenizer = model_tokenizer(request.model.source, request.base)
        task = load_task(request.task, request.base, tokenizer)
    source = _source(request, task, store, progress)
    data: DataSource | None = task.for_artifact(source) if task else None
    if data is None and request.model.calibration == "synthetic":
        data = Synthetic(source.signature)
    return build(
        request.recipe, source, request.target, store, data, lambda text: progress(text, 0)
    )


def _source(request: BuildRequest, task: Task | None, store: Store, progress: Progress) -> Artifact:
    """The fp32 model before any pass: as its author made it, or trained here if it is the zoo's."""
    from compile.models.resolve import resolve
    from compile.models.source import source_artifact

    found = resolve(
        request.model.source,
        base=request.base,
        task=task.kind if task else None,
        classes=len(task.classes) if task else request.model.classes,
    )
    progress(f"model {found.text}", 0)
    artifact = source_artifact(found, store)
    if task is None or not (found.trained and request.model.train):
        return artifact
    return _trained(artifact, task, store, progress)


def _trained(artifact: Artifact, task: Task, store: Store, progress: Progress) -> Artifact:
    from compile.models.model import load_model, save_model
    from compile.training import VERSION, TrainSettings, train

    settings = TrainSettings(**task.default_settings)
    step = Step("train", VERSION, asdict(settings), task.fingerprint, libraries=("torch",))

    def make_trained(folder: Path) -> Made:
        model = load_model(artifact.folder)
        result = train(
            model.module,
            task.for_artifact(artifact),
            settings,
            progress=lambda done, total, loss: progress(f"training, loss {loss:.3f}", done / total),
            resume_folder=store.root / "checkpoints" / step.key(artifact),
        )
        return save_model(model, folder, facts=result.facts())

    return store.derive(step, artifact, make_trained)


def build_into(
    model: str,
    recipe: str,
    out: Path,
    task: str | None,
    classes: int | None,
    kind: Kind | None,
    progress: Progress,
) -> Artifact:
    """``assay build``: one artifact, copied out of the store into a folder that does not exist
    yet or is empty. Raises InputError for what the user can mend, BuildFailed otherwise."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists and is not empty: name another folder")
    if classes is not None and classes < 2:
        raise InputError(f"--classes must be at least 2, not {classes}")
    trained = zoo.ZOO[model].trained if model in zoo.ZOO else False
    if trained and task is None:
        raise InputError(f"{model} is trained on a task: name one with --task")
    asked = load_recipe(recipe, Path.cwd())
    kind = kind or ("torch" if any(step.why_not("onnx") for step in asked.passes) else "onnx")
    store = Store.default()
    log = store.root.parent / "logs" / "build.log"
    entry = ModelEntry(source=model, task=task, classes=classes)
    with Builder(store, log, progress) as builder:
        artifact = builder.build(BuildRequest(entry, Path.cwd(), task, asked, kind))
    try:
        shutil.copytree(artifact.folder, out, dirs_exist_ok=True)
    except OSError as error:
        raise InputError(f"{out} cannot be written: {error.strerror or error}") from error
    return Artifact.load(out)
