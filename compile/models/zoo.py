"""Named configurations, readable without torch.

The small ones are trained here, in a minute or a few on two cores. The published ones have their
published sizes and random weights from a fixed seed: they are for measuring speed and memory,
and fidelity of a build to its fp32 original, not accuracy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from compile.errors import InputError
from compile.models.config import TASKS, TransformerConfig


@dataclass(frozen=True)
class ZooEntry:
    """One named configuration; the number of classes is settled when it is asked for."""

    settings: dict[str, Any]
    trained: bool
    """Made to be trained here; otherwise its random weights are used as they are."""
    summary: str

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that it can be given, its usual one first."""
        if self.settings["kind"] == "decoder":
            return (TASKS["causal-lm"],)
        usual = TASKS[self.settings["head"]]
        return (usual, *(t for h, t in TASKS.items() if h != "causal-lm" and t != usual))


def config(name: str, *, task: str | None = None, classes: int | None = None) -> TransformerConfig:
    """The configuration of that name, with the head of ``task`` (its usual one if None).

    Raises InputError for a task that it cannot be given, and for a classifier without classes.
    """
    entry = ZOO[name]
    task = task or entry.tasks[0]
    if task not in entry.tasks:
        raise InputError(
            f"model {name!r} cannot do task {task!r}; it does {' and '.join(entry.tasks)}"
        )
    head = next(head for head, name_of_task in TASKS.items() if name_of_task == task)
    if head == "classification" and not classes:
        raise InputError(f"model {name!r} classifies: say into how many classes")
    settings = {**entry.settings, "head": head}
    return TransformerConfig(**settings, classes=(classes or 0) if head == "classification" else 0)


def _bert(width: int, layers: int, heads: int, **others: Any) -> dict[str, Any]:
    """Devlin et al. 2018."""
    return {
        "kind": "encoder",
        "vocabulary": 30_522,
        "max_sequence": 512,
        "width": width,
        "layers": layers,
        "heads": heads,
        "kv_heads": heads,
        "ffn": 4 * width,
        "segments": 2,
        "head": "classification",
        **others,
    }


def _gpt2(width: int, layers: int, heads: int) -> dict[str, Any]:
    """Radford et al. 2019."""
    return {
        "kind": "decoder",
        "vocabulary": 50_257,
        "max_sequence": 1024,
        "width": width,
        "layers": layers,
        "heads": heads,
        "kv_heads": heads,
        "ffn": 4 * width,
        "norm_first": True,
        "activation": "gelu-tanh",
        "eps": 1e-5,
    }


def _llama(width: int, layers: int, heads: int, kv_heads: int, **others: Any) -> dict[str, Any]:
    """Touvron et al. 2023; grouped queries as in LLaMA 3."""
    return {
        "kind": "decoder",
        "width": width,
        "layers": layers,
        "heads": heads,
        "kv_heads": kv_heads,
        "position": "rotary",
        "norm": "rmsnorm",
        "norm_first": True,
        "activation": "swiglu",
        "bias": False,
        "eps": 1e-5,
        **others,
    }


_SMALL = {"vocabulary": 4096, "max_sequence": 128}

ZOO: dict[str, ZooEntry] = {
    "encoder-small": ZooEntry(
        _bert(256, 4, 4, **_SMALL), True, "BERT-style classifier, 4 layers of width 256"
    ),
    "encoder-mlm-small": ZooEntry(
        # BERT's own layout answers with the commonest token for its first half million tokens:
        # learned positions have to find out first that a token's neighbours say most about it.
        _bert(
            256,
            4,
            4,
            **_SMALL,
            head="masked-lm",
            norm_first=True,
            position="rotary",
            rope_theta=100.0,
            initial_std=0.05,
            initial_locality=1.5,
        ),
        True,
        "masked language model, 4 layers of width 256, rotary positions",
    ),
    "decoder-small": ZooEntry(
        _llama(256, 4, 4, 2, vocabulary=4096, max_sequence=256, ffn=1024, rope_theta=10_000.0),
        True,
        "LLaMA-style language model, 4 layers of width 256, grouped queries",
    ),
    "bert-base": ZooEntry(_bert(768, 12, 12), False, "BERT base, 109,482,240 without its head"),
    "bert-large": ZooEntry(_bert(1024, 24, 16), False, "BERT large, 335,141,888 without its head"),
    "gpt2": ZooEntry(_gpt2(768, 12, 12), False, "GPT-2, 124,439,808 parameters"),
    "gpt2-medium": ZooEntry(_gpt2(1024, 24, 16), False, "GPT-2 medium, 354,823,168 parameters"),
    "gpt2-large": ZooEntry(_gpt2(1280, 36, 20), False, "GPT-2 large, 774,030,080 parameters"),
    "gpt2-xl": ZooEntry(_gpt2(1600, 48, 25), False, "GPT-2 XL, 1,557,611,200 parameters"),
    "llama-1b": ZooEntry(
        _llama(
            2048,
            16,
            32,
            8,
            vocabulary=128_256,
            max_sequence=131_072,
            ffn=8192,
            rope_theta=500_000.0,
        ),
        False,
        "LLaMA 3.2 1B, 1,235,814,400 parameters",
    ),
}
