"""GPTQ of the same weights by Assay and by llm-compressor, on the same grids.

    python -m scripts.quantizers.gptq --python PYTHON    # of an environment with llmcompressor

Prints the ratio of the outputs to their error, dB, in 4 bits with zero points, blocks of 32:
rounded to nearest, by llm-compressor, by Assay. Asked is that GPTQ gains 2 dB on correlated inputs
and that both agree within 0.2 dB.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from quantize.gram import squared_error
from quantize.rounding.gptq import gptq
from quantize.rounding.rtn import round_to_nearest

PEER = Path(__file__).with_name("gptq_peer.py")
BLOCK = 32


def problems() -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """A name, a weight (K, N) and inputs (count, K)."""
    for width, columns in ((256, 192), (1024, 256)):
        random = np.random.default_rng(width)
        weight = random.standard_normal((width, columns)).astype(np.float32)
        drawn = random.standard_normal((4 * width, width)).astype(np.float32)
        mixing = random.standard_normal((width, width)) * np.arange(1, width + 1)[:, None] ** -0.7
        yield f"independent, {width} x {columns}", weight, drawn
        yield f"correlated, {width} x {columns}", weight, (drawn @ mixing).astype(np.float32)
        loud = np.where(random.random(width) < 0.02, 30, 1)
        yield f"outlier channels, {width} x {columns}", weight, (drawn * loud).astype(np.float32)


def peers(python: str, weight: np.ndarray, gram: np.ndarray) -> np.ndarray:
    """(K, N): what llm-compressor's codes on our grid stand for."""
    grid = round_to_nearest(weight, BLOCK, symmetric=False).grid
    with tempfile.TemporaryDirectory() as folder:
        problem, result = Path(folder) / "problem.npz", Path(folder) / "result.npz"
        np.savez(
            problem,
            weight=np.ascontiguousarray(weight.T),
            gram=gram,
            scales=grid.scales,
            zeros=grid.zero_points(),
        )
        subprocess.run([python, str(PEER), problem, result], check=True, capture_output=True)
        return np.load(result)["weight"].T


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--python", required=True)
    python = parser.parse_args().python
    print("| inputs | nearest, dB | llm-compressor, dB | Assay, dB |\n|---|---|---|---|")
    for name, weight, inputs in problems():
        gram = inputs.T @ inputs / np.float32(len(inputs))
        rounded = (
            round_to_nearest(weight, BLOCK, symmetric=False).dequantize(),
            peers(python, weight, gram),
            gptq(weight, gram, BLOCK, symmetric=False).dequantize(),
        )
        power = squared_error(weight, gram)
        ratios = (10 * np.log10(power / squared_error(each - weight, gram)) for each in rounded)
        print(f"| {name} | {' | '.join(f'{ratio:.2f}' for ratio in ratios)} |", flush=True)


if __name__ == "__main__":
    main()
