"""Other people's quantizers, each by its own documented call. Run by path, in their environment:

    python peer.py METHOD MODEL.onnx CALIBRATION OUT.onnx

CALIBRATION is a folder of ``.npz`` files, an example each. Only defaults that the documentation
recommends for a CPU are set. Assay is not imported.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

BLOCK = 32
TOLD = ["MatMul", "Gather"]
"""Operators to quantize dynamically. Left to themselves, ONNX Runtime's quantizer and the two that
stand on it make an invalid QAttention of opset 23's Attention."""
Method = Callable[[str, Path, str], None]


def examples(folder: Path) -> Iterator[dict[str, np.ndarray]]:
    for file in sorted(folder.glob("*.npz")):
        with np.load(file) as arrays:
            yield dict(arrays)


def onnxruntime_dynamic(model: str, calibration: Path, out: str) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        model,
        out,
        op_types_to_quantize=TOLD,
        per_channel=True,
        weight_type=QuantType.QInt8,
    )


def onnxruntime_static(model: str, calibration: Path, out: str) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._left = examples(calibration)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self._left, None)

    quantize_static(
        model,
        out,
        Reader(),
        op_types_to_quantize=["MatMul"],
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


def onnxruntime_weights(method: str) -> Method:
    def run(model: str, calibration: Path, out: str) -> None:
        import onnx
        from onnxruntime.quantization import CalibrationDataReader
        from onnxruntime.quantization import matmul_nbits_quantizer as nbits

        class Reader(CalibrationDataReader):
            """Of a list: the quantizer copies it, and iterators cannot be copied."""

            def __init__(self) -> None:
                self._examples, self._next = list(examples(calibration)), 0

            def get_next(self) -> dict[str, np.ndarray] | None:
                self._next += 1
                left = self._examples[self._next - 1 :]
                return left[0] if left else None

            def rewind(self) -> None:
                self._next = 0

        settings = {
            "rtn": lambda: None,
            "hqq": lambda: nbits.HQQWeightOnlyQuantConfig(block_size=BLOCK, bits=4),
            "gptq": lambda: nbits.GPTQWeightOnlyQuantConfig(
                calibration_data_reader=Reader(), block_size=BLOCK
            ),
        }[method]()
        quantizer = nbits.MatMulNBitsQuantizer(
            onnx.load(model),
            block_size=BLOCK,
            is_symmetric=True,
            accuracy_level=4,
            algo_config=settings,
        )
        quantizer.process()
        quantizer.model.save_model_to_file(out, False)

    return run


def optimum_dynamic(model: str, calibration: Path, out: str) -> None:
    import shutil

    from optimum.onnxruntime import ORTQuantizer
    from optimum.onnxruntime.configuration import AutoQuantizationConfig

    folder = Path(out).parent / "optimum"
    folder.mkdir()
    shutil.copy(model, folder / "model.onnx")
    quantizer = ORTQuantizer(folder / "model.onnx")
    asked = AutoQuantizationConfig.avx512_vnni(
        is_static=False, per_channel=True, operators_to_quantize=TOLD
    )
    quantizer.quantize(save_dir=folder / "made", quantization_config=asked)
    shutil.copy(folder / "made" / "model_quantized.onnx", out)


def nncf_static(model: str, calibration: Path, out: str) -> None:
    import nncf
    import onnx

    every = list(examples(calibration))
    made = nncf.quantize(
        onnx.load(model),
        nncf.Dataset(every),
        subset_size=len(every),
        # Left to itself it quantizes their inputs too, and the graph is invalid.
        ignored_scope=nncf.IgnoredScope(types=["Attention", "Gather"]),
        model_type=nncf.ModelType.TRANSFORMER,
    )
    onnx.save(made, out)


def nncf_weights(method: str) -> Method:
    def run(model: str, calibration: Path, out: str) -> None:
        import nncf
        import onnx

        options = {"rtn": {}, "awq": {"awq": True}, "scale": {"scale_estimation": True}}[method]
        data = {"dataset": nncf.Dataset(list(examples(calibration)))} if options else {}
        made = nncf.compress_weights(
            onnx.load(model),
            mode=nncf.CompressWeightsMode.INT4_SYM,
            group_size=BLOCK,
            all_layers=True,
            # ONNX Runtime does not run what it makes of embeddings.
            ignored_scope=nncf.IgnoredScope(types=["Gather"]),
            **options,
            **data,
        )
        onnx.save(made, out)

    return run


def olive(name: str) -> Method:
    def run(model: str, calibration: Path, out: str) -> None:
        import shutil

        from olive.workflows import run as workflow

        folder = Path(out).parent / "olive"
        passes = {
            "dynamic": {
                "type": "OnnxDynamicQuantization",
                "per_channel": True,
                "op_types_to_quantize": TOLD,
            },
            "rtn": {"type": "OnnxBlockWiseRtnQuantization", "block_size": BLOCK},
            "hqq": {"type": "OnnxHqqQuantization", "block_size": BLOCK},
        }
        workflow(
            {
                "input_model": {"type": "ONNXModel", "model_path": model},
                "passes": {"only": passes[name]},
                "output_dir": str(folder),
                "evaluate_input_model": False,
            }
        )
        shutil.copy(next(folder.rglob("*.onnx")), out)

    return run


METHODS: dict[str, Method] = {
    "onnxruntime dynamic": onnxruntime_dynamic,
    "onnxruntime static": onnxruntime_static,
    "onnxruntime int4 rtn": onnxruntime_weights("rtn"),
    "onnxruntime int4 hqq": onnxruntime_weights("hqq"),
    "onnxruntime int4 gptq": onnxruntime_weights("gptq"),
    "optimum dynamic": optimum_dynamic,
    "olive dynamic": olive("dynamic"),
    "olive int4 rtn": olive("rtn"),
    "olive int4 hqq": olive("hqq"),
    "nncf static": nncf_static,
    "nncf int4 rtn": nncf_weights("rtn"),
    "nncf int4 awq": nncf_weights("awq"),
    "nncf int4 scale estimation": nncf_weights("scale"),
}
ENVIRONMENTS = {
    "onnxruntime": (),
    "optimum": ("optimum-onnx==0.1.0", "onnxruntime", "transformers<4.58", "torch"),
    "olive": ("olive-ai==0.13.0", "onnxruntime", "requests", "torch", "transformers"),
    "nncf": ("nncf==3.4.0", "onnxruntime", "onnx"),
}
"""By the first word of a method: what its environment has. Empty: Assay's own."""


if __name__ == "__main__":
    method, model_path, calibration_folder, out_path = sys.argv[1:]
    METHODS[method](model_path, Path(calibration_folder), out_path)
