"""The tracked snapshot: any disk of a running Linux machine at one instant, nothing installed.

    track    the kernel's block tracepoint marks every block written from now on
    settle   freeze and thaw once, so that allocation maps on disk are exact, then read them
    bulk     every used block, boot area and partition table, O_DIRECT
    passes   what was written meanwhile, each pass shorter, until the rest fits the freeze budget
    instant  freeze; drain; copy the rest; drain again; read the maps once more: every used block must have been copied; thaw

docs/snapshot.md says why each step is where it is and what happens when it fails.
"""
import contextlib
import gc
import os
import time
from typing import Any, Callable, List, Optional, Sequence

from ...errors import NotConverging, SnapshotIncomplete, TrackingUnavailable
from ...model import BLOCK, CopyPass, Instant, Mount, SnapshotSpec
from .. import kernel
from ..diskio import DiskReader
from ..sender import IN_FLIGHT, Sender
from .copier import Copier, Progress, peak_memory
from .coverage import STILL_TRIES, Coverage
from .freezer import Freezer
from .guardian import Guardian
from .tracker import Tracker

INSTANT_TRIES = 6  # times that an instant which does not fit its budget is given up, thawed, and prepared better
# nice value and disk priority. The copy gives way to the source's own work: without this a commit on a machine of two busy
# processors waited 1.7 s for its turn during the bulk pass, longer than for the freeze. At the instant everybody waits for us.
BACKGROUND, FOREGROUND = (10, 7), (-10, 0)
SETTLE_TRIES = 3  # a group of blocks that is in flight each time would count as used whole: 1.35 x the used bytes once
STUCK_PASSES = 4  # passes in a row that do not shrink: the machine writes as fast as we copy
BUDGET_SHARE = 0.35  # of --max-freeze for reading the last dirty blocks; the rest is for freezing, draining and the maps
DEADLINE_SHARE = 0.85  # of --max-freeze after which an instant is given up: thawing takes the rest
MAX_RESCANS = 6  # after lost events; each reads the whole of what was copied, and may lose events again, for ever
SMALL = 24  # blocks (1.5 MiB): a pass this short is not worth repeating
OVERHEAD = 0.0008  # s a chunk: one O_DIRECT read of 64 KiB on a disk that has to seek is 5 ms, on a cached one 0.2 ms


class _Again(Exception):
    """The instant did not fit, or the tracker lost events in it: thawed, to be tried again."""


class TrackedSnapshot:
    """One use: :meth:`copy`. Holds the tracker, the freezer and the readers until :meth:`close`."""

    def __init__(
        self,
        spec: SnapshotSpec,
        mounts: Callable[[], Sequence[Mount]],
        receiver: Any,
        progress: Progress,
        cancelled: Callable[[], bool],
        guardian: Guardian,
    ) -> None:
        self.spec = spec
        self.receiver = receiver
        self.progress = progress
        self.passes: List[CopyPass] = []
        self._seen_overruns = 0
        self._rescans = 0
        self._map_seconds = 0.0  # that the last look at the used-block maps took
        self._closers = contextlib.ExitStack()
        self._nice = os.getpriority(os.PRIO_PROCESS, 0)
        self._closers.callback(lambda: kernel.priority(self._nice, 4))
        try:
            self.readers: List[DiskReader] = []
            for disk in spec.disks:
                self.readers.append(DiskReader(disk.name, disk.path, disk.size))
                self._closers.callback(self.readers[-1].close)
            self.tracker = Tracker(spec.disks, spec.tracker_buffer_kib, guardian.remember)
            self._closers.callback(self.tracker.close)
            kernel.priority(*BACKGROUND)  # the tracker's thread keeps the normal one: it must never fall behind
            self.sender = Sender(receiver, spec.compress, spec.limit_rate)
            self._closers.callback(self.sender.close)
            self.freezer = Freezer(mounts, guardian)
            self._closers.callback(self.freezer.close)
            self.covers = [
                Coverage(disk, reader.read, moved)
                for disk, reader, moved in zip(spec.disks, self.readers, self.tracker.moved)
            ]
            self.copier = Copier(spec.disks, self.readers, self.covers, self.sender, progress, cancelled)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Thaw, stop tracking, remove the tracing instance. Safe to call at any time, twice too; what fails here does
        not keep the rest from being done."""
        self._closers.close()

    def copy(self) -> Instant:
        self.settle()
        self.bulk()
        for attempt in range(INSTANT_TRIES):
            self.converge(attempt)
            try:
                return self.instant()
            except _Again as reason:
                self.progress("log", {"text": "the instant is tried again: {}".format(reason)})
        raise NotConverging(
            passes=len(self.passes), dirty_bytes=self._dirty_blocks() * BLOCK, max_freeze_s=self.spec.max_freeze,
            rate=self.copier.read_rate,
        )

    # ------------------------------------------------------------ the steps

    def settle(self) -> None:
        """Freeze and thaw, then read the maps at once. Where writers are faster than that reading, twice, what moved is read
        while frozen, if that is short."""
        for attempt in range(SETTLE_TRIES):
            inside = attempt == SETTLE_TRIES - 1 and self._map_seconds <= self.spec.max_freeze * BUDGET_SHARE
            kernel.priority(*FOREGROUND)
            try:
                took = self.freezer.settle(self.spec.hard_limit, self._read_frozen_maps if inside else None)
            finally:
                kernel.priority(*BACKGROUND)
            self.progress("log", {"text": "file systems settled in {:.0f} ms".format(took * 1000)})
            if inside:
                break
            began = time.monotonic()
            settled = [cover.update(self.tracker.drain) for cover in self.covers]
            self._map_seconds = (time.monotonic() - began) / STILL_TRIES
            if all(settled):
                break
        for cover in self.covers:
            for doubt in cover.doubts:
                self.progress("warning", {"text": "{}: {}".format(doubt.path, doubt.text)})

    def _read_frozen_maps(self) -> None:
        self.tracker.drain()
        for cover in self.covers:
            cover.update()

    def bulk(self) -> None:
        marks = [cover.missing() for cover in self.covers]
        self._pass("copying used blocks", marks)
        self.sender.again = True

    def converge(self, attempt: int) -> None:
        """Passes over what was written, until what is left can be read within the budget. Each begins with a sync, so
        that what waits in the page cache is seen now and not at the freeze."""
        stuck = 0
        last: Optional[int] = None
        while True:
            self._rescan_if_lost()
            self.freezer.flush()
            self.tracker.drain()
            began = time.monotonic()
            for cover in self.covers:
                cover.update(self.tracker.drain, keep=True)
            self._map_seconds = time.monotonic() - began
            marks = self._rest()
            blocks = count(marks)
            fits = self._fits(blocks)
            if fits and len(self.passes) > 1 and (blocks <= SMALL or (last is not None and blocks * 4 > last * 3)):
                return
            stuck = stuck + 1 if last is not None and blocks >= last else 0
            if len(self.passes) >= self.spec.max_passes + attempt * 3 or stuck >= STUCK_PASSES:
                if fits:
                    return
                raise NotConverging(
                    passes=len(self.passes), dirty_bytes=blocks * BLOCK, max_freeze_s=self.spec.max_freeze,
                    rate=self.copier.read_rate,
                )
            last = blocks
            self._pass("copying blocks written meanwhile", marks)

    def instant(self) -> Instant:
        """Everything between freeze and thaw. No exec, no log, no import, no name look-up, no progress in here."""
        self.sender.flush()  # the pipeline is empty: what is read while frozen fits into it without waiting
        gc.collect()
        gc.disable()
        began = time.monotonic()
        began_at = frozen_at = thawed_at = 0.0
        try:
            kernel.priority(*FOREGROUND)
            self.freezer.open()
            self._lock_memory()
            self.freezer.sync()  # last of all: what is dirty at the freeze is written while writers wait
            self.tracker.drain()
            began, began_at = time.monotonic(), time.time()
            self.freezer.freeze(self.spec.hard_limit)
            frozen_at = time.time()
            late = self._copy_frozen(began + self.spec.max_freeze * DEADLINE_SHARE)
            thawed_at = time.time()
        finally:
            try:
                self.freezer.thaw()
            finally:
                ended = time.monotonic()
                self.freezer.release()
                kernel.unlock_memory()
                kernel.priority(*BACKGROUND)
                gc.enable()
        self.progress("frozen", {"at": frozen_at, "mountpoints": list(self.freezer.mountpoints)})
        self.progress("thawed", {
            "at": thawed_at, "ms": (ended - began) * 1000, "freezing_ms": (frozen_at - began_at) * 1000,
            "copying_ms": (thawed_at - frozen_at) * 1000,
        })
        self.sender.flush()
        return Instant(
            provider="tracked", frozen_at=frozen_at, thawed_at=thawed_at, freeze_ms=(ended - began) * 1000,
            disks=tuple(self.copier.totals()), passes=tuple(self.passes), late_blocks=late,
            overruns=self.tracker.overruns, mountpoints=self.freezer.mountpoints, not_frozen=self.freezer.not_frozen,
            pauses_ms=tuple(self.freezer.pauses_ms),
            peak_memory=peak_memory(),
        )

    def _copy_frozen(self, deadline: float) -> int:
        """The last blocks. Returns how many were used but never seen written. Raises _Again, or SnapshotIncomplete."""
        for reader in self.readers:
            reader.sync()  # raw users of the disks (boot loader tools, databases on raw partitions)
        late, first = 0, True
        while True:
            self.tracker.drain()
            if self.tracker.overruns > self._seen_overruns:  # not what drain() says: the polling thread may have seen it first
                raise _Again("the trace ring lost events")
            dirty = [cover.to_copy(marks) for cover, marks in zip(self.covers, self.tracker.dirty)]
            stale = [cover for cover in self.covers if first or cover.stale()]
            if not first and not stale and not any(b"\1" in marks for marks in dirty):
                break
            self._copy_in_time(dirty, deadline)
            for cover in stale:  # once: nobody changes the map of a frozen file system
                cover.update()
            late += self._copy_in_time([cover.missing() for cover in self.covers], deadline)
            first = False
        self._prove_complete()
        return late

    def _copy_in_time(self, marks: List[bytearray], deadline: float) -> int:
        """Copy marked blocks while frozen. Returns how many; raises _Again at the deadline."""
        blocks = self.copier.copy(marks, clear=self.tracker.dirty, deadline=deadline)
        if blocks < 0:
            raise _Again("more than {:g} s for what was left".format(self.spec.max_freeze))
        return blocks

    def _lock_memory(self) -> None:
        try:
            kernel.lock_memory()
        except OSError as error:  # a container without the right to: the freeze is as safe, only a page may be slow
            self.progress("log", {"text": str(error)})

    def _prove_complete(self) -> None:
        """Every block used at this instant has been copied; a hard failure if not."""
        for cover in self.covers:
            missing = cover.missing()
            if b"\1" in missing:
                raise SnapshotIncomplete(disk=cover.disk.name, blocks=missing.count(1), offset=missing.find(b"\1") * BLOCK)

    # ------------------------------------------------------------ helpers

    def _pass(self, phase: str, marks: List[bytearray]) -> None:
        blocks, started = count(marks), time.monotonic()
        self.copier.begin(phase, blocks * BLOCK)
        self.copier.copy(marks, clear=self.tracker.dirty)
        self.sender.flush()
        self.tracker.drain()
        one = CopyPass(len(self.passes), blocks, time.monotonic() - started, self._dirty_blocks())
        self.passes.append(one)
        self.progress("pass", {
            "number": one.number, "blocks": one.blocks, "seconds": one.seconds, "dirty_after": one.dirty_after,
        })

    def _rest(self) -> List[bytearray]:
        """Dirty blocks and used blocks that were never copied."""
        rest = []
        for cover, marks in zip(self.covers, self.tracker.dirty):
            both = int.from_bytes(cover.to_copy(marks), "little") | int.from_bytes(cover.missing(), "little")
            rest.append(bytearray(both.to_bytes(len(marks), "little")))
        return rest

    def _dirty_blocks(self) -> int:
        return count([cover.to_copy(marks) for cover, marks in zip(self.covers, self.tracker.dirty)])

    def _fits(self, blocks: int) -> bool:
        """True where ``blocks`` can be read, and the maps once more, within the freeze budget."""
        rate = self.copier.read_rate if blocks * BLOCK <= IN_FLIGHT else self.copier.rate
        return self._map_seconds + blocks * (BLOCK / max(rate, 1.0) + OVERHEAD) <= self.spec.max_freeze * BUDGET_SHARE

    def _rescan_if_lost(self) -> None:
        """Lost events are no error: all copied blocks are read again and compared by digest, and the maps read anew."""
        while self.tracker.overruns > self._seen_overruns:
            if self._rescans == MAX_RESCANS:
                raise TrackingUnavailable(
                    reason="a trace ring of {} KiB per CPU went on losing events, through {} comparisons of all blocks; try "
                    "at a quieter time".format(self.spec.tracker_buffer_kib, MAX_RESCANS)
                )
            self._rescans += 1
            self._seen_overruns = self.tracker.overruns
            for cover in self.covers:
                cover.forget()
            total = count([cover.copied for cover in self.covers]) * BLOCK
            self.copier.begin("comparing all blocks: the trace ring lost events", total)
            self.progress("warning", {"text": "the trace ring lost events; every block is compared by digest"})
            differing = self.copier.compare(self.receiver, self.tracker.dirty)
            self.sender.flush()
            self.tracker.drain()
            self.progress("log", {"text": "{} blocks differed".format(differing)})


def count(marks: Sequence[bytearray]) -> int:
    """Marked blocks of all disks."""
    return sum(one.count(1) for one in marks)


def copy(
    spec: SnapshotSpec,
    mounts: Callable[[], Sequence[Mount]],
    receiver: Any,
    progress: Progress,
    cancelled: Callable[[], bool],
    guardian: Guardian,
) -> Instant:
    """Take the snapshot and send it; the source is thawed and untracked afterwards, however this ends."""
    snapshot = TrackedSnapshot(spec, mounts, receiver, progress, cancelled, guardian)
    try:
        return snapshot.copy()
    finally:
        snapshot.close()


