"""Preparing a task's data in a process of its own.

Parsing and tokenizing ten megabytes of text takes half a gigabyte for some seconds. The process
that reports to the user would keep it; this one gives it back.

    python -m suites.tasks.prepare DRAFT < recipe.json
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from compile.errors import InputError
from suites.tasks.corpus import standard_library
from suites.tasks.prepared import Prepared, save_prepared
from suites.tasks.task import Kind

_INPUT_ERROR = 2


@dataclass(frozen=True)
class Recipe:
    """What to prepare, as plain values."""

    kind: Kind
    data: str | None = None
    """The user's file; None for the embedded data."""
    columns: tuple[str, ...] = ()
    tokenizer: str | None = None
    """A ``tokenizer.json`` or the folder of one; None for the embedded tokenizer."""
    max_length: int | None = None


def prepare_apart(recipe: Recipe, draft: Path) -> None:
    """Write the data that ``recipe`` describes to ``draft``. Raises InputError for the user's
    data, RuntimeError where the process dies."""
    house = str(Path(__file__).parents[2])
    path = os.pathsep.join([house, *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-P", "-m", "suites.tasks.prepare", str(draft)],
        input=json.dumps(asdict(recipe)),
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == _INPUT_ERROR:
        raise InputError(done.stderr.strip())
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise RuntimeError(f"the data of task {recipe.kind!r} could not be prepared: {reason}")


def prepare(recipe: Recipe) -> Prepared:
    """The data that ``recipe`` describes, in this process."""
    from suites.tasks import embedded
    from suites.tasks.tokenizer import embedded_tokenizer, load_tokenizer, padding_token
    from suites.tasks.user_data import prepare_user_data, read_columns

    if recipe.data is None:
        return embedded.prepare(recipe.kind, standard_library())
    assert recipe.max_length is not None
    rows = read_columns(Path(recipe.data), recipe.columns)
    if recipe.tokenizer is None:
        tokenizer, pad = embedded_tokenizer(standard_library()), None
    else:
        file = Path(recipe.tokenizer)
        tokenizer, pad = load_tokenizer(file), padding_token(file)
    source = Path(recipe.data)
    return prepare_user_data(rows, recipe.kind, tokenizer, recipe.max_length, source, pad)


def main() -> int:
    data = json.load(sys.stdin)
    try:
        made = prepare(Recipe(**{**data, "columns": tuple(data["columns"])}))
    except InputError as error:
        print(error, file=sys.stderr)
        return _INPUT_ERROR
    save_prepared(made, Path(sys.argv[1]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
