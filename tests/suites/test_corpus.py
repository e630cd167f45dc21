"""The embedded corpus: its splits, its identity, and that nothing leaks between splits."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from compile.errors import Unsupported
from suites.tasks import corpus as corpus_module
from suites.tasks.corpus import Corpus, assign_splits, standard_library
from suites.tasks.leakage import LIMIT, Shingles, normalised, unseen, words
from suites.tasks.registry import load_task
from suites.tasks.snippets import KINDS, snippets

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return standard_library()


def test_corpus_holds_the_shares_that_it_promises(corpus: Corpus) -> None:
    sizes = {
        split: sum(len(module.text.encode()) for module in corpus.split(split))
        for split in ("train", "calibration", "test")
    }
    total = sum(sizes.values())
    assert total > 4_000_000
    assert sizes["test"] / total == pytest.approx(0.16, abs=0.03)
    assert sizes["calibration"] / total == pytest.approx(0.04, abs=0.03)
    assert len({module.path for module in corpus.modules}) == len(corpus.modules)


def test_corpus_leaves_out_tests_and_generated_files(corpus: Corpus) -> None:
    for module in corpus.modules:
        parts = set(module.path.split("/"))
        assert not parts & {"test", "tests", "site-packages", "pydoc_data", "__pycache__"}
        assert parts.isdisjoint({"_sysconfigdata", "idle_test"})
        assert "\r\n" not in module.text
    assert "encodings/cp1252.py" not in {module.path for module in corpus.modules}


def test_corpus_and_tasks_are_the_same_whatever_the_hash_seed(
    corpus: Corpus, tmp_path: Path
) -> None:
    script = (
        "import hashlib; from pathlib import Path\n"
        "from suites.tasks.corpus import standard_library\n"
        "from suites.tasks.prepare import Recipe, prepare\n"
        "from suites.tasks.prepared import save_prepared\n"
        "print(standard_library().fingerprint)\n"
        "data = prepare(Recipe('classification'))\n"
        "splits = [data.splits[name] for name in sorted(data.splits)]\n"
        "parts = [part for split in splits for part in (split.tokens, split.labels)]\n"
        "print(hashlib.sha256(b''.join(p.tobytes() for p in parts)).hexdigest())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "12345", "ASSAY_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    fingerprint, arrays = done.stdout.split()
    assert fingerprint == corpus.fingerprint
    splits = load_task("classification").data.splits
    assert arrays == _hash(
        [part for name in sorted(splits) for part in (splits[name].tokens, splits[name].labels)]
    )


def test_corpus_fingerprint_changes_when_a_byte_or_a_path_does(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(corpus_module, "MINIMUM_BYTES", 1)
    (tmp_path / "ast.py").write_text("x = 1\n")
    (tmp_path / "json").mkdir()
    (tmp_path / "json" / "__init__.py").write_text("y = 2\n")
    first = standard_library(tmp_path)
    assert standard_library(tmp_path).fingerprint == first.fingerprint
    (tmp_path / "ast.py").write_text("x = 3\n")
    second = standard_library(tmp_path)
    (tmp_path / "ast.py").rename(tmp_path / "abc.py")
    assert len({c.fingerprint for c in (first, second, standard_library(tmp_path))}) == 3


def test_corpus_survives_files_that_nobody_can_decode(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(corpus_module, "MINIMUM_BYTES", 1)
    (tmp_path / "ast.py").write_bytes(b"# coding: latin-1\nname = 'caf\xe9'\r\n")
    (tmp_path / "abc.py").write_bytes(b"name = '\xff\xfe'\n")
    (tmp_path / "bdb.py").write_bytes(b"# coding: no-such-codec\n")
    (tmp_path / "cmd.py").write_bytes(b"\xef\xbb\xbfx = 1\n")
    (tmp_path / "csv.py").write_bytes(b"")
    (tmp_path / "mine.py").write_text("not of the standard library\n")
    (tmp_path / "dis.py").symlink_to(tmp_path / "nowhere.py")
    texts = {module.path: module.text for module in standard_library(tmp_path).modules}
    assert texts == {"ast.py": "# coding: latin-1\nname = 'café'\n", "cmd.py": "x = 1\n"}


def test_corpus_is_unsupported_when_the_library_is_not_there_as_files(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="use a Python that ships it as files"):
        standard_library(tmp_path)


def test_splits_do_not_depend_on_the_order_of_files() -> None:
    sizes = {f"module_{i}.py": 100 + i for i in range(300)}
    backwards = dict(reversed(sizes.items()))
    assert assign_splits(sizes) == assign_splits(backwards)
    shares = [
        sum(sizes[p] for p, s in assign_splits(sizes).items() if s == name)
        for name in ("test", "calibration", "train")
    ]
    np.testing.assert_allclose(np.array(shares) / sum(sizes.values()), [0.16, 0.04, 0.8], atol=0.01)


@pytest.mark.parametrize("name", ["classification", "masked-lm", "causal-lm"])
def test_no_test_example_was_seen_in_train(corpus: Corpus, name: str) -> None:
    """Exact occurrence, white space aside, in the train modules or a train example."""
    from suites.tasks.tokenizer import embedded_tokenizer

    splits = load_task(name).data.splits
    tokenizer = embedded_tokenizer(corpus)

    def texts(split: str) -> list[str]:
        examples = splits[split]
        return tokenizer.decode_batch([examples[i].tolist() for i in range(len(examples))])

    train = "\n".join(" ".join(words(module.text)) for module in corpus.split("train"))
    # Only a text whose first eight words occur in train can occur there: a quick way out.
    starts = Shingles([module.text for module in corpus.split("train")])
    tests = texts("test")
    first = [" ".join(words(text)[:8]) for text in tests]
    for text, contained in zip(tests, starts.containment(first), strict=True):
        if contained == 1.0:
            assert normalised(text) not in train, text
    trained = {normalised(text) for text in texts("train")}
    keys = [normalised(text) for text in tests]
    assert trained.isdisjoint(keys)
    assert len(set(keys)) == len(keys)


def test_containment_is_the_share_of_common_runs_of_eight_words() -> None:
    text = " ".join(f"w{i}" for i in range(20))  # 13 runs
    half = " ".join([f"w{i}" for i in range(14)] + ["new", "words", "here"])  # 10 runs, 7 common
    collection = Shingles([text])
    asked = [text.replace(" ", "\n\t  "), "seven words are too few for a", half, ""]
    # No run goes from one text into the next.
    assert collection.containment(asked) == pytest.approx([1.0, 0.0, 0.7, 0.0])
    assert collection.containment([]).shape == (0,)
    assert Shingles().containment([text]) == [0.0]
    assert Shingles([text[:5]]).containment([text]) == [0.0]
    assert Shingles([text[:20], text[20:]]).containment([text]) < 1.0


def test_unseen_keeps_the_first_of_equals_and_drops_what_is_contained() -> None:
    seen = " ".join(f"a{i}" for i in range(30))
    fresh = " ".join(f"b{i}" for i in range(30))
    assert unseen([fresh, seen, fresh.replace(" ", "  "), "short text"], Shingles([seen])) == [0, 3]
    assert 0 < LIMIT <= 0.5


SOURCE = '''"""Module
doc string."""
import os

# first comment
# second line
LIMIT = [1,
         2]

def outer(a):
    """Function doc."""
    # inside
    def inner():
        """Hidden doc."""
    return a

class Thing(Base):
    """Class doc."""
    size: int = 3
    async def run(self):
        await self.go()
    def empty(self):
        """Only a doc string."""

if True:
    LIMIT = 2
'''


def test_snippets_are_what_the_syntax_tree_says() -> None:
    assert [tuple(snippet) for snippet in snippets(SOURCE)] == [
        ("docstring", "Module\ndoc string."),
        ("constant", "LIMIT = [1,\n         2]"),
        ("docstring", "Function doc."),
        ("function", 'def inner():\n    """Hidden doc."""\nreturn a'),
        ("docstring", "Class doc."),
        ("constant", "size: int = 3"),
        ("method", "await self.go()"),
        ("docstring", "Only a doc string."),
    ]
    assert sorted({snippet.kind for snippet in snippets(SOURCE)}) == list(KINDS)


@pytest.mark.parametrize("source", ["def", "x = '\x00'", "if x:\npass", "\ud800", "(" * 300])
def test_snippets_are_none_when_the_source_is_not_python(source: str) -> None:
    assert snippets(source) == []


def _hash(arrays: list[np.ndarray]) -> str:
    import hashlib

    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()
