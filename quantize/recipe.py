"""Recipes: ordered lists of passes, written in TOML, checked before anything is built.

description = "INT8 with ranges from calibration data"

[[passes]]
pass = "int8"
mode = "static"

[tolerance]
min_snr_db = 15.0
"""

from __future__ import annotations

import difflib
import itertools
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from compile.errors import InputError
from quantize.passes import (
    PASSES,
    Awq,
    Distill,
    Int4,
    Int8,
    Pass,
    Prune,
    PruneStructured,
    Qat,
    Smooth,
)

SHIPPED = Path(__file__).parent / "recipes"
PLAIN = {
    "tuple_type": "must be a list",
    "model_type": "must be a table",
    "model_attributes_type": "must be a table",
}
"""Messages in the words of TOML where pydantic speaks of Python's types."""
Checked = TypeVar("Checked", bound=BaseModel)


class Tolerance(BaseModel):
    """How far a build's outputs may be from those of the fp32 reference before they are
    ``incorrect``. Outputs that are not finite always are."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    min_snr_db: float | None = Field(default=None, ge=0)
    """Floor of the signal-to-noise ratio, 10 log10(sum ref^2 / sum (ref - out)^2). Left out
    where a recipe makes another function on purpose (a distilled student, a pruned model)."""
    min_top1_agreement: float | None = Field(default=None, ge=0, le=1)
    """Floor of the share of positions whose largest logit is the reference's."""


class Recipe(BaseModel):
    """A named, ordered list of passes and what its result is held to."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: str
    description: str = ""
    passes: tuple[Pass, ...] = ()
    tolerance: Tolerance = Tolerance()

    @property
    def needs_data(self) -> bool:
        return any(step.needs_data for step in self.passes)

    def trained_part(self) -> Recipe:
        """The passes that make another function on purpose (a student, a pruned model, weights
        trained further): what is left of the recipe when nothing is only stored in another
        format."""
        trained = Distill | PruneStructured | Prune | Qat
        passes = tuple(step for step in self.passes if isinstance(step, trained))
        return Recipe(name=f"{self.name}, its trained part", passes=passes)

    def to_table(self) -> dict[str, Any]:
        """The recipe as JSON values that ``recipe_from_table`` reads back.

        Only what was written is kept: a default parameter stays a default.
        """
        table = self.model_dump(mode="json", exclude={"name", "passes"}, exclude_none=True)
        table["passes"] = [
            {"pass": step.name, **step.model_dump(mode="json", exclude_unset=True)}
            for step in self.passes
        ]
        return table


def shipped_recipes() -> list[str]:
    """Names of the recipes that come with Assay."""
    return sorted(path.stem for path in SHIPPED.glob("*.toml"))


def load_recipe(reference: str, base: Path) -> Recipe:
    """A shipped recipe by its name, or the TOML file at a path relative to ``base``.

    A reference is a path when it ends in ``.toml`` or holds a separator. Raises InputError for
    one that does not exist, cannot be read, or is not a valid recipe.
    """
    if not (reference.endswith(".toml") or "/" in reference or "\\" in reference):
        shipped = shipped_recipes()
        if reference not in shipped:
            raise InputError(
                f"unknown recipe {reference!r}{_nearest(reference, shipped)}; shipped are "
                f"{', '.join(shipped)}; a recipe of your own is named by its .toml file"
            )
        path = SHIPPED / f"{reference}.toml"
    else:
        path = base / Path(reference).expanduser()
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"recipe {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"recipe {path} is not valid TOML: {error}") from error
    return recipe_from_table(path.stem, table, str(path))


def recipe_from_table(name: str, table: Mapping[str, Any], where: str) -> Recipe:
    """Check a recipe's table. ``where`` (a file, a key of a suite) begins every message.

    Raises InputError naming the key, the value given and what is allowed.
    """
    rest = dict(table)
    entries = rest.pop("passes", [])
    if not isinstance(entries, list):
        raise InputError(f"{where}: passes must be an array of tables, [[passes]]")
    passes = tuple(_pass(entry, f"{where}: passes[{i}]") for i, entry in enumerate(entries))
    _check_order(passes, where)
    if "name" in rest:
        raise InputError(f"{where}: name is not a key of a recipe; its file or table names it")
    # The tolerance is a table of its own, so its keys are checked against its own fields.
    tolerance = _validated(Tolerance, rest.pop("tolerance", {}), f"{where}: tolerance")
    return _validated(
        Recipe, {"name": name, "passes": passes, "tolerance": tolerance, **rest}, where
    )


def _pass(entry: Any, where: str) -> Pass:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("pass"), str):
        raise InputError(f'{where} must be a table that names its pass, like pass = "int8"')
    kind = PASSES.get(entry["pass"])
    if kind is None:
        raise InputError(
            f"{where}: unknown pass {entry['pass']!r}{_nearest(entry['pass'], PASSES)}; "
            f"passes are {', '.join(PASSES)}"
        )
    parameters = {key: value for key, value in entry.items() if key != "pass"}
    return _validated(kind, parameters, f"{where} ({kind.name})")


def _check_order(passes: tuple[Pass, ...], where: str) -> None:
    for earlier, later in itertools.pairwise(passes):
        if earlier.rank >= later.rank and not _share_layers(earlier, later):
            raise InputError(
                f"{where}: {later.name!r} cannot come after {earlier.name!r}; the order is "
                "distill, prune_structured, prune or qat (trained in torch), fuse, then awq or "
                "smooth, then at most one of fp16, bf16, fp8, int8, int4 (or several of the last "
                "two, each with layers of its own), because each pass would undo a later one "
                "before it"
            )
    for step, behind in itertools.pairwise((*passes, None)):
        if isinstance(step, Qat | Awq | Smooth) and (reason := step.why_not_before(behind)):
            raise InputError(f"{where}: {reason}")


def _share_layers(earlier: Pass, later: Pass) -> bool:
    """Whether the two are formats of unlike layers: what one has taken the other cannot take too,
    and is told so when it is built."""
    formats = Int8 | Int4
    return (
        isinstance(earlier, formats)
        and isinstance(later, formats)
        and bool(earlier.layers)
        and bool(later.layers)
    )


def _validated(model: type[Checked], table: Any, where: str) -> Checked:
    """Validate a table, with the first error told as one line: key, value, what is allowed."""
    try:
        return model.model_validate(table)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        allowed = [field for field in model.model_fields if field != "name"]
        raise InputError(
            f"{where}: unknown key {key!r}{_nearest(key, allowed)}; "
            f"allowed are {', '.join(allowed) or 'none'}"
        )
    message = PLAIN.get(first["type"], first["msg"].removeprefix("Value error, "))
    if not key:
        raise InputError(f"{where}: {message[0].lower()}{message[1:]}")
    raise InputError(f"{where}: {key} = {first['input']!r}: {message[0].lower()}{message[1:]}")


def _nearest(word: str, known: Iterable[str]) -> str:
    matches = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {matches[0]!r}?)" if matches else ""
