from __future__ import annotations

import base64
import hashlib
import html
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import reports
from reports.decision import decide
from reports.html.page import render
from reports.results import load

VOID = {"meta", "br", "hr", "input", "img", "link"}
HOSTILE = [
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</title></style><svg onload=alert(1)>",
    "../../etc/passwd",
    "javascript:alert(1)",
    "<!--",
    "]]>",
    "&lt;b&gt;",
    "{{7*7}}",
    "ünïcode 模型 \u202e",
]


class Page(HTMLParser):
    """Reads a page as a browser does, and notes what it would act on."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def rendered(rows: list[dict], run: dict | None = None, samples: dict | None = None) -> str:
    return render(rows, run or {}, decide(rows), samples or {})


@pytest.fixture(scope="module")
def demo_page(demo_run: Path) -> str:
    results = load(demo_run)
    return render(results.rows, results.run, decide(results.rows), results.sketch())


def test_page_answers_first_and_has_every_section(demo_page: str) -> None:
    page = Page(demo_page)
    assert page.tags.count("h1") == 1
    assert demo_page.index("<h1>Ship int8-static on onnxruntime-cpu</h1>") < demo_page.index(
        "<section"
    )
    sections = [value for tag, name, value in page.attributes if (tag, name) == ("section", "id")]
    assert sections == [
        "tradeoff",
        "latency",
        "memory",
        "accuracy",
        "lineage",
        "cells",
        "failures",
        "environment",
        "reproduce",
    ]
    words = "".join(page.texts)
    for said in ("SIGSEGV", "Intel Xeon Platinum 8488C", "assay run quickstart", "202617f0c1"):
        assert said in words


def test_page_has_a_row_for_every_cell(demo_page: str) -> None:
    table = demo_page[demo_page.index('id="cells-table"') :]
    assert table[: table.index("</table>")].count("<tr>") == 1 + 56


def test_page_explains_every_column_of_the_table(demo_page: str) -> None:
    head = demo_page[demo_page.index('id="cells-table"') : demo_page.index("</thead>")]
    titles = re.findall(r'<button title="([^"]+)"', head)
    assert len(titles) == head.count("<th") - head.count("<thead")
    assert all(len(title.split("\n")) == 2 for title in titles)


def test_page_fetches_nothing(demo_page: str) -> None:
    page = Page(demo_page)
    assert not {"link", "img", "iframe", "object", "embed", "base", "a"} & set(page.tags)
    assert not {name for _, name, _ in page.attributes} & {"src", "href", "action", "srcset"}
    assert not re.search(r"https?:|//[a-z]|url\(|@import|fetch\(|XMLHttp|WebSocket", demo_page)


def test_page_policy_allows_its_own_script_alone(demo_page: str) -> None:
    [policy] = re.findall(r'Content-Security-Policy" content="([^"]+)"', demo_page)
    policy = html.unescape(policy)
    [script] = re.findall(r"<script>(.*?)</script>", demo_page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{digest}';" in policy


def test_page_shows_hostile_names_as_text(make_row) -> None:
    rows, samples = [], {}
    for i, name in enumerate(HOSTILE):
        columns = dict.fromkeys(("model", "runtime", "attention", "workload", "device"), name)
        rows.append(
            make_row(
                name,
                cell_id=str(i),
                fallback=name,
                task=name,
                metric=name,
                metric_value=0.5,
                kernels=name,
                lineage='[{"step": "</script>", "parameters": {"<b>": "\\"><i>"}}]',
                **columns,
            )
        )
        rows.append(
            make_row(name, cell_id=f"{i}f", status="error", reason=name, latency_p50_ms=None)
        )
        samples[str(i)] = np.full(20, 10.0)
    run = {
        "suite": HOSTILE[0],
        "suite_text": HOSTILE[1],
        "command": HOSTILE[2],
        "environment": {HOSTILE[3]: HOSTILE[4]},
        "git": HOSTILE[0],
        "versions": {HOSTILE[0]: [HOSTILE[1]]},
        "resumed": [{"command": HOSTILE[0]}],
    }
    page = Page(rendered(rows, run, samples))
    plain = Page(rendered([make_row()], {"environment": {"a": "b"}}))
    assert page.tags.count("script") == 1
    assert page.tags.count("style") == 1
    ours = {"polygon", "ol", "li", "ul", "details", "summary", "pre", "h3", "small"}
    assert set(page.tags) - set(plain.tags) <= ours
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    words = "".join(page.texts)
    assert all(name in words for name in HOSTILE)


@pytest.mark.parametrize("count", [1, 200])
def test_page_renders_any_number_of_rows(make_row, count: int) -> None:
    rows = [
        make_row(f"r{i}", cell_id=str(i), latency_p50_ms=1.0 + i, accuracy_drop=i / 1e4)
        for i in range(count)
    ]
    text = rendered(rows)
    Page(text)
    assert text.count('<td class="status s-ok">') == count
    assert len(text) < 2_000_000


def test_page_renders_when_every_cell_failed(make_row) -> None:
    rows = [
        make_row(r, status="error", reason="no space", latency_p50_ms=None, accuracy_drop=None)
        for r in ("fp32", "int8")
    ]
    text = rendered(rows)
    Page(text)
    assert "<h1>Nothing to ship</h1>" in text
    assert 'id="tradeoff"' not in text


def test_page_renders_without_rows() -> None:
    text = rendered([])
    Page(text)
    assert "<h1>No cell in this run</h1>" in text


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ((1, None), "Intervals are of one process"),
        ((5, 5), "Builds had 5 fresh processes, and intervals hold how these differ. Where"),
        ((5, None), "Some intervals are of one process"),
    ],
)
def test_page_says_what_intervals_hold(make_row, counts, said: str) -> None:
    names = ("fp32", "int8")
    rows = [make_row(name, processes=n) for name, n in zip(names, counts, strict=True)]
    failed = make_row("int4", status="error", reason="killed", latency_p50_ms=None, processes=2)
    text = rendered([*rows, failed])
    assert said in text
    assert "2 fresh" not in text


@pytest.mark.parametrize(
    ("device", "runtimes", "warned"),
    [
        ("cuda:0", ["torch-eager", "onnxruntime-cuda"], True),
        ("cuda:0", ["torch-eager", "torch-compile"], False),
        ("cpu", ["torch-eager", "onnxruntime-cpu"], False),
    ],
)
def test_page_sets_no_memory_of_unlike_spans_side_by_side_without_a_word(
    make_row, device: str, runtimes: list[str], warned: bool
) -> None:
    held = {
        "memory_weights_bytes": 1 << 20,
        "memory_minimum_bytes": 2 << 20,
        "memory_in_use_bytes": 3 << 20,
        "memory_reserved_bytes": 4 << 20,
        "memory_waste_bytes": 1 << 20,
    }
    rows = [make_row("fp32", runtime=runtime, device=device, **held) for runtime in runtimes]
    assert ("not to be compared with torch" in rendered(rows)) == warned


def test_page_renders_without_accuracy(make_row) -> None:
    rows = [make_row(accuracy_drop=None, accuracy=None, top1_agreement=0.999)]
    text = rendered(rows)
    Page(text)
    assert 'id="accuracy"' not in text
    assert "99.90 %" in text


def test_page_renders_when_columns_are_missing(bare_row) -> None:
    Page(rendered([bare_row]))


def test_page_survives_infinities(make_row) -> None:
    row = make_row(max_abs_error=float("inf"), relative_error=float("inf"), accuracy_drop=None)
    text = rendered([row])
    Page(text)
    assert not re.search(r'(?:x|y|cx|cy|width|d|points)="[^"]*(?:nan|inf)', text)


def test_package_exports_load_lazily() -> None:
    assert reports.load is load
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        _ = reports.lode


def test_page_tells_what_each_runtime_stands_on_or_lacks(demo_page: str) -> None:
    assert "onnxruntime 1.23.0, python 3.11.7" in demo_page
    assert "no CUDA device: run on a machine with one" in demo_page
