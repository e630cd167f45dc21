"""Under what name ONNX Runtime is installed, for keys that hold the version that did the work."""

from __future__ import annotations

import importlib.metadata


def onnxruntime_distributions() -> tuple[str, ...]:
    """The distributions that the package ``onnxruntime`` came from.

    The CPU and the GPU one differ in name (``onnxruntime``, ``onnxruntime-gpu``), and where both
    are installed either may have written the files. Empty where there is none.
    """
    return tuple(sorted(set(importlib.metadata.packages_distributions().get("onnxruntime", ()))))
