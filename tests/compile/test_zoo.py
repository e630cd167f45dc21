from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from compile.artifact import Store
from compile.errors import InputError
from compile.models import zoo
from compile.models.model import load_model
from compile.models.resolve import resolve
from compile.models.source import source_artifact
from compile.models.transformer import Transformer

PUBLISHED = {
    "bert-base": 109_482_240,
    "bert-large": 335_141_888,
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "llama-1b": 1_235_814_400,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_count_to_the_published_parameters(name: str) -> None:
    classes = 2 if name.startswith("bert") else None
    with torch.device("meta"):
        module = Transformer(zoo.config(name, classes=classes))
    # BERT's published counts are without a task's head; the others' heads are tied.
    count = sum(p.numel() for n, p in module.named_parameters() if not n.startswith("head."))
    assert count == PUBLISHED[name]


def test_the_zoo_and_references_are_read_without_torch() -> None:
    code = (
        "import sys; from pathlib import Path; from compile.models.resolve import resolve;"
        "resolve('encoder-small', base=Path('.'), classes=3); print('torch' in sys.modules)"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True
    )
    assert done.stdout.strip() == "False"


def test_small_models_survive_the_store_with_their_weights(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for name, shape in (
        ("encoder-small", (2, 9)),
        ("encoder-mlm-small", (2, 6, 4096)),
        ("decoder-small", (2, 6, 4096)),
    ):
        reference = resolve(name, base=tmp_path, classes=9 if name == "encoder-small" else None)
        assert reference.trained
        artifact = source_artifact(reference, store)
        model = load_model(artifact.folder)
        assert not model.module.training
        assert (model.name, model.task) == (name, reference.task)
        feeds = model.signature.feeds({"batch": 2, "sequence": 6})
        inputs = [torch.from_numpy(feeds[spec.name]) for spec in model.signature.inputs]
        with torch.no_grad():
            outputs = model.module(*inputs)
        assert outputs[0].shape == shape
        assert len(outputs) == len(model.signature.outputs)
        assert source_artifact(reference, store) == artifact
        assert source_artifact(reference, store, seed=1).key != artifact.key


def test_a_task_chooses_the_head() -> None:
    assert zoo.config("bert-base", task="fill-mask").head == "masked-lm"
    assert zoo.config("bert-base", classes=5).classes == 5
    with pytest.raises(InputError, match="'gpt2' cannot do task 'fill-mask'"):
        zoo.config("gpt2", task="fill-mask")
    with pytest.raises(InputError, match="into how many classes"):
        zoo.config("bert-base")


def test_reference_is_told_by_its_form(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text("")
    (tmp_path / "m.onnx").write_text("")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "config.json").write_text("{}")
    families = {
        "gpt2": "zoo",
        "m.py:make": "user",
        "./m.py:make": "user",
        "m.onnx": "onnx",
        "folder": "hub",
        "owner/name": "hub",
        "hub:gpt2": "hub",
    }
    for text, family in families.items():
        assert resolve(text, base=tmp_path).family == family
    assert resolve("m.py:make", base=tmp_path).path == (tmp_path / "m.py").resolve()
    assert resolve("owner/name", base=tmp_path, task="masked-lm").task == "fill-mask"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("bert-bse", "did you mean bert-base"),
        ("nonsense", "the zoo has encoder-small"),
        ("absent.onnx", "there is no file"),
        ("absent.py:make", "there is no file"),
        ("here.py", "name the function too"),
        ("here.py:not a name", "is not the name of a function"),
        ("./absent", "there is no folder"),
        ("empty", "has no config.json"),
        ("a/b/c", "neither a file, a folder nor a hub name"),
        ("own er/name", "neither a file, a folder nor a hub name"),
        ("", "unknown model ''"),
    ],
)
def test_reference_is_refused_when_nothing_is_there(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "here.py").write_text("")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=told) as caught:
        resolve(text, base=tmp_path)
    assert "\n" not in str(caught.value)
