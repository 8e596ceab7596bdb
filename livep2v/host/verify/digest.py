"""Proof that the replica is what the source read: every block of the written files is read again and its digest compared.

The files are opened anew and the host's page cache of them is dropped first, so that what is compared is what is on disk."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from ...errors import VerifyError
from ...model import BLOCK, CHUNK, DIGEST_SIZE, Verification
from ...parties import Progress
from ...wire import codecs
from ..digestmap import DigestMap
from ..image import open_image
from ..image.base import Image

ZEROS = bytes(CHUNK // BLOCK * DIGEST_SIZE)
AHEAD = 8  # chunks read and not yet compared


def verify(disks: Sequence[tuple[str, Path, str, DigestMap]], progress: Progress) -> Verification:
    """``disks``: (name, file, format, digests). Ranges that the file does not allocate read as zeros and are checked against
    the map without reading. Raises VerifyError with the first block that differs."""
    started, count = time.monotonic(), _Count(sum(digests.size for _name, _path, _format, digests in disks), progress)
    for name, path, image_format, digests in disks:
        _drop_cache(path)
        image = open_image(path, image_format)
        try:
            _verify_disk(name, image, digests, count)
        finally:
            image.close()
    return Verification(True, count.blocks, count.zero_blocks, count.read, time.monotonic() - started)


class _Count:
    def __init__(self, total: int, progress: Progress) -> None:
        self.total, self.progress = total, progress
        self.blocks = self.zero_blocks = self.read = self.done = 0

    def tell(self, length: int) -> None:
        self.done += length
        if self.done % (64 << 20) < length:
            self.progress("bytes", {"phase": "verifying the replica", "done": self.done, "total": self.total, "sent": 0})


def _verify_disk(name: str, image: Image, digests: DigestMap, count: _Count) -> None:
    stored = bytearray(digests.blocks)
    for extent in image.allocated():
        first, last = extent.offset // BLOCK, (extent.offset + extent.length - 1) // BLOCK
        stored[first : last + 1] = b"\1" * (last + 1 - first)
    bad: list[int] = []
    pending: deque[tuple[int, bytes, Future[bytes]]] = deque()

    def compare() -> None:
        offset, want, future = pending.popleft()
        got = future.result()
        if got != want:
            bad.extend(offset + at // DIGEST_SIZE * BLOCK for at in _steps(want) if _one(got, at) != _one(want, at))

    with ThreadPoolExecutor(2) as pool:
        for offset in range(0, image.size, CHUNK):
            length = min(CHUNK, image.size - offset)
            want = digests.get(offset, length)
            if any(stored[offset // BLOCK : (offset + length - 1) // BLOCK + 1]):
                pending.append((offset, want, pool.submit(codecs.digests, image.read(offset, length))))
                count.read += length
                if len(pending) > AHEAD:
                    compare()
            elif want != ZEROS[: len(want)]:
                bad.extend(offset + at // DIGEST_SIZE * BLOCK for at in _steps(want) if _one(want, at) != codecs.ZERO_DIGEST)
            count.blocks += len(want) // DIGEST_SIZE
            count.zero_blocks += sum(_one(want, at) == codecs.ZERO_DIGEST for at in _steps(want))
            count.tell(length)
        while pending:
            compare()
    if bad:
        raise VerifyError(disk=name, blocks=len(bad), offset=min(bad))


def _steps(digests: bytes) -> range:
    return range(0, len(digests), DIGEST_SIZE)


def _one(digests: bytes, at: int) -> bytes:
    return digests[at : at + DIGEST_SIZE]


def _drop_cache(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)
