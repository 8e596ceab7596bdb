"""Where blocks arrive: unpack and check in worker threads, write in order in one thread. Memory between them is bounded.

Nothing is written before every digest of its frame has been checked. An error is raised by the next call."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from ..errors import DigestMismatch, FormatError, ProtocolError
from ..formats import zstd
from ..model import BLOCK, CHUNK, DIGEST_SIZE
from ..wire import codecs
from .digestmap import DigestMap
from .image.base import Image

WORKERS = 2
IN_FLIGHT = 48 << 20  # bytes unpacked, between the wire and the file


class Held(NamedTuple):
    """One disk of the replica while it is received."""

    name: str
    image: Image
    digests: DigestMap


class _Write(NamedTuple):
    disk: int
    offset: int
    length: int
    digests: bytes
    data: Future[bytes] | None  # None: zeros


class ImageReceiver:
    """parties.Receiver that writes into virtual disk files. Several threads may not call it at once."""

    def __init__(self, disks: Sequence[Held]) -> None:
        self._disks = disks
        self._pool = ThreadPoolExecutor(WORKERS, "check")
        self._queue: queue.Queue[_Write | None] = queue.Queue()
        self._room = threading.Condition()
        self._in_flight = 0
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._write, name="image writer", daemon=True)
        self._thread.start()

    def data(self, disk: int, offset: int, length: int, codec: int, digests: bytes, payload: bytes) -> None:
        self._bounds(disk, offset, length)
        if len(digests) != -(-length // BLOCK) * DIGEST_SIZE:
            raise ProtocolError(reason=f"{len(digests)} bytes of digests for {length} bytes")
        self._reserve(length)
        future = self._pool.submit(self._check, disk, offset, length, codec, digests, payload)
        self._queue.put(_Write(disk, offset, length, digests, future))

    def zero(self, disk: int, offset: int, length: int) -> None:
        self._bounds(disk, offset, length)
        if length > CHUNK:
            raise ProtocolError(reason=f"a range of zeros of {length} bytes")
        self._reserve(0)
        self._queue.put(_Write(disk, offset, length, bytes(-(-length // BLOCK) * DIGEST_SIZE), None))

    def digests(self, disk: int, offset: int, length: int) -> bytes:
        """Waits until everything given before has been written. At most 64 MiB of the disk at once."""
        self._bounds(disk, offset, length)
        if length > 64 * CHUNK:
            raise ProtocolError(reason=f"digests of {length} bytes at once")
        self.flush()
        return self._disks[disk].digests.get(offset, length)

    def flush(self) -> None:
        self._queue.join()
        self._raise()

    def close(self) -> None:
        """End the threads. Raises nothing: :meth:`flush` tells whether all is written."""
        self._queue.put(None)
        self._thread.join()
        self._pool.shutdown()

    def _bounds(self, disk: int, offset: int, length: int) -> None:
        if not 0 <= disk < len(self._disks):
            raise ProtocolError(reason=f"disk {disk} of {len(self._disks)}")
        size = self._disks[disk].image.size
        if length <= 0 or offset < 0 or offset + length > size or offset % BLOCK:
            raise ProtocolError(reason=f"{length} bytes at byte {offset} of {self._disks[disk].name}, which has {size}")

    def _reserve(self, length: int) -> None:
        with self._room:
            while self._in_flight and self._in_flight + length > IN_FLIGHT and self._error is None:
                self._room.wait()
            self._raise()
            self._in_flight += length

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _check(self, disk: int, offset: int, length: int, codec: int, digests: bytes, payload: bytes) -> bytes:
        """In a worker: the bytes of a frame, each block checked against its digest. Raises DigestMismatch."""
        name, first = self._disks[disk].name, digests[:DIGEST_SIZE].hex()
        try:
            data = codecs.decode(payload, codec, length)
        except (FormatError, ProtocolError) as error:  # what was changed on the way can mostly not even be unpacked
            if (codec == codecs.ZSTD and not zstd.available()) or codec not in codecs.NAMES.values():
                raise
            raise DigestMismatch(disk=name, offset=offset, got=f"none: {error}", expected=first) from error
        got = codecs.digests(data)
        if got != digests:
            for at in range(0, len(got), DIGEST_SIZE):
                if got[at : at + DIGEST_SIZE] != digests[at : at + DIGEST_SIZE]:
                    raise DigestMismatch(
                        disk=name,
                        offset=offset + at // DIGEST_SIZE * BLOCK,
                        got=got[at : at + DIGEST_SIZE].hex(),
                        expected=digests[at : at + DIGEST_SIZE].hex(),
                    )
        return data

    def _write(self) -> None:
        while (item := self._queue.get()) is not None:
            try:
                if self._error is None:
                    held = self._disks[item.disk]
                    if item.data is None:
                        held.image.zero(item.offset, item.length)
                    else:
                        held.image.write(item.offset, item.data.result())
                    held.digests.put(item.offset, item.length, item.digests)
            except BaseException as error:
                self._error = error
            with self._room:
                self._in_flight -= item.length if item.data is not None else 0
                self._room.notify_all()
            self._queue.task_done()
