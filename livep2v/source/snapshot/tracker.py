"""Which blocks of the disks are written while we copy: the kernel's own block tracepoint tells, nothing is installed.

*Completion*, not issue: when the event is seen, the data has landed. So "clear the mark, then read the block" can lose
nothing: a write that lands after the read completes after it, and marks the block again. Every completion that is neither a
read nor a pure flush counts, discards (D) and write-zeroes (N) too. device-mapper and md devices emit no such events: the
*physical* disks are traced.
"""
import errno
import os
import threading
from typing import Callable, Dict, List, Optional, Sequence

from ...errors import TrackingUnavailable
from ...model import BLOCK, PlanDisk
from .ring import Decoder
from .tracefs import Instance

SECTOR = 512  # unit of the event, whatever the disk's own sector size
POLL = 0.02  # s; a ring of 4 MiB holds 70,000 events, so this keeps up with 3 million writes a second
PAGE = 65536  # the largest page size there is (arm64, ppc64): a read gives one page


class Tracker:
    """Marks written blocks from construction to :meth:`close`.

    ``dirty[i]`` and ``moved[i]`` hold one byte for each block of disk ``i``: nonzero after a write. The copier clears
    ``dirty``; ``moved`` belongs to whoever caches metadata of the disk.
    """

    def __init__(
        self, disks: Sequence[PlanDisk], buffer_kib: int, remember: Optional[Callable[[str, int], None]] = None
    ) -> None:
        """``disks``: with ``devno``; ``buffer_kib``, ``remember``: see tracefs.Instance. Raises TrackingUnavailable."""
        self.dirty = [bytearray(-(-disk.size // BLOCK)) for disk in disks]
        self.moved = [bytearray(len(marks)) for marks in self.dirty]
        self.overruns = 0  # times that the ring lost events since the start
        self.events = 0
        self._index: Dict[int, int] = {}
        for number, disk in enumerate(disks):
            major, minor = disk.devno.split(":")
            self._index[(int(major) << 20) | int(minor)] = number
        self._lock = threading.Lock()
        self._fds: List[int] = []
        self._stats: List[int] = []
        self._lost = 0
        self._stop = threading.Event()
        self.instance = Instance(buffer_kib, remember)
        try:
            self._decoder = Decoder(self.instance.header_page, self.instance.event_format)
            self._filter()
            for cpu in self.instance.cpus():  # all that are possible, those without a buffer too
                self._fds.append(os.open(cpu + "/trace_pipe_raw", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
                self._stats.append(os.open(cpu + "/stats", os.O_RDONLY | os.O_CLOEXEC))
            self.instance.write("events/block/block_rq_complete/enable", "1")
            self.instance.write("tracing_on", "1")
        except OSError as error:
            self.close()
            raise TrackingUnavailable(reason="{}: {}".format(self.instance.name, error.strerror))
        except BaseException:
            self.close()
            raise
        self._thread = threading.Thread(target=self._poll, name="tracker", daemon=True)
        self._thread.start()

    def _filter(self) -> None:
        """Only our disks, and no reads where the kernel can tell: our own bulk reads would fill the ring."""
        ours = " || ".join("dev == {}".format(dev) for dev in self._index)
        name = "events/block/block_rq_complete/filter"
        try:
            self.instance.write(name, "({}) && !(rwbs ~ \"R*\")".format(ours))
        except OSError:  # kernels before 4.17 know no negated group; drain() drops reads as well
            self.instance.write(name, ours)

    def _poll(self) -> None:
        while not self._stop.wait(POLL):
            self.drain()

    def drain(self) -> bool:
        """Take every event that the kernel has. True where it lost some: then nothing is known, all must be compared."""
        with self._lock:
            if not self._fds:
                return False
            lost = False
            for fd in self._fds:
                while True:
                    try:
                        page = os.read(fd, PAGE)
                    except OSError as error:
                        # ENODEV: a processor that is offline has no buffer (it may come online, so the file stays open)
                        if error.errno in (errno.EAGAIN, errno.ENODEV):
                            break
                        raise
                    if not page:
                        break
                    lost = self._decoder.missed(page) or lost
                    self._mark(page)
            total = sum(_lost_events(os.pread(fd, 4096, 0)) for fd in self._stats)
            if total > self._lost:
                self._lost, lost = total, True
            if lost:
                self.overruns += 1
            return lost

    def _mark(self, page: bytes) -> None:
        for event in self._decoder.completions(page):
            number = self._index.get(event.dev)
            if number is None or event.sectors == 0 or event.rwbs[:1] == b"R":
                continue  # no disk of ours, a pure flush ("FF", no sectors), a read
            first = event.sector * SECTOR // BLOCK
            last = ((event.sector + event.sectors) * SECTOR - 1) // BLOCK
            marks = self.dirty[number]
            if first >= len(marks):
                continue
            count = min(last, len(marks) - 1) - first + 1
            marks[first:first + count] = self.moved[number][first:first + count] = b"\1" * count
            self.events += 1

    def close(self) -> None:
        """Stop tracking and remove the instance."""
        self._stop.set()
        thread = getattr(self, "_thread", None)
        if thread is not None:
            thread.join()
        with self._lock:
            for fd in self._fds + self._stats:
                os.close(fd)
            self._fds, self._stats = [], []
        self.instance.close()


def _lost_events(stats: bytes) -> int:
    """Sum of the counters of ``per_cpu/cpuN/stats`` that count lost events."""
    total = 0
    for line in stats.decode("ascii", "replace").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("overrun", "commit overrun", "dropped events"):
            total += int(value)
    return total
