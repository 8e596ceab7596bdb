"""What of a disk has to be copied, and what has been: one byte for each block of 64 KiB.

    wanted    the plan copies it: a boot area, content of unknown kind, or used according to the file system's own map
    left_out  on purpose: it lies wholly inside swap content; not even a write to it makes it travel
    copied    it was read and handed to the sink at least once

A block that straddles two regions is wanted if either side wants it, and left out only if both sides leave it out.
"""

from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Set, Tuple

from ...errors import FormatError
from ...model import BLOCK, CHUNK_BLOCKS, Action, Extent, PlanDisk, Region
from .. import usedmap

Read = Callable[[int, int], bytes]
PAGE = 4096  # bytes of metadata kept together
PAGES = BLOCK // PAGE
STILL_TRIES = 5  # times that a metadata block seen written while it was read is read again


class MetadataCache:
    """Pages of metadata as they were last read. ``moved`` (of the tracker) tells which blocks have been written since.

    What was not written cannot have changed, so the map at the instant costs only the few bitmaps that moved: on a disk of
    1 TiB 32 MiB of bitmaps would be read while everything is frozen otherwise. Pages, not blocks, are kept: without flex_bg
    each bitmap lies in a block of its own, and a disk of 1 TiB would take 512 MiB of the source's memory.
    """

    def __init__(self, read: Read, size: int, moved: bytearray) -> None:
        self._read = read
        self._size = size
        self._moved = moved
        self._pages: Dict[int, bytes] = {}
        self._kept: Set[int] = set()  # blocks of which pages are kept

    def read(self, offset: int, length: int) -> bytes:
        if offset < 0 or length < 0 or offset + length > self._size:
            raise FormatError(what="a structure", offset=offset, reason="{} bytes reach past the disk".format(length))
        if length == 0:
            return b""
        for block in range(offset // BLOCK, (offset + length - 1) // BLOCK + 1):
            if self._moved[block]:
                self._moved[block] = 0  # clear, then read: the same rule as for the copy itself
                for page in range(block * PAGES, (block + 1) * PAGES):
                    self._pages.pop(page, None)
        first, last = offset // PAGE, (offset + length - 1) // PAGE
        for start, count in runs_of([page for page in range(first, last + 1) if page not in self._pages]):
            data = self._read(start * PAGE, min((start + count) * PAGE, self._size) - start * PAGE)
            for index in range(count):
                self._pages[start + index] = data[index * PAGE:(index + 1) * PAGE]
                self._kept.add((start + index) // PAGES)
        joined = b"".join([self._pages[page] for page in range(first, last + 1)])
        return joined[offset - first * PAGE:offset - first * PAGE + length]

    def moved(self, offset: int, length: int) -> bool:
        """True where a write has been seen since the range was read."""
        return b"\1" in self._moved[offset // BLOCK:(offset + length - 1) // BLOCK + 1]

    def stale(self) -> bool:
        """True where a block that is kept here has been written since."""
        return any(self._moved[number] for number in self._kept)

    def forget(self) -> None:
        """Everything has to be read again: the tracker lost events."""
        self._pages.clear()
        self._kept.clear()


def runs_of(numbers: List[int]) -> Iterator[Tuple[int, int]]:
    """Sorted block numbers as ``(first, count)`` of consecutive ones."""
    start = count = 0
    for number in numbers:
        if count and number == start + count:
            count += 1
            continue
        if count:
            yield start, count
        start, count = number, 1
    if count:
        yield start, count


def marked(marks: bytearray, limit: int = CHUNK_BLOCKS, start: int = 0) -> Iterator[Tuple[int, int]]:
    """``(first, count)`` of each run of nonzero bytes, at most ``limit`` long. Reads ``marks`` lazily, so it may change."""
    size = len(marks)
    while True:
        first = marks.find(b"\1", start)
        if first < 0:
            return
        end = marks.find(b"\0", first, min(first + limit, size))
        end = min(first + limit, size) if end < 0 else end
        yield first, end - first
        start = end


class Doubt(NamedTuple):
    path: str
    text: str


class Coverage:
    """The three maps of one disk."""

    def __init__(self, disk: PlanDisk, read: Read, moved: Optional[bytearray] = None) -> None:
        """``read(offset, length)``: of the disk; ``moved``: the tracker's marks, None where nobody writes."""
        self.disk = disk
        self.count = -(-disk.size // BLOCK)
        self.copied = bytearray(self.count)
        self.left_out = bytearray(self.count)
        self.doubts: List[Doubt] = []
        self._cache = MetadataCache(read, disk.size, bytearray(self.count) if moved is None else moved)
        for region in disk.regions:
            if region.action is Action.HEADER:
                self._mark_inside(self.left_out, region.offset + region.header_length, region.offset + region.length)
        self._fixed = bytearray(self.count)  # wanted whatever the file systems say
        self._mapped: List[Region] = []
        for region in disk.regions:
            if region.action is Action.COPY:
                self._mark(self._fixed, region.offset, region.length)
            elif region.action is Action.HEADER:
                self._mark(self._fixed, region.offset, region.header_length)
            elif region.action is Action.USED:
                self._mapped.append(region)
        self.wanted = bytearray(self._fixed)

    def _mark(self, marks: bytearray, offset: int, length: int) -> None:
        """Mark every block that the range touches."""
        if length > 0:
            first, last = offset // BLOCK, (offset + length - 1) // BLOCK
            marks[first:last + 1] = b"\1" * (last + 1 - first)

    def _mark_inside(self, marks: bytearray, start: int, end: int) -> None:
        """Mark every block that lies wholly in the range (the disk's last block may be short)."""
        first = -(-start // BLOCK)
        last = self.count if end >= self.disk.size else end // BLOCK
        if last > first:
            marks[first:last] = b"\1" * (last - first)

    def update(self, drain: Optional[Callable[[], object]] = None, keep: bool = False) -> bool:
        """Read the used-block maps (again). True where every group agreed with itself.

        ``drain`` (while writes go on) brings the tracker's marks up to date: what was written while it was read is read
        again. A group whose bitmap and descriptor still contradict each other then counts as used whole, or, with ``keep``,
        as it was known before: a bitmap caught in flight says nothing, and what is allocated from now on is written, so the
        tracker sees it, or is found by the last map, which is read while everything is frozen."""
        known, unsettled = self.wanted, []  # type: bytearray, List[Extent]
        for _ in range(STILL_TRIES if drain else 1):
            wanted, unsettled, moving, self.doubts = bytearray(self._fixed), [], False, []
            for region in self._mapped:
                moving = self._map(region, wanted, unsettled, drain) or moving
            if not moving and not unsettled:
                break
        for offset, length in unsettled:
            if keep:
                first, last = offset // BLOCK, (offset + length - 1) // BLOCK + 1
                both = int.from_bytes(known[first:last], "little") | int.from_bytes(wanted[first:last], "little")
                wanted[first:last] = both.to_bytes(last - first, "little")
            else:
                self._mark(wanted, offset, length)
        self.wanted = wanted
        return not unsettled

    def _map(self, region: Region, wanted: bytearray, unsettled: List[Extent], drain: Optional[Callable[[], object]]) -> bool:
        """One file system into ``wanted``; groups in doubt into ``unsettled``. True where metadata moved meanwhile."""
        base = region.offset

        def read(offset: int, length: int) -> bytes:
            if offset < 0 or length < 0 or offset + length > region.length:
                raise FormatError(what=region.path, offset=offset, reason="{} bytes reach past it".format(length))
            return self._cache.read(base + offset, length)

        metadata: List[Extent] = []
        try:
            for group in usedmap.groups(region.kind, read, region.length):
                metadata.extend(group.metadata)
                if group.doubt:
                    self.doubts.append(Doubt(region.path, group.doubt))
                    unsettled.append(Extent(base + group.offset, group.length))
                    continue
                for extent in group.used:
                    self._mark(wanted, base + extent.offset, extent.length)
        except FormatError as error:  # a superblock with lies in it: nothing is known, so everything is copied
            self.doubts.append(Doubt(region.path, "copied whole: {}".format(error)))
            self._mark(wanted, base, region.length)
            return False
        if drain is None:
            return False
        drain()
        return any(self._cache.moved(base + extent.offset, extent.length) for extent in set(metadata))

    def stale(self) -> bool:
        """True where the maps were written since they were read."""
        return self._cache.stale()

    def forget(self) -> None:
        """Read the maps anew next time: the tracker lost events."""
        self._cache.forget()

    def missing(self) -> bytearray:
        """Marks of the blocks that are wanted and were never copied."""
        return _combine(self.wanted, self.copied, self.left_out)

    def to_copy(self, dirty: bytearray) -> bytearray:
        """Marks of the dirty blocks that travel: all but those left out on purpose."""
        nothing = bytearray(0)
        return _combine(dirty, nothing, self.left_out)


def _combine(marks: bytearray, *without: bytearray) -> bytearray:
    """``marks`` where none of ``without`` is set. As one long integer: 16 million blocks (1 TiB) take 30 ms."""
    size = len(marks)
    value = int.from_bytes(marks, "little")
    for other in without:
        value &= ~int.from_bytes(other, "little")
    return bytearray(value.to_bytes(size, "little"))
