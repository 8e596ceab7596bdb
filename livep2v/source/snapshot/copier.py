"""What all providers share: reading marked blocks of the disks and giving them to the sender."""
import resource
import time
from typing import Any, Callable, Dict, List, Optional, Sequence

from ...errors import Cancelled
from ...model import BLOCK, DIGEST_SIZE, DiskCopy, PlanDisk
from ...wire import codecs
from ..sender import Sender
from .coverage import Coverage, marked

Progress = Callable[[str, Dict[str, Any]], None]
TELL_EVERY = 0.25  # s between two progress events
COMPARE = 256  # blocks (16 MiB) whose digests are asked for at once in a re-scan


class Copier:
    """Copies marked blocks. ``readers``: one a disk, ``read(offset, length)``; ``covers``: what is wanted of each."""

    def __init__(
        self,
        disks: Sequence[PlanDisk],
        readers: Sequence[Any],
        covers: List[Coverage],
        sender: Sender,
        progress: Progress,
        cancelled: Callable[[], bool],
    ) -> None:
        self.disks = disks
        self.readers = readers
        self.covers = covers
        self.sender = sender
        self._progress = progress
        self._cancelled = cancelled
        self._resent = [0] * len(disks)
        self._done = self._total = 0
        self._phase = ""
        self._told = 0.0
        self.rate = 0.0  # bytes a second of the last copy, read to wire
        self.read_rate = 0.0  # the same, without waiting for the wire

    def begin(self, phase: str, total: int) -> None:
        """Name what the next copies belong to; ``total`` bytes."""
        self._phase, self._done, self._total = phase, 0, total
        self._tell(True)

    def copy(
        self,
        marks: Sequence[bytearray],
        clear: Optional[Sequence[bytearray]] = None,
        deadline: Optional[float] = None,
    ) -> int:
        """Read and send the marked blocks of each disk. ``clear``: the tracker's marks, cleared before each read.
        ``deadline`` (monotonic): stop there and return -1; otherwise the number of blocks."""
        blocks, started, reading = 0, time.monotonic(), 0.0
        for number, reader in enumerate(self.readers):
            cover, size = self.covers[number], self.disks[number].size
            for first, count in marked(marks[number]):
                if self._cancelled():
                    raise Cancelled(doing="copying")
                if deadline is not None and time.monotonic() > deadline:
                    return -1
                if clear is not None:
                    clear[number][first:first + count] = bytes(count)
                before = time.monotonic()
                length = min(count * BLOCK, size - first * BLOCK)
                data = reader.read(first * BLOCK, length)
                reading += time.monotonic() - before
                if not self.sender.data(number, first * BLOCK, data, deadline):
                    if clear is not None:
                        clear[number][first:first + count] = b"\1" * count
                    return -1
                self._resent[number] += cover.copied[first:first + count].count(1)
                cover.copied[first:first + count] = b"\1" * count
                blocks += count
                self._done += length
                if deadline is None:  # nothing is told while frozen
                    self._tell()
        took = time.monotonic() - started
        if blocks >= 16:  # fewer say nothing about a rate
            self.rate = blocks * BLOCK / max(took, 1e-6)
            self.read_rate = blocks * BLOCK / max(reading, 1e-6)
        return blocks

    def compare(self, receiver: Any, clear: Sequence[bytearray]) -> int:
        """Re-scan after lost events: read every copied block and send those whose digest differs from what the host
        holds. Returns how many did."""
        differing = 0
        for number, reader in enumerate(self.readers):
            cover, size = self.covers[number], self.disks[number].size
            for first, count in marked(bytearray(cover.copied), COMPARE):
                length = min(count * BLOCK, size - first * BLOCK)
                theirs = receiver.digests(number, first * BLOCK, length)
                for start in range(first, first + count, 16):
                    if self._cancelled():
                        raise Cancelled(doing="comparing")
                    some = min(16, first + count - start)
                    clear[number][start:start + some] = bytes(some)
                    data = reader.read(start * BLOCK, min(some * BLOCK, size - start * BLOCK))
                    ours = codecs.digests(data)
                    at = (start - first) * DIGEST_SIZE
                    for index in range(some):
                        piece = slice(index * DIGEST_SIZE, (index + 1) * DIGEST_SIZE)
                        if ours[piece] != theirs[at:at + some * DIGEST_SIZE][piece]:
                            block = data[index * BLOCK:(index + 1) * BLOCK]
                            self.sender.data(number, (start + index) * BLOCK, block)
                            self._resent[number] += 1
                            differing += 1
                    self._done += len(data)
                    self._tell()
        return differing

    def totals(self) -> List[DiskCopy]:
        """The account of each disk, in bytes."""
        answer = []
        for number, disk in enumerate(self.disks):
            cover, sums = self.covers[number], self.sender.totals(number)
            left_out = cover.left_out.count(1) * BLOCK
            used = cover.wanted.count(1) * BLOCK
            answer.append(DiskCopy(
                name=disk.name, used=used, sent=sums.sent, zero=sums.zero, resent=self._resent[number] * BLOCK,
                left_out=left_out, free=max(0, disk.size - used - left_out),
            ))
        return answer

    def _tell(self, now: bool = False) -> None:
        if now or time.monotonic() - self._told >= TELL_EVERY:
            self._told = time.monotonic()
            sent = sum(self.sender.sent.values())
            self._progress("bytes", {"phase": self._phase, "done": self._done, "total": self._total, "sent": sent})


def peak_memory() -> int:
    """Largest resident size of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
