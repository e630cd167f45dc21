"""Edits of an ONNX graph in place, which several of its rewrites need."""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from compile.graph import subgraphs


def rename_reads(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Let every reader of a value read another, in branches and loop bodies too.

    The outputs of the graph itself keep their names: they are promised.
    """
    for inner in subgraphs(graph):
        for node in inner.node:
            for index, name in enumerate(node.input):
                if name in names:
                    node.input[index] = names[name]
        if inner is not graph:
            for value in inner.output:
                value.name = names.get(value.name, value.name)


def remove(repeated: object, items: list) -> None:
    """Remove these very messages (not equal ones) from a repeated field, in one pass."""
    gone = {id(item) for item in items}
    if not gone:
        return
    # A repeated field gives a new wrapper for each access only after the last one died; the
    # list in ``items`` keeps them alive, so identity holds.
    for index in range(len(repeated) - 1, -1, -1):  # type: ignore[arg-type]
        if id(repeated[index]) in gone:  # type: ignore[index]
            del repeated[index]  # type: ignore[attr-defined]
