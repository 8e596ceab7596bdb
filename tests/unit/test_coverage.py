"""What has to be copied, against the plainest possible arithmetic on single bytes."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from livep2v.errors import FormatError
from livep2v.model import BLOCK, Action, PlanDisk, Region
from livep2v.source.snapshot.coverage import PAGE, Coverage, MetadataCache, _combine, marked, runs_of

MARKS = st.binary(max_size=200).map(lambda data: bytearray(byte & 1 for byte in data))


@given(MARKS, st.integers(1, 20))
def test_marked_gives_every_mark_once_in_order_and_nothing_else(marks: bytearray, limit: int) -> None:
    runs = list(marked(marks, limit))
    found = [number for first, count in runs for number in range(first, first + count)]
    assert found == [number for number, mark in enumerate(marks) if mark]
    assert all(0 < count <= limit for _, count in runs)


@given(st.sets(st.integers(0, 100)))
def test_runs_of(numbers: set[int]) -> None:
    runs = list(runs_of(sorted(numbers)))
    assert [n for first, count in runs for n in range(first, first + count)] == sorted(numbers)
    assert all(a + b < c for (a, b), (c, _) in pairwise(runs)), "runs are maximal"


@given(MARKS, MARKS, MARKS)
def test_combine(one: bytearray, two: bytearray, three: bytearray) -> None:
    size = min(map(len, (one, two, three)))
    one, two, three = one[:size], two[:size], three[:size]
    assert _combine(one, two, three) == bytearray(a & (1 - b) & (1 - c) for a, b, c in zip(one, two, three, strict=True))


@st.composite
def disks(draw: st.DrawFn) -> PlanDisk:
    """A disk of some blocks and a rest, cut into regions at any 512-byte boundary."""
    size = draw(st.integers(1, 20 * BLOCK // 512)) * 512
    cuts = sorted({0, size, *(cut * 512 for cut in draw(st.lists(st.integers(0, size // 512), max_size=6)))})
    regions = []
    for start, end in pairwise(cuts):
        action = draw(st.sampled_from([Action.COPY, Action.SKIP, Action.HEADER]))
        header = draw(st.integers(0, end - start)) if action is Action.HEADER else 0
        regions.append(Region(start, end - start, action, "", header_length=header))
    return PlanDisk(0, "disk", "", "", size, 512, "", "raw", "", tuple(regions), 1)


@given(disks())
def test_wanted_and_left_out_against_single_bytes(disk: PlanDisk) -> None:
    cover = Coverage(disk, lambda offset, length: bytes(length))
    cover.update()
    for number in range(-(-disk.size // BLOCK)):
        start, end = number * BLOCK, min((number + 1) * BLOCK, disk.size)
        wanted, left_out = False, True
        for region in disk.regions:
            low, high = max(start, region.offset), min(end, region.offset + region.length)
            if low >= high:
                continue
            header_end = region.offset + region.header_length
            if region.action is Action.COPY or (region.action is Action.HEADER and low < header_end):
                wanted = True
            if region.action is not Action.HEADER or low < header_end:
                left_out = False
        assert bool(cover.wanted[number]) == wanted
        # two swap areas that meet inside one block: it may be copied, it must not be left out if anything else is in it
        assert not (cover.left_out[number] and not left_out)


@given(st.lists(st.tuples(st.integers(0, 9 * BLOCK), st.integers(0, 2 * BLOCK), st.sets(st.integers(0, 9))), max_size=12))
def test_the_cache_is_never_stale_and_reads_only_what_moved(steps: list[tuple[int, int, set[int]]]) -> None:
    disk = bytearray(range(256)) * (10 * BLOCK // 256)
    moved = bytearray(10)
    reads: list[tuple[int, int]] = []

    def read(offset: int, length: int) -> bytes:
        reads.append((offset, length))
        return bytes(disk[offset : offset + length])

    cache = MetadataCache(read, len(disk), moved)
    seen: set[int] = set()
    for offset, length, written in steps:
        for number in written:  # somebody writes, the tracker marks
            disk[number * BLOCK : (number + 1) * BLOCK] = bytes([disk[number * BLOCK] ^ 1]) * BLOCK
            moved[number] = 1
        if offset + length > len(disk):
            with pytest.raises(FormatError):
                cache.read(offset, length)
            continue
        reads.clear()
        fresh = {page for page in seen if not moved[page * PAGE // BLOCK]}
        assert cache.read(offset, length) == bytes(disk[offset : offset + length])
        touched = {page for at, size in reads for page in range(at // PAGE, (at + size - 1) // PAGE + 1)}
        assert not touched & fresh, "what did not move is not read again"
        if length:
            seen = fresh | set(range(offset // PAGE, (offset + length - 1) // PAGE + 1))


def test_a_superblock_with_lies_means_a_whole_copy() -> None:
    region = Region(BLOCK, 4 * BLOCK, Action.USED, "ext4", "/dev/x1")
    disk = PlanDisk(0, "disk", "", "", 5 * BLOCK, 512, "", "raw", "", (Region(0, BLOCK, Action.SKIP, "gap"), region), 1)
    cover = Coverage(disk, lambda offset, length: b"\xee" * length)
    cover.update()
    assert bytes(cover.wanted) == b"\0\1\1\1\1"
    assert "copied whole" in cover.doubts[0].text
