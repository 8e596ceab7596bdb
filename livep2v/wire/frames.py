"""The frame: one fixed header, then ``payload_length`` bytes. Everything that crosses the wire is one of these.

    0        4      5      6       8         16        24               28          32
    | magic  | kind | codec| disk  | offset  | length  | payload_length | crc32     |
    | "lP2V" | u8   | u8   | u16   | u64     | u64     | u32            | of 0..28  |     big-endian

``offset`` and ``length`` are bytes of the disk, before compression. A DATA payload is one 16-byte digest for each block of
64 KiB that it covers, then the (compressed) bytes. A ZERO frame has no payload: the range reads as zeros. Control payloads
are UTF-8 JSON. The header has its own CRC because a ZERO frame has no digest to protect it.
"""
import struct
import zlib
from typing import Any, BinaryIO, NamedTuple, Optional

from ..errors import ProtocolError
from ..model import CHUNK, CHUNK_BLOCKS, DIGEST_SIZE

MAGIC = b"lP2V"
HEADER = struct.Struct(">4sBBHQQI")
HEADER_SIZE = HEADER.size + 4
assert HEADER_SIZE == 32

CALL, RESULT, ERROR, EVENT, DATA, ZERO, DIGESTS_WANTED, DIGESTS, PING, CANCEL = range(1, 11)
KINDS = range(CALL, CANCEL + 1)
CONTROL_LIMIT = 64 << 20  # bytes of one JSON frame: the inspection of a machine with 10,000 disks stays below
DATA_LIMIT = CHUNK + CHUNK_BLOCKS * DIGEST_SIZE + 65536  # incompressible data may grow a little


class Frame(NamedTuple):
    kind: int
    codec: int = 0
    disk: int = 0
    offset: int = 0
    length: int = 0
    payload: bytes = b""


def pack(frame: Frame) -> bytes:
    """Header and payload in one piece."""
    head = HEADER.pack(MAGIC, frame.kind, frame.codec, frame.disk, frame.offset, frame.length, len(frame.payload))
    return head + struct.pack(">I", zlib.crc32(head)) + frame.payload


def read_exactly(stream: BinaryIO, length: int) -> bytes:
    """``length`` bytes, or fewer only where the stream ends."""
    pieces, left = [], length
    while left:
        piece = stream.read(left)
        if not piece:
            break
        pieces.append(piece)
        left -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def read(stream: BinaryIO) -> Optional[Frame]:
    """The next frame; None where the stream ends between two frames. Raises ProtocolError for anything that is not one."""
    head = read_exactly(stream, HEADER_SIZE)
    if not head:
        return None
    if not head.startswith(MAGIC[:len(head)]):
        raise ProtocolError(reason="it begins with {!r}".format(head))
    if len(head) < HEADER_SIZE:
        raise ProtocolError(reason="the stream ends inside a header, after {} bytes".format(len(head)))
    _magic, kind, codec, disk, offset, length, size = HEADER.unpack_from(head)
    if zlib.crc32(head[:HEADER.size]) != struct.unpack_from(">I", head, HEADER.size)[0]:
        raise ProtocolError(reason="its header fails its checksum")
    if kind not in KINDS:
        raise ProtocolError(reason="unknown kind {}".format(kind))
    limit = DATA_LIMIT if kind == DATA else CONTROL_LIMIT
    if size > limit:
        raise ProtocolError(reason="a payload of {} bytes, {} allowed".format(size, limit))
    payload = read_exactly(stream, size) if size else b""
    if len(payload) < size:
        raise ProtocolError(reason="the stream ends inside a payload, {} of {} bytes".format(len(payload), size))
    return Frame(kind, codec, disk, offset, length, payload)


def blocks_of(length: int, block: int) -> int:
    """Number of blocks that ``length`` bytes cover."""
    return -(-length // block)


def split_data(frame: Frame, block: int) -> Any:
    """``(digests, body)`` of a DATA frame, bounds checked."""
    need = blocks_of(frame.length, block) * DIGEST_SIZE
    if not 0 < frame.length <= CHUNK or frame.offset % block or len(frame.payload) < need:
        raise ProtocolError(
            reason="data for {} bytes at byte {} with a payload of {}".format(frame.length, frame.offset, len(frame.payload))
        )
    return frame.payload[:need], frame.payload[need:]
