"""What the host holds of each disk, as one digest of 16 bytes a block: verifies the copy, answers a re-scan, and lets a later
transfer send only what differs. A file beside the disk, mapped into memory, so that a disk of any size costs no RAM."""

from __future__ import annotations

import errno
import mmap
import os
import shutil
from pathlib import Path

from ..errors import HostDiskFull, ImageError, ProtocolError
from ..model import BLOCK, DIGEST_SIZE


class DigestMap:
    """Fresh maps are all zero: the digest of a block of zeros is zero by definition (wire/codecs.py)."""

    def __init__(self, path: Path, size: int) -> None:
        """``size``: of the disk, bytes. Creates ``path``; raises ImageError."""
        self.path, self.size = path, size
        self.blocks = -(-size // BLOCK)
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            try:
                # Room for all of it now: a page of a sparse mapping that finds the disk full is a SIGBUS, not an error.
                os.posix_fallocate(fd, 0, self.blocks * DIGEST_SIZE)
                self._map = mmap.mmap(fd, self.blocks * DIGEST_SIZE)
            finally:
                os.close(fd)
        except OSError as error:
            path.unlink(missing_ok=True)
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                free = shutil.disk_usage(path.parent).free
                raise HostDiskFull(path=path, needed=self.blocks * DIGEST_SIZE, free=free) from error
            raise ImageError(path=path, reason=error.strerror) from error

    def _range(self, offset: int, length: int) -> slice:
        first, count = offset // BLOCK, -(-length // BLOCK)
        if offset % BLOCK or length <= 0 or first + count > self.blocks:
            raise ProtocolError(reason=f"{length} bytes at byte {offset} of a disk of {self.size}")
        return slice(first * DIGEST_SIZE, (first + count) * DIGEST_SIZE)

    def put(self, offset: int, length: int, digests: bytes) -> None:
        where = self._range(offset, length)
        if len(digests) != where.stop - where.start:
            raise ProtocolError(reason=f"{len(digests)} bytes of digests for {length} bytes")
        self._map[where] = digests

    def get(self, offset: int, length: int) -> bytes:
        return self._map[self._range(offset, length)]

    def close(self) -> None:
        self._map.close()
