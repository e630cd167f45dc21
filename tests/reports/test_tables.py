from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from reports.results import load
from reports.tables import console_failures, console_table, headings, markdown_table, terminal


def shown(renderable: object) -> str:
    console = Console(file=io.StringIO(), width=200, force_terminal=False)
    console.print(renderable)
    return console.file.getvalue()


def test_headings_leave_out_axes_that_do_not_vary(make_row) -> None:
    titles = [h.title for h in headings([make_row("a"), make_row("b")])]
    assert titles == ["recipe", "runtime", "p50", "artifact", "accuracy", "drop, %"]
    titles = [h.title for h in headings([make_row("a"), make_row("a", workload="b8")])]
    assert "workload" in titles


def test_console_table_lists_measured_rows_by_speed_with_intervals(make_row) -> None:
    text = shown(
        console_table(
            [
                make_row("slow", latency_p50_ms=20.0),
                make_row("quick", latency_p50_ms=4.0),
                make_row("broken", status="error", reason="gone", latency_p50_ms=None),
            ]
        )
    )
    assert text.index("quick") < text.index("slow")
    assert "4.00 ms [3.96, 4.04]" in text
    assert "0.00 [-0.20, 0.20]" in text
    assert "broken" not in text


def test_console_tables_obey_no_markup_in_names(make_row) -> None:
    row = make_row("[red]int8[/red]", runtime="[/]")
    assert "[red]int8[/red]" in shown(console_table([row]))
    failed = {**row, "status": "error", "reason": "[bold]no[/bold]"}
    assert "[bold]no[/bold]" in shown(console_failures([failed]))


def test_terminal_ends_with_what_to_ship(demo_run: Path) -> None:
    text = " ".join(shown(terminal(load(demo_run))).split())
    assert "Ship int8-static on onnxruntime-cpu for tiny-encoder, b8x128 on cpu:" in text
    assert "worker died with signal 11" in text


def test_console_failures_gather_cells_of_one_reason(make_row) -> None:
    failed = {"status": "unsupported", "reason": "no CUDA device", "latency_p50_ms": None}
    text = shown(
        console_failures(
            [make_row("int8", workload=w, **failed) for w in ("b1", "b8")] + [make_row("fp32")]
        )
    )
    assert text.count("no CUDA device") == 1
    assert "  int8 on onnxruntime-cpu (b1, b8)" in text
    assert console_failures([make_row()]) is None


def test_console_failures_name_the_model_when_there_are_several(make_row) -> None:
    failed = {"status": "timeout", "reason": "60 s", "latency_p50_ms": None}
    rows = [make_row("int8", model=model, **failed) for model in ("tiny", "large")]
    text = shown(console_failures(rows))
    assert "tiny: int8 on onnxruntime-cpu (b1); large: int8 on onnxruntime-cpu (b1)" in text


def test_markdown_table_has_one_line_a_row_whatever_the_names_hold(make_row) -> None:
    text = markdown_table([make_row("a|b\n<script>`*", latency_p50_ms=4.0), make_row("c")])
    lines = text.strip().split("\n")
    assert len(lines) == 4
    assert all(line.replace("\\|", "").count("|") == 7 for line in lines)
    assert "<script>" not in text
    assert "a\\|b &lt;script&gt;\\`\\*" in text


def test_markdown_table_says_so_when_nothing_was_measured(make_row) -> None:
    row = make_row(status="error", reason="x", latency_p50_ms=None)
    assert markdown_table([row]) == "No cell was measured.\n"
