"""Digests and compression, against coreutils' b2sum, gzip's zlib and the zstd program."""

from __future__ import annotations

import os
import subprocess
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from livep2v.errors import FormatError, ProtocolError
from livep2v.model import BLOCK, DIGEST_SIZE
from livep2v.wire import codecs


def test_digest_is_what_b2sum_says() -> None:
    data = os.urandom(3 * BLOCK + 1234)
    got = codecs.digests(data)
    for number in range(4):
        block = data[number * BLOCK : (number + 1) * BLOCK]
        oracle = subprocess.run(["b2sum", "-l", "128"], input=block, capture_output=True, check=True).stdout.split()[0]
        assert got[number * DIGEST_SIZE : (number + 1) * DIGEST_SIZE].hex() == oracle.decode()


def test_zero_blocks_have_the_zero_digest_and_only_they() -> None:
    data = bytes(BLOCK) + b"\0" * (BLOCK - 1) + b"\1" + bytes(100)
    got = codecs.digests(data)
    assert got[:16] == bytes(16) and got[16:32] != bytes(16) and got[32:] == bytes(16)


@settings(max_examples=40)
@given(st.binary(min_size=1, max_size=5000), st.sampled_from([codecs.NONE, codecs.ZLIB, codecs.ZSTD]))
def test_round_trip(data: bytes, codec: int) -> None:
    assert codecs.decode(codecs.encode(data, codec), codec, len(data)) == data


def test_the_real_programs_read_ours() -> None:
    data = b"livep2v " * 20000
    unpacked = subprocess.run(["zstd", "-dc"], input=codecs.encode(data, codecs.ZSTD), capture_output=True, check=True).stdout
    assert unpacked == data
    assert zlib.decompress(codecs.encode(data, codecs.ZLIB)) == data


@pytest.mark.parametrize("codec", [codecs.NONE, codecs.ZLIB, codecs.ZSTD])
def test_a_wrong_length_or_damage_is_refused(codec: int) -> None:
    packed = codecs.encode(b"x" * 1000, codec)
    for length in (999, 1001):
        with pytest.raises((ProtocolError, FormatError)):
            codecs.decode(packed, codec, length)
    with pytest.raises((ProtocolError, FormatError)):
        codecs.decode(b"\x13" + packed[1:-1], codec, 1000)


def test_a_bomb_does_not_go_off() -> None:
    bomb = zlib.compress(bytes(200 << 20), 9)
    with pytest.raises(ProtocolError):
        codecs.decode(bomb, codecs.ZLIB, 65536)


def test_unknown_codec() -> None:
    with pytest.raises(ProtocolError, match="codec 77"):
        codecs.decode(b"", 77, 1)
