"""LZ4 in the legacy frame ("lz4 -l"), the one that the kernel unpacks: a magic number, then blocks, each with its length.

Format: https://github.com/lz4/lz4/blob/dev/doc/lz4_Frame_format.md ("Legacy frame") and lz4_Block_format.md. Blocks are
unpacked by the system's liblz4 where there is one, else by the decoder here. Packing stores literals only: every decoder
reads it, and what is packed here is small.
"""
import ctypes
import struct
from typing import Any, Iterator

from ..errors import FormatError

MAGIC = b"\x02\x21\x4c\x18"
BLOCK = 8 << 20  # content of a block, at most; fixed by the format
_WORST = BLOCK + BLOCK // 255 + 16  # LZ4_COMPRESSBOUND(BLOCK)
_lib: Any = None
_tried = False


def _load() -> Any:
    global _lib, _tried
    if not _tried:
        _tried = True
        try:
            lib = ctypes.CDLL("liblz4.so.1")
            lib.LZ4_decompress_safe.restype = ctypes.c_int
            lib.LZ4_decompress_safe.argtypes = [ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int]
            _lib = lib
        except (OSError, AttributeError):
            pass
    return _lib


def _decode(data: bytes, offset: int) -> bytes:
    """One block in plain Python (about 5 MiB/s). Raises FormatError."""
    out = bytearray()
    at, end = 0, len(data)

    def bad(reason: str) -> FormatError:
        return FormatError(what="LZ4 block", offset=offset + at, reason=reason)

    try:
        while at < end:
            token = data[at]
            at += 1
            count = token >> 4
            if count == 15:
                while True:
                    more = data[at]
                    at += 1
                    count += more
                    if more != 255:
                        break
            if at + count > end:
                raise bad("literals run past its end")
            out += data[at : at + count]
            at += count
            if at == end:
                break  # the last sequence has no match
            distance = data[at] | data[at + 1] << 8
            at += 2
            count = token & 15
            if count == 15:
                while True:
                    more = data[at]
                    at += 1
                    count += more
                    if more != 255:
                        break
            count += 4
            start = len(out) - distance
            if distance == 0 or start < 0:
                raise bad("a match {} bytes back".format(distance))
            if len(out) + count > BLOCK:
                raise bad("more than {} bytes of content".format(BLOCK))
            if distance >= count:
                out += out[start : start + count]
            else:  # an overlapping match repeats its own output
                pattern = bytes(out[start:])
                out += (pattern * (count // distance + 1))[:count]
    except IndexError:
        raise bad("cut short")
    if len(out) > BLOCK:
        raise bad("more than {} bytes of content".format(BLOCK))
    return bytes(out)


def decode_block(data: bytes, offset: int = 0, pure: bool = False) -> bytes:
    """The content of one block that was found at byte ``offset``; ``pure``: without liblz4. Raises FormatError."""
    lib = None if pure else _load()
    if lib is None:
        return _decode(data, offset)
    out = ctypes.create_string_buffer(BLOCK)
    size = lib.LZ4_decompress_safe(bytes(data), out, len(data), BLOCK)
    if size < 0:
        raise FormatError(what="LZ4 block", offset=offset, reason="damaged near byte {}".format(-size))
    return ctypes.string_at(out, size)


def stream(data: Any, start: int, end: Any = None, consumed: Any = None, pure: bool = False) -> Iterator[bytes]:
    """The content of the frame that begins at byte ``start`` of ``data`` (bytes or a mapping), block by block.

    As in the kernel (lib/decompress_unlz4.c) a magic number in place of a length starts another frame of the same stream,
    and a length of zero, or fewer than 4 bytes, end it. ``consumed`` (a list) then receives the offset behind it. Raises
    FormatError."""
    at, end = start, len(data) if end is None else end
    while at + 4 <= end:
        word = bytes(data[at : at + 4])
        if word == MAGIC:
            at += 4
            continue
        length = struct.unpack("<I", word)[0]
        if length == 0:
            break
        if length > _WORST or at + 4 + length > end:
            raise FormatError(what="LZ4 block", offset=at, reason="a length of {} bytes".format(length))
        yield decode_block(bytes(data[at + 4 : at + 4 + length]), at + 4, pure)
        at += 4 + length
    if consumed is not None:
        consumed.append(at)


def pack(data: bytes) -> bytes:
    """``data`` as one legacy frame of stored literals."""
    parts = [MAGIC]
    for at in range(0, len(data), BLOCK):
        piece = data[at : at + BLOCK]
        if len(piece) < 15:
            block = bytes([len(piece) << 4]) + piece
        else:
            extra = len(piece) - 15
            block = b"\xf0" + b"\xff" * (extra // 255) + bytes([extra % 255]) + piece
        parts.append(struct.pack("<I", len(block)) + block)
    return b"".join(parts)
