"""Which builds are asked of the builder, and which are known already."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from compile.errors import Unsupported
from quantize.recipe import Recipe, load_recipe
from suites.builder import BuildRequest
from suites.builds import Builds


class Builder:
    """Makes of every request an artifact that is named by what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[Recipe] = []

    def build(self, request: BuildRequest) -> SimpleNamespace:
        self.asked.append(request.recipe)
        if request.recipe.name == "broken":
            raise Unsupported("no layer matched")
        return SimpleNamespace(key=f"{len(self.asked)}")


@pytest.fixture
def builds(tmp_path: Path) -> tuple[Builds, Builder]:
    builder = Builder()
    suite = SimpleNamespace(folder=tmp_path, task=lambda name: None)
    subject = SimpleNamespace(name="m", entry=None)
    return Builds(suite, subject, builder, lambda text: None), builder


def recipe_file(folder: Path, block: int) -> None:
    folder.mkdir()
    (folder / "x.toml").write_text(f'[[passes]]\npass = "int4"\nblock = {block}\n')


def test_two_recipe_files_of_one_name_are_two_builds(builds, tmp_path: Path) -> None:
    found, builder = builds
    recipe_file(tmp_path / "a", 32)
    recipe_file(tmp_path / "b", 128)
    a, b = (load_recipe(f"{folder}/x.toml", tmp_path) for folder in "ab")
    assert a.name == b.name
    assert found.get(a, "onnx").key != found.get(b, "onnx").key
    assert [recipe.passes[0].block for recipe in builder.asked] == [32, 128]


def test_what_was_asked_for_once_is_known_whatever_its_name(builds) -> None:
    found, builder = builds
    plain = found.get(Recipe(name="fp32"), "onnx")
    assert found.get(Recipe(name="fp32, its trained part"), "onnx") is plain
    assert found.get(Recipe(name="fp32"), "torch") is not plain
    assert len(builder.asked) == 2


def test_a_failure_is_remembered(builds) -> None:
    found, builder = builds
    for _ in range(2):
        with pytest.raises(Unsupported, match="no layer matched"):
            found.get(Recipe(name="broken"), "onnx")
    assert len(builder.asked) == 1
