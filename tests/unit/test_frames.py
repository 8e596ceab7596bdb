"""The frame: what is written is read back, and nothing else passes for one."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from livep2v.errors import ProtocolError
from livep2v.model import BLOCK
from livep2v.wire import frames, rpc

FRAMES = st.builds(
    frames.Frame,
    st.sampled_from(list(frames.KINDS)),
    st.integers(0, 255),
    st.integers(0, 65535),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**64 - 1),
    st.binary(max_size=3000),
)


@given(st.lists(FRAMES, max_size=4))
def test_frames_come_back_and_the_stream_ends(sent: list[frames.Frame]) -> None:
    stream = io.BytesIO(b"".join(map(frames.pack, sent)))
    assert [frames.read(stream) for _ in sent] == sent
    assert frames.read(stream) is None


@given(FRAMES, st.data())
def test_a_cut_stream_is_noticed(frame: frames.Frame, data: st.DataObject) -> None:
    packed = frames.pack(frame)
    cut = data.draw(st.integers(1, len(packed) - 1))
    with pytest.raises(ProtocolError, match="ends inside"):
        frames.read(io.BytesIO(packed[:cut]))


@given(FRAMES, st.integers(0, frames.HEADER_SIZE - 1), st.integers(1, 255))
def test_a_changed_header_is_noticed(frame: frames.Frame, at: int, flip: int) -> None:
    packed = bytearray(frames.pack(frame))
    packed[at] ^= flip
    with pytest.raises(ProtocolError):
        frames.read(io.BytesIO(bytes(packed)))


def test_a_shell_that_prints_is_no_frame() -> None:
    with pytest.raises(ProtocolError, match="Welcome to oldbox"):
        frames.read(io.BytesIO(b"Welcome to oldbox!\nLast login: yesterday\n"))


def test_a_length_is_never_trusted() -> None:
    head = frames.HEADER.pack(frames.MAGIC, frames.DATA, 0, 0, 0, BLOCK, 2**32 - 1)
    packed = head + frames.zlib.crc32(head).to_bytes(4, "big")
    with pytest.raises(ProtocolError, match="4294967295"):
        frames.read(io.BytesIO(packed))


@pytest.mark.parametrize(
    ("length", "offset", "payload"), [(0, 0, b""), (BLOCK * 17, 0, bytes(3000)), (10, 5, bytes(20)), (10, 0, b"x")]
)
def test_data_out_of_bounds(length: int, offset: int, payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        frames.split_data(frames.Frame(frames.DATA, 0, 0, offset, length, payload), BLOCK)


@pytest.mark.parametrize("payload", [b"", b"[1]", b"{", b"\xff"])
def test_control_frames_carry_an_object(payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        rpc.parse(frames.Frame(frames.CALL, payload=payload))
