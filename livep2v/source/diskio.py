"""Reading a disk of the source: O_DIRECT always, because the page cache of the raw device is not the file system's.

(A file system's metadata buffers live in the partition's cache, a read of the whole disk has another one; XFS and btrfs use
private caches: a buffered read may be stale for ever. Design section 2, step 3.)
"""
import errno
import mmap
import os
import threading
from typing import Any, Optional

from ..errors import FormatError, SourceReadError
from ..model import CHUNK

ALIGN = 4096  # the largest logical sector in use; also what O_DIRECT on a file system asks for at most


class DiskReader:
    """Reads any range of a block device or a raw image. One call at a time; ``size`` in bytes."""

    def __init__(self, name: str, path: str, size: Optional[int] = None, exclusive: bool = False) -> None:
        """``exclusive``: O_EXCL, which the kernel refuses (EBUSY) for a device that is mounted or part of another."""
        self.name = name
        flags = os.O_RDONLY | os.O_CLOEXEC | (os.O_EXCL if exclusive else 0)
        try:
            try:
                self._fd = os.open(path, flags | os.O_DIRECT)
            except OSError as error:
                if error.errno != errno.EINVAL:  # tmpfs and some FUSE file systems know no O_DIRECT: an image, nobody writes
                    raise
                self._fd = os.open(path, flags)
        except OSError as error:
            raise SourceReadError(disk=path, offset=0, length=0, reason=error.strerror)
        self.size = os.lseek(self._fd, 0, os.SEEK_END) if size is None else size
        self._buffer = mmap.mmap(-1, CHUNK + 2 * ALIGN)
        self._lock = threading.Lock()

    def fileno(self) -> int:
        return self._fd

    def read(self, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes. Raises FormatError past the end and SourceReadError where the disk fails."""
        if offset < 0 or length < 0 or offset + length > self.size:
            raise FormatError(
                what=self.name, offset=offset, reason="{} bytes wanted of a disk of {}".format(length, self.size)
            )
        if length <= CHUNK:
            return self._piece(offset, length)
        return b"".join(self._piece(at, min(CHUNK, offset + length - at)) for at in range(offset, offset + length, CHUNK))

    def _piece(self, offset: int, length: int) -> bytes:
        start = offset - offset % ALIGN
        want = -(-(offset + length - start) // ALIGN) * ALIGN
        with self._lock, memoryview(self._buffer) as view:
            got = 0
            os.lseek(self._fd, start, os.SEEK_SET)
            while got < offset + length - start:
                try:
                    count = os.readv(self._fd, [view[got:want]])
                except OSError as error:
                    raise SourceReadError(disk=self.name, offset=start + got, length=want - got, reason=error.strerror)
                if count == 0:
                    raise SourceReadError(disk=self.name, offset=start + got, length=want - got, reason="the disk ends there")
                got += count
            return view[offset - start:offset - start + length].tobytes()

    def sync(self) -> None:
        """Write back what raw users of the device left in its page cache."""
        try:
            os.fsync(self._fd)
        except OSError:  # a read-only device has nothing to write
            pass

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self._buffer.close()

    def __enter__(self) -> "DiskReader":
        return self

    def __exit__(self, *_exc: Any) -> None:
        self.close()
