"""How the codecs of this package read: one function, so that a disk, an image and a byte string look alike.

``Read``: ``read(offset, length)`` answers exactly ``length`` bytes, offsets counted from the start of the disk or volume; it
raises FormatError past the end and SourceReadError where the medium fails. Offsets and lengths are not aligned to
sectors: a reader of O_DIRECT devices aligns by itself.
"""

from typing import BinaryIO, Callable

from ..errors import FormatError, SourceReadError

Read = Callable[[int, int], bytes]


def bytes_reader(data: bytes, what: str = "data") -> Read:
    """Reads from memory. ``what`` names it in errors."""

    def read(offset: int, length: int) -> bytes:
        if offset < 0 or length < 0 or offset + length > len(data):
            raise FormatError(what=what, offset=offset, reason="{} bytes wanted, it has {}".format(length, len(data)))
        return bytes(data[offset : offset + length])

    return read


def file_reader(file: BinaryIO, size: int, what: str = "file") -> Read:
    """Reads a seekable file of ``size`` bytes. Not for several threads at a time: it seeks."""

    def read(offset: int, length: int) -> bytes:
        if offset < 0 or length < 0 or offset + length > size:
            raise FormatError(what=what, offset=offset, reason="{} bytes wanted, it has {}".format(length, size))
        try:
            file.seek(offset)
            data = file.read(length)
        except OSError as error:
            raise SourceReadError(disk=what, offset=offset, length=length, reason=error.strerror or str(error))
        if len(data) != length:
            raise SourceReadError(disk=what, offset=offset, length=length, reason="it ended after {} bytes".format(len(data)))
        return data

    return read


def window(read: Read, start: int, size: int, what: str = "volume") -> Read:
    """The range ``start .. start + size`` of another reader, as a reader of its own."""

    def inside(offset: int, length: int) -> bytes:
        if offset < 0 or length < 0 or offset + length > size:
            raise FormatError(what=what, offset=offset, reason="{} bytes wanted, it has {}".format(length, size))
        return read(start + offset, length)

    return inside
