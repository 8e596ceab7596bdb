"""The file under an image: positioned reads and writes, holes, and the errors of the host's file system in our words."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...errors import HostDiskFull, ImageError
from ...model import Extent

KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 0x01, 0x02, 0x10  # <linux/falloc.h>
ZEROS = bytes(1 << 20)


def _load_fallocate() -> Any:
    """glibc's fallocate(): os.posix_fallocate has no modes, and writes zeros by hand where the file system cannot do it."""
    try:
        call = ctypes.CDLL(None, use_errno=True).fallocate64
    except (OSError, AttributeError):
        return None
    call.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    return call


_fallocate = _load_fallocate()


class HostFile:
    """``writable`` files are opened for reading too; ``create`` fails where the name is taken."""

    def __init__(self, path: Path, writable: bool = False, create: bool = False) -> None:
        self.path = path
        flags = os.O_CLOEXEC | (os.O_RDWR if writable or create else os.O_RDONLY)
        with self._errors():
            # a copy of a whole machine holds its secrets: only the owner may read it
            self.fd = os.open(path, flags | (os.O_CREAT | os.O_EXCL if create else 0), 0o600)
        self.closed = False

    def read(self, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes."""
        parts = []
        with self._errors():
            while length:
                data = os.pread(self.fd, length, offset)
                if not data:
                    raise ImageError(path=str(self.path), reason=f"it ends at byte {offset}, {length} bytes too early")
                parts.append(data)
                offset, length = offset + len(data), length - len(data)
        return b"".join(parts)

    def write(self, offset: int, *buffers: bytes | memoryview) -> None:
        """The buffers one after the other, from ``offset``."""
        rest: Sequence[memoryview] = [memoryview(buffer) for buffer in buffers]
        length = sum(len(buffer) for buffer in rest)
        with self._errors(length):
            while length:
                done = os.pwritev(self.fd, rest, offset)
                offset, length = offset + done, length - done
                while rest and done >= len(rest[0]):
                    done -= len(rest[0])
                    rest = rest[1:]
                if done:
                    rest = [rest[0][done:], *rest[1:]]

    def punch(self, offset: int, length: int) -> None:
        """Zeros, as a hole where the file system has holes."""
        self._zero(PUNCH_HOLE | KEEP_SIZE, offset, length)

    def zero_range(self, offset: int, length: int) -> None:
        """Zeros, the space stays reserved."""
        self._zero(ZERO_RANGE | KEEP_SIZE, offset, length)

    def reserve(self, length: int) -> None:
        """Set the file's size and reserve the room for it, if the file system can; HostDiskFull at once if there is none."""
        if not self._mode(0, 0, length):
            self.truncate(length)

    def truncate(self, length: int) -> None:
        with self._errors():
            os.ftruncate(self.fd, length)

    def data(self, start: int, end: int) -> Iterator[Extent]:
        """The parts of ``start .. end`` that are not holes."""
        while start < end:
            try:
                low = os.lseek(self.fd, start, os.SEEK_DATA)
                if low >= end:
                    return
                high = min(os.lseek(self.fd, low, os.SEEK_HOLE), end)
            except OSError as error:
                if error.errno == errno.ENXIO:  # nothing but a hole up to the end of the file
                    return
                if error.errno == errno.EINVAL:  # a file system without SEEK_DATA
                    low, high = start, end
                else:
                    raise ImageError(path=str(self.path), reason=error.strerror) from error
            yield Extent(low, high - low)
            start = high

    def size(self) -> int:
        with self._errors():
            return os.fstat(self.fd).st_size

    def sync(self) -> None:
        with self._errors():
            os.fdatasync(self.fd)

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            with self._errors():
                os.close(self.fd)

    def _zero(self, mode: int, offset: int, length: int) -> None:
        if length and not self._mode(mode, offset, length):
            while length:
                piece = min(length, len(ZEROS))
                self.write(offset, memoryview(ZEROS)[:piece])
                offset, length = offset + piece, length - piece

    def _mode(self, mode: int, offset: int, length: int) -> bool:
        """False if this file system cannot do it."""
        if _fallocate is None:
            return False
        while _fallocate(self.fd, mode, offset, length):
            code = ctypes.get_errno()
            if code in (errno.EOPNOTSUPP, errno.ENOSYS):
                return False
            if code != errno.EINTR:
                with self._errors(length):
                    raise OSError(code, os.strerror(code))
        return True

    @contextmanager
    def _errors(self, needed: int = 0) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                place = os.statvfs(self.path.parent)
                raise HostDiskFull(path=str(self.path), needed=needed, free=place.f_bavail * place.f_frsize) from error
            if error.errno == errno.EEXIST:
                raise ImageError(path=str(self.path), reason="it exists already and is never overwritten") from error
            raise ImageError(path=str(self.path), reason=error.strerror or str(error)) from error
