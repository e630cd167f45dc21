"""One column of a table, as it is declared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

Dtype = Literal["string", "json", "int", "float", "bool"]


@dataclass(frozen=True)
class Column:
    """One column of a table."""

    name: str
    dtype: Dtype
    """``json`` is text that holds a JSON value: rows may give the value itself."""
    unit: str
    """Empty where the value has none."""
    doc: str

    @property
    def arrow(self) -> pa.Field:
        kind = {
            "string": pa.string(),
            "json": pa.string(),
            "int": pa.int64(),
            "float": pa.float64(),
            "bool": pa.bool_(),
        }[self.dtype]
        return pa.field(self.name, kind, metadata={"unit": self.unit, "doc": self.doc})
