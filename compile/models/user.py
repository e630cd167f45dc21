"""A user's own model: ``path/to/file.py:factory``.

The factory takes no arguments and returns a tuple:

    (module, inputs)                    a torch module and a dict of named example inputs
    (module, inputs, task)              and what it is for (``text-classification``), or None
    (module, inputs, task, axes)        and what the inputs' axes are

``inputs`` holds tensors or arrays; the module is called with them as keywords. The first axis of
each is the batch unless ``axes`` says otherwise: a dict from an input's name to a tuple with one
entry an axis, a name where the size may vary, None where it may not. ``{"ids": ("batch",
"sequence"), "scale": ()}`` lets ``ids`` vary in both and ``scale`` in none.

What it is for is held against the suite's ``task``, which says on which data its accuracy is
measured.

The module returns a tensor, a tuple or list of tensors, or a dict (a transformers output too) of
tensors. Its outputs are called ``output``, ``output_0``, ``output_1`` ..., or by their keys.

Its weights are the module's state; torch's seed is set before the factory is called, so random
weights are the same each time.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from compile.artifact import Artifact, Step, Store, file_sha256
from compile.errors import InputError
from compile.models.adapter import KeywordAdapter, observe_outputs, run_named
from compile.models.config import TASKS
from compile.models.model import Model, load_weights, save_model
from compile.models.resolve import Reference
from compile.signature import Feeds, Signature, TensorSpec

OWN = ("assay", "compile", "quantize", "runtimes", "suites", "reports")
"""Assay's own modules, which a factory in a folder above them neither owns nor reloads."""
_IMPORTED: set[str] = set()
"""Names of the modules that user's models have imported from their folders."""
_DTYPES = {"int64", "int32", "int8", "uint8", "bool", "float32", "float16", "float64"}


def user_source(reference: Reference, store: Store) -> Artifact:
    """The starting artifact of a user's model, known by its file, weights and examples."""
    path, factory = reference.path, reference.factory
    assert path is not None
    assert factory is not None, "a reference to a user's model comes with its function"
    model = user_model(path, factory, name=reference.text, task=reference.task)
    parameters = {
        "family": "user",
        "name": model.name,
        "task": model.task,
        "origin": model.origin,
        "signature": model.signature.to_json(),
        "weights": _weights_hash(model),
    }
    step = Step("source", 1, parameters, libraries=("torch",))
    return store.derive(step, None, lambda folder: save_model(model, folder))


def user_model(path: Path, factory: str, *, name: str, task: str | None = None) -> Model:
    """The model that ``factory`` in ``path`` makes, tried on its own examples.

    ``task`` takes precedence over the factory's. Raises InputError naming the file and the
    function for every way in which this can go wrong.
    """
    where = f"{path}:{factory}"
    made = _call(path, factory)
    examples, axes = made.examples, made.axes
    if task and made.task and task != made.task:
        raise InputError(f"{where} says that its model is for {made.task}, the suite for {task}")
    inputs = tuple(_input_spec(where, n, a, axes.get(n)) for n, a in examples.items())
    if unknown := sorted(set(axes) - set(examples)):
        raise InputError(f"{where}: axes name an input {unknown[0]!r} that is not there")
    adapter = KeywordAdapter(made.module, tuple(examples)).eval()

    def call(feeds: Feeds, trying: str) -> dict[str, Tensor]:
        return _guard(where, f"gave a module that fails on {trying}:", run_named, adapter, feeds)

    outputs = observe_outputs(call, inputs, examples)
    for spec in outputs:
        if spec.dtype not in _DTYPES:
            raise InputError(f"{where}: output {spec.name!r} has type {spec.dtype}, not handled")
    return Model(
        name=name,
        module=adapter,
        signature=Signature(inputs, outputs),
        task=task or made.task,
        origin={
            "family": "user",
            "file": str(path),
            "factory": factory,
            "files": made.files,
        },
        examples=examples,
    )


def rebuild_user(origin: Mapping[str, Any], signature: Signature, weights: Path) -> nn.Module:
    """Call the origin's factory again and give its module the saved weights.

    Raises InputError where the file is gone or is no longer the one that the artifact came from.
    """
    path = Path(origin["file"])
    for name, sha256 in origin["files"].items():
        file = path.parent / name
        if not file.is_file() or file_sha256(file) != sha256:
            raise InputError(
                f"{file} is gone or was changed since this artifact was made; build it again"
            )
    module = _call(path, origin["factory"]).module
    load_weights(module, weights)
    return KeywordAdapter(module, tuple(spec.name for spec in signature.inputs))


class _Made(NamedTuple):
    """What a factory gave."""

    module: nn.Module
    examples: Feeds
    task: str | None
    axes: dict[str, tuple[str | None, ...]]
    files: dict[str, str]
    """SHA-256 of every file of Python that it took, by its path from the factory's folder."""


def _call(path: Path, factory: str) -> _Made:
    """Run the user's file and its factory; check the types of what comes back."""
    where = f"{path}:{factory}"
    with _beside(path) as files:
        function = getattr(_import(path), factory, None)
        if function is None:
            raise InputError(f"{where}: the file has no function {factory!r}")
        torch.manual_seed(0)
        returned = _guard(where, "raised", function)
    if not isinstance(returned, tuple) or not 2 <= len(returned) <= 4:
        raise InputError(
            f"{where} returned {_kind(returned)}; it has to return (module, inputs), "
            "(module, inputs, task) or (module, inputs, task, axes)"
        )
    module, inputs, task, axes = [*returned, None, None][:4]
    if not isinstance(module, nn.Module):
        raise InputError(f"{where}: the first value is {_kind(module)}, not a torch module")
    if not isinstance(inputs, Mapping) or not inputs:
        raise InputError(f"{where}: the inputs are {_kind(inputs)}, not a dict of named tensors")
    if task is not None and not isinstance(task, str):
        raise InputError(f"{where}: the task is {_kind(task)}, not a string")
    if axes is not None and not isinstance(axes, Mapping):
        raise InputError(f"{where}: the axes are {_kind(axes)}, not a dict of tuples")
    task = TASKS.get(task, task) if task else None
    if task is not None and task not in TASKS.values():
        raise InputError(f"{where}: unknown task {task!r}; there are {', '.join(TASKS.values())}")
    examples = {str(name): _array(where, name, value) for name, value in inputs.items()}
    return _Made(module.eval(), examples, task, dict(axes or {}), files)


@contextmanager
def _beside(path: Path) -> Iterator[dict[str, str]]:
    """What lies beside the file can be imported. At the end the dict holds what was.

    What user's models imported before is forgotten first: it is read as it is now, counted whoever
    imported it first, and no other folder's module of the same name.
    """
    files: dict[str, str] = {}
    for name in _IMPORTED | _local_modules(path.parent).keys():
        sys.modules.pop(name, None)
    sys.path.append(str(path.parent))
    try:
        yield files
        modules = _local_modules(path.parent)
        _IMPORTED.update(modules)
        local = {path, *modules.values()}
        files |= {str(file.relative_to(path.parent)): file_sha256(file) for file in sorted(local)}
    finally:
        sys.path.remove(str(path.parent))


def _local_modules(folder: Path) -> dict[str, Path]:
    """Imported modules that lie in ``folder``, installed packages below it aside."""
    found = {}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file is None or name == "__main__" or name.partition(".")[0] in OWN:
            continue
        path = Path(file)
        if path.is_relative_to(folder) and not {"site-packages", "dist-packages"} & {*path.parts}:
            found[name] = path
    return found


def _import(path: Path) -> Any:
    """The user's file as a module of its own."""
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    name = f"assay_user_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None, "a .py file has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up while it is being run
    _guard(str(path), "cannot be imported:", spec.loader.exec_module, module)
    return module


def _guard(where: str, what: str, function: Callable[..., Any], *args: Any, **named: Any) -> Any:
    """Call the user's code; whatever it raises is theirs to mend, and is told in one line."""
    try:
        return function(*args, **named)
    except (Exception, SystemExit) as error:
        line = next(iter(str(error).strip().splitlines()), "")
        raise InputError(f"{where} {what} {type(error).__name__}: {line}") from error


def _array(where: str, name: object, value: Any) -> np.ndarray:
    if not isinstance(value, Tensor | np.ndarray | np.generic):
        raise InputError(f"{where}: input {name!r} is {_kind(value)}, not a tensor or an array")
    dtype = str(value.dtype).removeprefix("torch.")
    if dtype not in _DTYPES:
        raise InputError(f"{where}: input {name!r} has type {dtype}, which is not handled")
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    return np.ascontiguousarray(value) if value.ndim else np.asarray(value)


def _input_spec(
    where: str, name: str, example: np.ndarray, axes: tuple[str | None, ...] | None
) -> TensorSpec:
    if 0 in example.shape:
        raise InputError(f"{where}: input {name!r} is empty")
    if axes is None:
        if not example.ndim:
            raise InputError(
                f"{where}: input {name!r} has no axis, so no batch; say {name!r}: () in the axes"
            )
        axes = ("batch", *(None,) * (example.ndim - 1))
    if not isinstance(axes, tuple | list) or len(axes) != example.ndim:
        raise InputError(
            f"{where}: the axes of input {name!r} are {axes!r}, but it has {example.ndim} of them"
        )
    shape = tuple(
        size if axis is None else str(axis) for axis, size in zip(axes, example.shape, strict=True)
    )
    integer = example.dtype.kind in "iu"
    high = int(example.max()) + 1 if integer else None
    return TensorSpec(name, example.dtype.name, shape, high)


def _weights_hash(model: Model) -> str:
    digest = hashlib.sha256()
    for name, tensor in model.module.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    for name, example in (model.examples or {}).items():
        digest.update(name.encode())
        digest.update(example.tobytes())
    return digest.hexdigest()


def _kind(value: object) -> str:
    return f"a {type(value).__name__}"
