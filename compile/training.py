"""Trains a module on handed-down data: seeded, resumable, the same result every time.

One loop serves training from scratch, recovery after pruning (``after_step`` applies the masks
again) and distillation (``loss`` brings the teacher in).
"""

from __future__ import annotations

import itertools
import math
import pickle
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compile.data import IGNORED, Batch, DataSource
from compile.signature import Feeds
from compile.train_settings import TrainSettings

VERSION = 1
"""Raised whenever the same settings and data would give other weights."""

CHECKPOINT = "checkpoint.pt"
CURVE_POINTS = 100

Loss = Callable[[nn.Module, Batch], Tensor]
"""A scalar to make small, from a module in training mode and one batch."""

Progress = Callable[[int, int, float], None]
"""Called after every step with the steps done, their total and the step's loss."""


@dataclass(frozen=True)
class TrainResult:
    """What a training was; the trained weights are in the module itself."""

    losses: list[tuple[int, float]]
    """The loss curve: (last step, mean loss) of each of at most ``CURVE_POINTS`` stretches."""
    seconds: float
    """Wall-clock time of all steps, those before an interruption included."""
    tokens: int
    """Input elements trained on, padding aside."""

    def facts(self) -> dict[str, Any]:
        """As JSON values, for an artifact's lineage."""
        return {
            "loss_curve": [[step, round(loss, 5)] for step, loss in self.losses],
            "train_seconds": round(self.seconds, 3),
            "train_tokens": self.tokens,
        }


def cross_entropy(module: nn.Module, batch: Batch) -> Tensor:
    """Mean cross entropy of the first output against the labels that are not ``IGNORED``."""
    logits = forward(module, batch.feeds)[0]
    labels = torch.from_numpy(batch.labels).to(logits.device)
    return nn.functional.cross_entropy(
        logits.flatten(0, -2).float(), labels.flatten(), ignore_index=IGNORED
    )


def forward(module: nn.Module, feeds: Feeds) -> tuple[Tensor, ...]:
    """The module's outputs for feeds that are in the order of its signature."""
    device = next(module.parameters()).device
    return module(*(torch.from_numpy(array).to(device) for array in feeds.values()))


def train(
    module: nn.Module,
    data: DataSource,
    settings: TrainSettings,
    *,
    loss: Loss = cross_entropy,
    after_step: Callable[[nn.Module], None] | None = None,
    progress: Progress | None = None,
    resume_folder: Path | None = None,
    checkpoint_seconds: float = 15.0,
) -> TrainResult:
    """Train ``module`` in place; its mode (training or evaluation) is as before afterwards.

    With the same settings, data, starting weights and number of threads the weights come out the
    same bit for bit, also where the training was interrupted and called again with the same
    ``resume_folder``: every ``checkpoint_seconds`` its state is kept there, and removed at the
    end. A checkpoint of other settings or data, or a damaged one, is ignored.

    Raises RuntimeError where the loss is not finite.
    """
    run = _Run(module, data, settings, resume_folder)
    was_training = module.training
    module.train()
    start = saved = time.perf_counter()
    earlier = run.seconds
    try:
        with torch.random.fork_rng():
            torch.manual_seed(settings.seed)
            run.resume()
            earlier = run.seconds
            batches = data.training(settings.batch_size, settings.seed)
            for batch in itertools.islice(batches, run.step, settings.steps):
                value = run.advance(batch, loss)
                if after_step is not None:
                    with torch.no_grad():
                        after_step(module)
                now = time.perf_counter()
                run.seconds = earlier + now - start
                if resume_folder is not None and now - saved >= checkpoint_seconds:
                    run.save()
                    saved = time.perf_counter()
                if progress is not None:
                    progress(run.step, settings.steps, value)
    finally:
        module.train(was_training)
    run.forget()
    return TrainResult(_curve(run.losses), run.seconds, run.tokens)


def every_tenth(what: str, tell: Callable[[str], None]) -> Progress:
    """Training's progress as lines, one for every tenth of the steps."""

    def report(step: int, steps: int, loss: float) -> None:
        if step == steps or step % max(1, steps // 10) == 0:
            tell(f"{what}, step {step} of {steps}, loss {loss:.3f}")

    return report


def learning_rate(step: int, settings: TrainSettings) -> float:
    """The rate of step ``step`` (0-based): a linear rise to the peak, then a decay to zero."""
    warmup = round(settings.warmup * settings.steps)
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    left = (settings.steps - step) / (settings.steps - warmup)
    if settings.decay == "cosine":
        left = 0.5 * (1 - math.cos(math.pi * left))
    return settings.learning_rate * left


class _Run:
    """The state of one training that a checkpoint has to hold."""

    def __init__(
        self, module: nn.Module, data: DataSource, settings: TrainSettings, folder: Path | None
    ) -> None:
        self.module = module
        self.settings = settings
        self.path = folder / CHECKPOINT if folder else None
        self.identity = {
            "version": VERSION,
            "settings": settings.to_json(),
            "data": data.fingerprint,
            "shapes": {name: list(p.shape) for name, p in module.named_parameters()},
        }
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            [
                {
                    "params": [p for p in self.parameters if p.ndim >= 2],
                    "weight_decay": settings.weight_decay,
                },
                {"params": [p for p in self.parameters if p.ndim < 2], "weight_decay": 0.0},
            ],
            lr=settings.learning_rate,
            fused=True,
        )
        self.step = 0
        self.losses: list[float] = []
        self.tokens = 0
        self.seconds = 0.0

    def advance(self, batch: Batch, loss: Loss) -> float:
        """One step of the optimizer. Returns the loss before it."""
        result = loss(self.module, batch)
        value = float(result.detach())
        if not math.isfinite(value):
            raise RuntimeError(
                f"the training diverged: the loss is {value} at step {self.step + 1} of "
                f"{self.settings.steps}; lower the learning rate "
                f"(it is {self.settings.learning_rate:g})"
            )
        self.optimizer.zero_grad()
        result.backward()
        nn.utils.clip_grad_norm_(self.parameters, self.settings.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.settings)
        self.optimizer.step()
        self.step += 1
        self.losses.append(value)
        self.tokens += _tokens(batch.feeds)
        return value

    def save(self) -> None:
        """Write the checkpoint; it appears by one rename."""
        assert self.path is not None
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_name(f".{uuid.uuid4().hex[:8]}-{CHECKPOINT}")
        state = {
            "identity": self.identity,
            "weights": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "step": self.step,
            "losses": self.losses,
            "tokens": self.tokens,
            "seconds": self.seconds,
        }
        try:
            torch.save(state, draft)
            draft.replace(self.path)
        finally:
            draft.unlink(missing_ok=True)

    def resume(self) -> None:
        """Go on from the checkpoint where there is one of this very training."""
        if self.path is None or not self.path.is_file():
            return
        try:
            # weights_only: a checkpoint can hold tensors and plain values, and executes nothing.
            state = torch.load(self.path, map_location="cpu", weights_only=True)
        except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError):
            return
        if not isinstance(state, dict) or state.get("identity") != self.identity:
            return
        self.module.load_state_dict(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
        self.step, self.losses = state["step"], state["losses"]
        self.tokens, self.seconds = state["tokens"], state["seconds"]

    def forget(self) -> None:
        """Remove the checkpoint of a finished training."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def _tokens(feeds: Feeds) -> int:
    """Elements of the first input, without those that a mask says are padding."""
    mask = feeds.get("attention_mask")
    return next(iter(feeds.values())).size if mask is None else int(mask.sum())


def _curve(losses: list[float]) -> list[tuple[int, float]]:
    stretch = max(1, math.ceil(len(losses) / CURVE_POINTS))
    return [
        (min(start + stretch, len(losses)), sum(part) / len(part))
        for start in range(0, len(losses), stretch)
        if (part := losses[start : start + stretch])
    ]
