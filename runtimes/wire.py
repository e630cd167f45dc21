"""Messages between a worker and its parent: a JSON header, then the bytes of its arrays.

The channel is a socket of its own, because libraries print to stdout. Nothing is pickled: the
two ends may run different interpreters and NumPy versions, and a damaged message must not be
able to execute code.

Frame: 4 bytes magic, 4 bytes little-endian header length, the header ``{"body": {...}, "arrays":
[{"name", "dtype", "shape"}, ...]}``, and each array's C-contiguous little-endian bytes in turn.
"""

from __future__ import annotations

import json
import math
import socket
import struct
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

MAGIC = b"ASY1"
PREFIX = struct.Struct("<4sI")
LABELS = "labels of the feeds"
"""Name under which labels travel beside feeds: no model's input is called so."""
ARRIVALS = "arrivals of the requests"
"""Name under which a schedule travels."""
MAX_HEADER_BYTES = 64 << 20
MAX_ARRAYS_BYTES = 64 << 30
DTYPES = frozenset(
    {"bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"}
    | {"float16", "float32", "float64", "bfloat16"}
)


class PeerGone(ConnectionError):
    """The other end closed the channel or died, perhaps in the middle of a message."""


class WireError(ValueError):
    """A message does not follow the format, or holds what the format cannot carry."""


class Channel:
    """One end of the socket. Not safe for use by two threads at once."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def send(
        self,
        body: Mapping[str, Any],
        arrays: Mapping[str, np.ndarray] | None = None,
        timeout: float | None = None,
    ) -> None:
        """Send one message. Raises WireError, PeerGone, or TimeoutError after ``timeout`` seconds.

        After a TimeoutError the channel holds half a message and must be closed.
        """
        parts = {name: _little_endian(name, array) for name, array in (arrays or {}).items()}
        header = {
            "body": dict(body),
            "arrays": [
                {"name": name, "dtype": array.dtype.name, "shape": array.shape}
                for name, array in parts.items()
            ],
        }
        text = json.dumps(header, separators=(",", ":")).encode()
        if len(text) > MAX_HEADER_BYTES:
            raise WireError(f"a header of {len(text)} bytes is over the limit")
        deadline = _deadline(timeout)
        self._send(memoryview(PREFIX.pack(MAGIC, len(text)) + text), deadline)
        for array in parts.values():
            if array.nbytes:
                self._send(array.reshape(-1).view(np.uint8).data, deadline)

    def receive(self, timeout: float | None = None) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """The next message's body and arrays. Blocks, at most ``timeout`` seconds.

        Raises PeerGone at the end of the stream, WireError for a malformed message, TimeoutError.
        """
        deadline = _deadline(timeout)
        magic, length = PREFIX.unpack(self._receive(PREFIX.size, deadline).tobytes())
        if magic != MAGIC or length > MAX_HEADER_BYTES:
            raise WireError("the other end does not speak this protocol")
        try:
            header = json.loads(self._receive(length, deadline).tobytes())
            body, entries = header["body"], header["arrays"]
            layout = [_layout(entry) for entry in entries]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise WireError(f"malformed header: {error}") from error
        if not isinstance(body, dict):
            raise WireError("malformed header: the body is not an object")
        if sum(size for *_, size in layout) > MAX_ARRAYS_BYTES:
            raise WireError("the arrays of one message are over the limit")
        arrays = {
            name: self._receive(size, deadline).view(dtype).reshape(shape)
            for name, dtype, shape, size in layout
        }
        return body, arrays

    def _send(self, data: memoryview, deadline: float | None) -> None:
        while data:
            self._socket.settimeout(_remaining(deadline))
            try:
                data = data[self._socket.send(data) :]
            except (BrokenPipeError, ConnectionResetError) as error:
                raise PeerGone("the other end closed the channel") from error

    def _receive(self, size: int, deadline: float | None) -> np.ndarray:
        """Exactly ``size`` bytes, as a writable uint8 array (NumPy aligns its own memory)."""
        buffer = np.empty(size, np.uint8)
        view = buffer.data
        while view:
            self._socket.settimeout(_remaining(deadline))
            try:
                count = self._socket.recv_into(view)
            except ConnectionResetError as error:
                raise PeerGone("the other end closed the channel") from error
            if count == 0:
                raise PeerGone("the other end closed the channel")
            view = view[count:]
        return buffer


def _deadline(timeout: float | None) -> float | None:
    return None if timeout is None else time.monotonic() + timeout


def _remaining(deadline: float | None) -> float | None:
    """Seconds left. Raises TimeoutError where none is (a zero would mean a non-blocking socket)."""
    if deadline is None:
        return None
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise TimeoutError
    return remaining


def _little_endian(name: str, array: np.ndarray) -> np.ndarray:
    if array.dtype.name not in DTYPES:
        raise WireError(f"array {name!r} has dtype {array.dtype}, which cannot be sent")
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("<"))
    return np.asarray(array, order="C")


def _layout(entry: Mapping[str, Any]) -> tuple[str, np.dtype, tuple[int, ...], int]:
    """Name, dtype, shape and bytes of one array of a header."""
    name, dtype_name, shape = entry["name"], entry["dtype"], entry["shape"]
    if not isinstance(name, str) or dtype_name not in DTYPES:
        raise ValueError(f"array {name!r} of dtype {dtype_name!r}")
    if not all(type(axis) is int and axis >= 0 for axis in shape):
        raise ValueError(f"array {name!r} of shape {shape}")
    dtype = _bfloat16() if dtype_name == "bfloat16" else np.dtype(dtype_name).newbyteorder("<")
    return name, dtype, tuple(shape), math.prod(shape) * dtype.itemsize


def _bfloat16() -> np.dtype:
    """NumPy has no bfloat16 of its own; ``ml_dtypes`` is imported only when one arrives."""
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16)
