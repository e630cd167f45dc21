"""The training loop: what it computes, that it repeats, and that it resumes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from compile.data import IGNORED, Batch
from compile.errors import InputError
from compile.signature import Feeds
from compile.train_settings import TrainSettings
from compile.training import CHECKPOINT, cross_entropy, forward, learning_rate, train

SETTINGS = TrainSettings(steps=12, batch_size=8, learning_rate=1e-2)


class Bag(nn.Module):
    """Mean of embeddings, dropout (so that the random state matters), and two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.embedding = nn.Embedding(20, 8)
        self.hidden = nn.Linear(8, 8)
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(8, 3)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor]:
        weights = attention_mask.unsqueeze(-1).float()
        mean = (self.embedding(input_ids) * weights).sum(1) / weights.sum(1)
        return (self.head(self.dropout(torch.tanh(self.hidden(mean)))),)


class Sums:
    """A data source of one token repeated, whose label is its remainder."""

    fingerprint = "sums"

    def training(self, batch_size: int, seed: int) -> Iterator[Batch]:
        random = np.random.default_rng(seed)
        while True:
            ids = np.repeat(random.integers(0, 20, (batch_size, 1)), 5, axis=1)
            mask = np.ones_like(ids)
            mask[:, 4] = 0
            yield Batch({"input_ids": ids, "attention_mask": mask}, ids[:, 0] % 3)

    def calibration_examples(self, most: int) -> int:
        return most

    def calibration(self, examples: int) -> Iterator[Feeds]:
        return (batch.feeds for batch in islice(self.training(1, 0), examples))


class InterruptionError(Exception):
    pass


def weights(module: nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.detach().numpy().copy() for name, tensor in module.state_dict().items()}


def assert_same(first: nn.Module, second: nn.Module) -> None:
    for name, array in weights(first).items():
        np.testing.assert_array_equal(array, weights(second)[name], err_msg=name)


def interrupt_at(step: int):
    def progress(done: int, total: int, loss: float) -> None:
        if done == step:
            raise InterruptionError

    return progress


def test_train_lowers_the_loss_when_there_is_something_to_learn() -> None:
    result = train(Bag(), Sums(), TrainSettings(steps=300, batch_size=32, learning_rate=2e-2))
    first, last = result.losses[0][1], result.losses[-1][1]
    assert first > 1.0
    assert last < 0.6 * first
    assert result.tokens == 300 * 32 * 4
    assert result.losses[-1][0] == 300
    assert len(result.losses) == 100


def test_train_gives_the_same_weights_when_repeated_and_others_for_another_seed() -> None:
    modules = [Bag(), Bag(), Bag()]
    train(modules[0], Sums(), SETTINGS)
    torch.rand(5)  # The global random state must not matter.
    train(modules[1], Sums(), SETTINGS)
    train(modules[2], Sums(), TrainSettings(**{**SETTINGS.to_json(), "seed": 1}))
    assert_same(modules[0], modules[1])
    assert not np.array_equal(
        weights(modules[0])["head.weight"], weights(modules[2])["head.weight"]
    )


@pytest.mark.parametrize("stop", [1, 5, 11])
def test_train_ends_with_the_same_weights_when_interrupted_and_resumed(
    tmp_path: Path, stop: int
) -> None:
    whole = Bag()
    expected = train(whole, Sums(), SETTINGS)
    with pytest.raises(InterruptionError):
        train(
            Bag(),
            Sums(),
            SETTINGS,
            progress=interrupt_at(stop),
            resume_folder=tmp_path,
            checkpoint_seconds=0,
        )
    steps: list[int] = []
    resumed = Bag()
    result = train(
        resumed,
        Sums(),
        SETTINGS,
        progress=lambda done, total, loss: steps.append(done),
        resume_folder=tmp_path,
    )
    assert steps == list(range(stop + 1, 13))
    assert_same(whole, resumed)
    assert result.losses == expected.losses
    assert result.tokens == expected.tokens
    assert not (tmp_path / CHECKPOINT).exists()


@pytest.mark.parametrize("change", ["settings", "damage", "code"])
def test_train_starts_anew_when_the_checkpoint_is_not_its_own(tmp_path: Path, change: str) -> None:
    with pytest.raises(InterruptionError):
        train(
            Bag(),
            Sums(),
            SETTINGS,
            progress=interrupt_at(5),
            resume_folder=tmp_path,
            checkpoint_seconds=0,
        )
    settings = SETTINGS
    path = tmp_path / CHECKPOINT
    if change == "settings":
        settings = TrainSettings(**{**SETTINGS.to_json(), "learning_rate": 5e-3})
    elif change == "damage":
        path.write_bytes(path.read_bytes()[:500])
    else:
        torch.save({"identity": Touch(tmp_path / "executed")}, path)
    steps: list[int] = []
    module, fresh = Bag(), Bag()
    train(
        module,
        Sums(),
        settings,
        progress=lambda done, total, loss: steps.append(done),
        resume_folder=tmp_path,
    )
    train(fresh, Sums(), settings)
    assert steps[0] == 1
    assert_same(module, fresh)
    assert not (tmp_path / "executed").exists()


class Touch:
    """What a hostile checkpoint would run on being read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_train_matches_adamw_by_hand_when_one_step_is_taken() -> None:
    settings = TrainSettings(steps=1, batch_size=4, learning_rate=0.1, warmup=0.0, clip=0.01)
    module = Bag()
    module.dropout.p = 0.0
    before = weights(module)
    batch = next(Sums().training(4, 0))
    cross_entropy(module, batch).backward()
    gradients = {n: p.grad.double().numpy() for n, p in module.named_parameters()}
    norm = np.sqrt(sum((g**2).sum() for g in gradients.values()))
    assert norm > settings.clip
    module.zero_grad()
    train(module, Sums(), settings)
    for name, after in weights(module).items():
        gradient = gradients[name] * settings.clip / (norm + 1e-6)
        decay = 0.01 if gradient.ndim >= 2 else 0.0
        step = gradient / (np.abs(gradient) + 1e-8)  # First step of Adam, bias corrected.
        expected = before[name] * (1 - 0.1 * decay) - 0.1 * step
        np.testing.assert_allclose(after, expected, atol=2e-5, err_msg=name)


def test_cross_entropy_equals_float64_when_some_labels_are_ignored() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.logits = nn.Parameter(torch.randn(2, 3, 5, generator=torch.manual_seed(3)))

        def forward(self, input_ids: torch.Tensor) -> tuple[torch.Tensor]:
            return (self.logits,)

    module = Fixed()
    labels = np.array([[0, IGNORED, 4], [IGNORED, 2, 1]])
    batch = Batch({"input_ids": np.zeros((2, 3), np.int64)}, labels)
    loss = cross_entropy(module, batch).item()
    logits = module.logits.detach().double().numpy()
    log_softmax = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    terms = [log_softmax[i, j, labels[i, j]] for i, j in np.argwhere(labels != IGNORED)]
    assert loss == pytest.approx(-np.mean(terms), rel=1e-6)


def test_forward_passes_tensors_in_the_order_of_the_feeds() -> None:
    class Subtract(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor]:
            return (self.weight * (a - b),)

    feeds = {"b": np.array([5.0], np.float32), "a": np.array([2.0], np.float32)}
    assert forward(Subtract(), feeds)[0].item() == 3.0


def test_train_keeps_pruned_weights_at_zero_when_after_step_masks_them() -> None:
    module = Bag()
    mask = (torch.arange(64) % 2 == 0).reshape(8, 8).float()
    calls = []

    def after_step(trained: nn.Module) -> None:
        trained.hidden.weight.mul_(mask)
        calls.append(int((trained.hidden.weight != 0).sum()))

    train(module, Sums(), SETTINGS, after_step=after_step)
    assert calls == [32] * SETTINGS.steps
    assert not module.hidden.weight[mask == 0].any()


def test_train_uses_the_loss_that_it_is_given_when_distilling() -> None:
    teacher, student = Bag().eval(), Bag()
    with torch.no_grad():
        student.head.weight.zero_()

    def distance(module: nn.Module, batch: Batch) -> torch.Tensor:
        with torch.no_grad():
            wanted = forward(teacher, batch.feeds)[0]
        return nn.functional.mse_loss(forward(module, batch.feeds)[0], wanted)

    settings = TrainSettings(steps=200, batch_size=16, learning_rate=1e-2)
    result = train(student, Sums(), settings, loss=distance)
    assert result.losses[-1][1] < 0.25 * result.losses[0][1]


def test_train_leaves_frozen_weights_and_the_mode_when_it_ends() -> None:
    module = Bag().eval()
    module.embedding.weight.requires_grad_(False)
    before = weights(module)
    train(module, Sums(), SETTINGS)
    assert not module.training
    np.testing.assert_array_equal(before["embedding.weight"], weights(module)["embedding.weight"])
    assert not np.array_equal(before["head.weight"], weights(module)["head.weight"])


def test_train_fails_with_one_clear_line_when_the_loss_is_not_finite() -> None:
    module = Bag()
    with torch.no_grad():
        module.head.bias[0] = float("nan")
    with pytest.raises(RuntimeError, match=r"diverged: the loss is nan at step 1 of 12; lower"):
        train(module, Sums(), SETTINGS)


def test_learning_rate_rises_and_falls_as_by_hand() -> None:
    linear = TrainSettings(steps=10, learning_rate=1.0, warmup=0.2)
    rates = [learning_rate(step, linear) for step in range(10)]
    np.testing.assert_allclose(rates, [0.5, 1.0, 1.0, *np.arange(7, 0, -1) / 8])
    cosine = TrainSettings(steps=8, learning_rate=0.2, warmup=0.0, decay="cosine")
    rates = [learning_rate(step, cosine) for step in range(8)]
    np.testing.assert_allclose(rates, 0.1 + 0.1 * np.cos(np.pi * np.arange(8) / 8), atol=1e-12)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 0),
        ("batch_size", 0),
        ("learning_rate", float("nan")),
        ("warmup", 1.5),
        ("clip", 0),
    ],
)
def test_settings_are_refused_when_out_of_range(name: str, value: float) -> None:
    with pytest.raises(InputError, match=f"training: {name} = "):
        TrainSettings(**{"steps": 5, name: value})


def test_settings_survive_json() -> None:
    settings = TrainSettings(steps=3, decay="cosine", seed=4)
    assert TrainSettings.from_json(settings.to_json()) == settings
