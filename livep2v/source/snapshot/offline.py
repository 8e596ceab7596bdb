"""A disk that nobody writes: an image file, or a device opened O_EXCL, which the kernel refuses while it is in use."""
import os
import time
from typing import Any, Callable, List

from ...errors import FormatError, SourceReadError
from ...formats.vhd import VhdReader
from ...model import BLOCK, CopyPass, Instant, PlanDisk, SnapshotSpec
from ..diskio import DiskReader
from ..sender import Sender
from .copier import Copier, Progress, peak_memory
from .coverage import Coverage


class VhdDisk:
    """The content of a VHD file, read as a disk."""

    def __init__(self, disk: PlanDisk) -> None:
        try:
            self._file = open(disk.path, "rb")
        except OSError as error:
            raise SourceReadError(disk=disk.path, offset=0, length=0, reason=error.strerror)
        self._vhd = VhdReader(self._file)
        self.size = self._vhd.size

    def read(self, offset: int, length: int) -> bytes:
        return self._vhd.read(offset, length)

    def fileno(self) -> int:
        return self._file.fileno()

    def close(self) -> None:
        self._file.close()


def open_disk(disk: PlanDisk) -> Any:
    """A reader for one disk of an offline source."""
    if disk.source_format == "vhd":
        return VhdDisk(disk)
    return DiskReader(disk.name, disk.path, disk.size, exclusive=disk.source_format == "block")


def copy(spec: SnapshotSpec, receiver: Any, progress: Progress, cancelled: Callable[[], bool]) -> Instant:
    """One pass. Raises FormatError where an image changes while it is read."""
    started = time.time()
    readers: List[Any] = []
    sender = Sender(receiver, spec.compress, spec.limit_rate)
    try:
        for disk in spec.disks:
            readers.append(open_disk(disk))
        before = [os.fstat(reader.fileno()) for reader in readers]
        covers = [Coverage(disk, reader.read) for disk, reader in zip(spec.disks, readers)]
        for cover in covers:
            cover.update()
            for doubt in cover.doubts:
                progress("warning", {"text": "{}: {}".format(doubt.path, doubt.text)})
        copier = Copier(spec.disks, readers, covers, sender, progress, cancelled)
        marks = [cover.missing() for cover in covers]
        copier.begin("copying used blocks", sum(one.count(1) for one in marks) * BLOCK)
        clock = time.monotonic()
        blocks = copier.copy(marks)
        sender.flush()
        for disk, reader, old in zip(spec.disks, readers, before):
            new = os.fstat(reader.fileno())
            if (old.st_size, old.st_mtime) != (new.st_size, new.st_mtime) and disk.source_format != "block":
                raise FormatError(what=disk.path, offset=0, reason="it was written while it was read; nothing else may use it")
        return Instant(
            provider="offline", frozen_at=started, thawed_at=started, freeze_ms=0.0, disks=tuple(copier.totals()),
            passes=(CopyPass(0, blocks, time.monotonic() - clock, 0),), peak_memory=peak_memory(),
        )
    finally:
        sender.close()
        for reader in readers:
            reader.close()
