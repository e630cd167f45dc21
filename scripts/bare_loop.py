"""The loop that anybody would write: load, call, ``perf_counter_ns`` around each call.

It lives in a process of its own, makes as many calls as it is told to, and is stopped between its
turns, as a worker is, so that its thread pools spin under nobody. Under another environment's
interpreter it needs NumPy, torch and transformers there.

Run by path it is that process: ``bare_loop.py FOLDER RUNTIME DEVICE BATCH SEQUENCE THREADS STATE``.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from runtimes.process import THREAD_VARIABLES

HOUSE = Path(__file__).resolve().parent.parent
PR_SET_PDEATHSIG = 1
SEQUENCE = 128
VOCABULARY = 4096
WARM_UP_CALLS = 20
REWARM_CALLS = 3


class BareLoop:
    """The process as its parent sees it.

    ``runtime`` is ``onnxruntime-cpu``, ``onnxruntime-cuda`` or ``torch-eager``, which open an
    artifact's folder, or ``transformers``, which opens a model's. On ``cuda:N`` the inputs are on
    the device before the clock and a call ends when the device is done. ``settled`` puts the C
    allocator into a worker's state (``runtimes/allocator.py``); otherwise it stays as the process
    came. Raises RuntimeError when the process ends before it was told to.
    """

    def __init__(
        self,
        folder: Path,
        runtime: str,
        batch: int,
        threads: int,
        *,
        sequence: int = SEQUENCE,
        settled: bool,
        device: str = "cpu",
        python: str = sys.executable,
    ) -> None:
        state = "settled" if settled else "as it came"
        self._process = subprocess.Popen(
            [
                python,
                "-P",
                __file__,
                str(folder),
                runtime,
                device,
                *map(str, (batch, sequence, threads)),
                state,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                **dict.fromkeys(THREAD_VARIABLES, str(threads)),
                "PYTHONPATH": str(HOUSE),
            },
        )
        self.medians: list[float] = []
        """Milliseconds, one for each turn."""
        self.faults: list[float] = []
        """Page faults of a call, one for each turn."""
        self._answer()

    def turn(self, calls: int) -> float:
        """The median of so many calls, in milliseconds."""
        assert self._process.stdin is not None
        self._process.send_signal(signal.SIGCONT)
        print(calls, file=self._process.stdin, flush=True)
        faults, *times = map(float, self._answer().split())
        self.faults.append(faults)
        self.medians.append(float(np.median(times)) / 1e6)
        return self.medians[-1]

    def end(self) -> None:
        assert self._process.stdin is not None
        self._process.send_signal(signal.SIGCONT)
        with contextlib.suppress(BrokenPipeError):  # it has died, and was asked for more
            self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the bare loop ended with exit code {self._process.wait()}")
        self._process.send_signal(signal.SIGSTOP)
        return line


def _call(
    folder: str, runtime: str, device: str, shape: tuple[int, int], threads: int
) -> Callable[[], Any]:
    feeds = {
        "input_ids": np.random.default_rng(0).integers(0, VOCABULARY, shape),
        "attention_mask": np.ones(shape, np.int64),
        "token_type_ids": np.zeros(shape, np.int64),
    }
    if runtime == "onnxruntime-cpu":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(f"{folder}/model.onnx", options)
        return lambda: session.run(None, feeds)
    if runtime == "onnxruntime-cuda":
        return _bound_call(f"{folder}/model.onnx", device, feeds)

    import torch

    tensors = {name: torch.from_numpy(array).to(device) for name, array in feeds.items()}
    if runtime == "transformers":
        import transformers

        transformers.utils.logging.disable_progress_bar()
        model = transformers.AutoModel.from_pretrained(folder).to(device).eval()
        call = torch.inference_mode()(lambda: model(**tensors))
    else:
        from compile.models.model import load_model

        module = load_model(Path(folder)).module.to(device)
        call = torch.inference_mode()(lambda: module(*tensors.values()))
    if device == "cpu":
        return call
    return lambda: (call(), torch.cuda.synchronize(device))


def _bound_call(model: str, device: str, feeds: dict[str, np.ndarray]) -> Callable[[], Any]:
    """ONNX Runtime's way to leave copies out of a call on a GPU."""
    import onnxruntime

    onnxruntime.preload_dlls()
    index = int(device.partition(":")[2] or 0)
    providers = [("CUDAExecutionProvider", {"device_id": index}), "CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(model, providers=providers)
    binding = session.io_binding()
    for name, array in feeds.items():
        value = onnxruntime.OrtValue.ortvalue_from_numpy(array, "cuda", index)
        binding.bind_ortvalue_input(name, value)
    for output in session.get_outputs():
        binding.bind_output(output.name, "cuda", index)
    return lambda: (session.run_with_iobinding(binding), binding.synchronize_outputs())


def _serve(
    folder: str, runtime: str, device: str, batch: str, sequence: str, threads: str, state: str
) -> None:
    """Answer each line, a number of calls, with the page faults of a call and all times in ns."""
    # A stopped process does not see that its parent is gone.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if state == "settled":
        from runtimes import allocator

        allocator.settle()
    call = _call(folder, runtime, device, (int(batch), int(sequence)), int(threads))
    for _ in range(WARM_UP_CALLS):
        call()
    print("ready", flush=True)
    for line in sys.stdin:
        for _ in range(REWARM_CALLS):
            call()
        times = []
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(int(line)):
            start = time.perf_counter_ns()
            call()
            times.append(time.perf_counter_ns() - start)
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
        print(faults / int(line), *times, flush=True)


if __name__ == "__main__":
    _serve(*sys.argv[1:])
