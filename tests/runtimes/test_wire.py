from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Iterator

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from runtimes import wire
from runtimes.wire import Channel, PeerGone, WireError

Pair = tuple[Channel, Channel]


@pytest.fixture
def pair() -> Iterator[Pair]:
    left, right = (Channel(end) for end in socket.socketpair())
    yield left, right
    left.close()
    right.close()


def echo(arrays: dict[str, np.ndarray], body: dict[str, object]) -> tuple[dict, dict]:
    left, right = (Channel(end) for end in socket.socketpair())
    sender = threading.Thread(target=left.send, args=(body, arrays))
    sender.start()
    try:
        return right.receive(timeout=10)
    finally:
        sender.join()
        left.close()
        right.close()


@given(
    st.dictionaries(
        st.text(max_size=8),
        st.sampled_from(sorted(wire.DTYPES - {"bfloat16"})).flatmap(
            lambda name: hnp.arrays(
                np.dtype(name), hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)
            )
        ),
        max_size=4,
    ),
    st.dictionaries(st.text(max_size=5), st.integers() | st.text() | st.none(), max_size=4),
)
@settings(max_examples=60, deadline=None)
def test_a_message_arrives_bit_for_bit(
    arrays: dict[str, np.ndarray], body: dict[str, object]
) -> None:
    received_body, received = echo(arrays, body)
    assert received_body == body
    assert list(received) == list(arrays)
    for name, array in arrays.items():
        assert received[name].dtype == array.dtype
        assert received[name].shape == array.shape
        assert received[name].tobytes() == array.tobytes()
        assert received[name].flags.writeable


def test_bfloat16_big_endian_and_strided_arrays_keep_their_values() -> None:
    arrays = {
        "bf16": np.array([1.5, -3.0], ml_dtypes.bfloat16),
        "big": np.arange(5, dtype=">i4"),
        "strided": np.arange(12.0).reshape(3, 4).T[::2],
        "scalar": np.float32(2).reshape(()),
    }
    _, received = echo(arrays, {})
    for name, array in arrays.items():
        np.testing.assert_array_equal(received[name], array)
    assert received["bf16"].dtype == ml_dtypes.bfloat16
    assert received["scalar"].shape == ()


def test_a_message_larger_than_the_socket_buffer_arrives() -> None:
    array = np.arange(3_000_000, dtype=np.int64)
    np.testing.assert_array_equal(echo({"a": array}, {})[1]["a"], array)


def test_receive_raises_peer_gone_when_the_message_is_cut_anywhere(pair: Pair) -> None:
    left, right = socket.socketpair()
    Channel(left).send({"command": "run"}, {"x": np.arange(3, dtype=np.int16)})
    whole = right.recv(1 << 16)
    left.close()
    right.close()
    for length in range(len(whole)):
        writer, reader = socket.socketpair()
        writer.sendall(whole[:length])
        writer.close()
        with pytest.raises(PeerGone):
            Channel(reader).receive(timeout=5)
        reader.close()


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_receive_refuses_bytes_that_are_no_message(noise: bytes) -> None:
    writer, reader = socket.socketpair()
    writer.sendall(noise)
    writer.close()
    with pytest.raises((PeerGone, WireError)):
        Channel(reader).receive(timeout=5)
    reader.close()


@pytest.mark.parametrize(
    "header",
    [
        [],
        {"body": {}},
        {"body": [], "arrays": []},
        {"body": {}, "arrays": [{"name": "x", "dtype": "object", "shape": [1]}]},
        {"body": {}, "arrays": [{"name": "x", "dtype": "S8", "shape": [1]}]},
        {"body": {}, "arrays": [{"name": "x", "dtype": "int8", "shape": [-1]}]},
        {"body": {}, "arrays": [{"name": "x", "dtype": "int8", "shape": [True]}]},
        {"body": {}, "arrays": [{"name": "x", "dtype": "int8", "shape": [1 << 62, 4]}]},
        {"body": {}, "arrays": [{"name": ["x"], "dtype": "int8", "shape": [1]}]},
        {"body": {}, "arrays": [{"name": "x", "dtype": {}, "shape": [1]}]},
    ],
)
def test_receive_raises_wire_error_when_the_header_lies(header: object) -> None:
    writer, reader = socket.socketpair()
    text = json.dumps(header).encode()
    writer.sendall(struct.pack("<4sI", wire.MAGIC, len(text)) + text)
    with pytest.raises(WireError):
        Channel(reader).receive(timeout=5)
    writer.close()
    reader.close()


def test_receive_refuses_a_huge_header_before_reading_it(pair: Pair) -> None:
    writer, reader = socket.socketpair()
    writer.sendall(struct.pack("<4sI", wire.MAGIC, wire.MAX_HEADER_BYTES + 1))
    with pytest.raises(WireError):
        Channel(reader).receive(timeout=5)
    writer.close()
    reader.close()


def test_send_refuses_an_array_of_objects(pair: Pair) -> None:
    with pytest.raises(WireError, match="'x' has dtype object"):
        pair[0].send({}, {"x": np.array([object()])})


def test_receive_and_send_raise_timeout_when_the_other_end_is_idle(pair: Pair) -> None:
    with pytest.raises(TimeoutError):
        pair[0].receive(timeout=0.05)
    with pytest.raises(TimeoutError):
        pair[0].send({}, {"x": np.zeros(50_000_000, np.uint8)}, timeout=0.05)
