"""How a comparison is told."""

from __future__ import annotations

import json

import numpy as np
from rich.console import Console

from reports.compare import Comparison, compare
from reports.comparison import telling

MIB = 2**20
RIGHT = np.ones(400, np.int64)


def shown(comparison: Comparison, width: int = 400) -> str:
    console = Console(width=width, record=True, color_system=None)
    with console.capture() as capture:
        console.print(telling.terminal(comparison))
    return capture.get()


def test_terminal_ends_with_the_verdict_and_leaves_out_what_is_the_same(write, row, drop):
    before = write("a", [row(), row("int8")], {"fp32": RIGHT, "int8": RIGHT})
    after = write(
        "b",
        [row(), row("int8", artifact_bytes=20 * MIB)],
        {"fp32": RIGHT, "int8": RIGHT},
        environment={"python": "3.12.1"},
    )
    text = shown(compare(before, after, drop))
    lines = [line for line in text.splitlines() if line.strip()]
    assert lines[-1].strip() == "WORSE: 1 worse, 3 same"
    worse = next(line for line in lines if line.startswith("worse"))
    assert worse.split() == [
        *("worse", "size", "tiny/int8/fake/default/*/cpu"),
        *("10.0", "MiB", "20.0", "MiB", "+100.0%"),
    ]
    assert text.count("accuracy drop 0.00 points [-1.00, 1.00]") == 2
    assert "not comparable: the environments differ" in text
    assert "4.00 ms [3.90, 4.10]" in text
    (memory,) = (line for line in lines if "int8" in line and "100 MiB" in line)
    readings = "100 MiB 100 MiB 10.0 MiB 10.0 MiB one reading each"
    assert " ".join(memory.split()[1:]) == readings


def test_markdown_and_json_say_everything(write, tmp_path, row, drop):
    before, after = write("a", [row()]), write("b", [row(artifact_bytes=20 * MIB)])
    comparison = compare(before, after, drop)
    telling.write(comparison, tmp_path / "deep" / "told")
    told = json.loads((tmp_path / "deep" / "told" / "compare.json").read_text())
    assert (told["verdict"], told["exit_code"]) == ("worse", 1)
    assert told["judgements"][0]["facts"]["after_bytes"] == 20 * MIB
    assert told["latencies"][0]["comparable"] is True
    assert told["latencies"][0]["after"]["latency_p50_low_ms"] == 3.9
    text = (tmp_path / "deep" / "told" / "compare.md").read_text()
    assert text.startswith("## WORSE: ")
    assert told["memory"][0]["before"]["memory_peak_bytes"] == 100 * MIB
    assert (
        "| tiny/fp32/fake/default/one/cpu | 100 MiB | 100 MiB | 10.0 MiB | 10.0 MiB | one reading "
        "each |" in text
    )
    assert "alike, on another day" in text


def test_hostile_names_stay_text(write, row, drop):
    name = "<script>|[red]x[/red]\n`"
    comparison = compare(write("a", [row(name)]), write("b", [row(name)]), drop)
    text = telling.markdown(comparison)
    assert "<script>" not in text
    assert all(line.count(" | ") == 5 for line in text.splitlines() if line.startswith("| same"))
    assert "[red]x[/red]" in shown(comparison)
