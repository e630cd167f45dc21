"""llm-compressor's GPTQ of one weight. Run by path, in its environment:

    python gptq_peer.py PROBLEM.npz RESULT.npz

The problem holds ``weight`` (out, in), ``gram`` (in, in), and for asymmetric 4-bit codes ``scales``
and ``zeros`` (out, groups); the result is what its codes stand for. Assay is not imported.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from compressed_tensors.quantization import QuantizationArgs
from llmcompressor.modifiers.gptq.gptq_quantize import quantize_weight

problem = {name: torch.from_numpy(array) for name, array in np.load(sys.argv[1]).items()}
scales, zeros = problem["scales"], problem["zeros"]
block = problem["weight"].shape[1] // scales.shape[1]
asked = QuantizationArgs(
    num_bits=4,
    symmetric=False,
    strategy="group",
    group_size=block,
    # The inputs of largest power first, groups where they lie.
    actorder="static",
)
done = quantize_weight(
    problem["weight"][None],
    problem["gram"][None],
    scales[None],
    # Its codes are signed.
    (zeros.int() - 8).to(torch.int8)[None],
    None,
    asked,
)
np.savez(sys.argv[2], weight=done[0][0].float().numpy())
