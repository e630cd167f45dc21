from __future__ import annotations

import pytest

from compile.ort_reason import ort_reason


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (
            "[ONNXRuntimeError] : 1 : FAIL : Load model from /a b/m.onnx failed:Fatal error: "
            "com.acme:Frobnicate(-1) is not a registered function/op",
            "com.acme:Frobnicate is not a registered function/op",
        ),
        (
            "[ONNXRuntimeError] : 1 : FAIL : Load model from m.onnx failed:/onnxruntime_src/"
            "onnxruntime/core/graph/load_utils.h:46 void onnxruntime::Validate(const "
            "std::unordered_map<std::__cxx11::basic_string<char>, int>&, bool) Opset 99 is new.\n",
            "Opset 99 is new.",
        ),
        (
            "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while "
            "running Gather node. Name:'g' Status Message: /src/core/op.cc:7 virtual "
            "onnxruntime::Status onnxruntime::Op::Compute(Context*) const::<lambda(int)> "
            "[with T = float] n > 0 was false.",
            "Non-zero status code returned while running Gather node. Name:'g' Status Message: "
            "n > 0 was false.",
        ),
        ("a source /x/y.cc:3 and (no end", "a source and (no end"),
        ("unlike\nall of them", "unlike all of them"),
    ],
)
def test_what_an_error_says_is_kept_and_where_it_was_raised_is_not(
    message: str, reason: str
) -> None:
    assert ort_reason(Exception(message)) == reason


def test_a_reason_is_never_long() -> None:
    assert len(ort_reason(Exception("word " * 1000))) == 400
