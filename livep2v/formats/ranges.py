"""Arithmetic on byte ranges, written once. ``Extent(offset, length)`` covers ``offset .. offset + length``.

Lists of extents that are called *sorted* are in order of offset and do not overlap; every function that answers several
extents answers sorted, merged, non-empty ones unless it says otherwise.

    units          |----|----|----|----|          align_out, unit = 5
    extents          ###      #
    answer         |#########|####|               touched units, whole

    extents        ##  ####      ##               subtract
    others            ###   ####
    answer         ##     #      ##

    split at unit  |--##|####|#---|  ->  ## #### #
"""

from typing import Iterable, Iterator, List, Optional

from ..model import Extent


def merge(extents: Iterable[Extent]) -> Iterator[Extent]:
    """Sorted input in any overlap (order of offset is needed, nothing else): joins what overlaps or touches."""
    start = end = -1
    for offset, length in extents:
        if length <= 0:
            continue
        if start >= 0 and offset <= end:
            end = max(end, offset + length)
            continue
        if start >= 0:
            yield Extent(start, end - start)
        start, end = offset, offset + length
    if start >= 0:
        yield Extent(start, end - start)


def union(*lists: Iterable[Extent]) -> List[Extent]:
    """All bytes of several lists in any order."""
    return list(merge(sorted(extent for extents in lists for extent in extents)))


def align_out(extents: Iterable[Extent], unit: int, limit: Optional[int] = None) -> Iterator[Extent]:
    """Every unit that an extent touches, whole. ``limit``: size of the disk in bytes; nothing is answered past it, so the
    last unit may be short. The input must be in order of offset."""
    return merge(_aligned(extents, unit, limit))


def _aligned(extents: Iterable[Extent], unit: int, limit: Optional[int]) -> Iterator[Extent]:
    for offset, length in extents:
        if length <= 0:
            continue
        start = offset - offset % unit
        end = offset + length
        end += -end % unit
        if limit is not None:
            end = min(end, limit)
        yield Extent(start, end - start)


def clip(extents: Iterable[Extent], start: int, end: int) -> Iterator[Extent]:
    """The parts inside ``start .. end``, each on its own (nothing is joined)."""
    for offset, length in extents:
        low, high = max(offset, start), min(offset + length, end)
        if low < high:
            yield Extent(low, high - low)


def shift(extents: Iterable[Extent], distance: int) -> Iterator[Extent]:
    """The same ranges, ``distance`` bytes further: from volume to disk and back."""
    for offset, length in extents:
        yield Extent(offset + distance, length)


def subtract(extents: Iterable[Extent], others: Iterable[Extent]) -> Iterator[Extent]:
    """What is in ``extents`` and not in ``others``. Both in order of offset."""
    holes = merge(others)
    hole = next(holes, None)
    for offset, length in merge(extents):
        end = offset + length
        while hole is not None and hole.offset + hole.length <= offset:
            hole = next(holes, None)
        while hole is not None and hole.offset < end:
            if hole.offset > offset:
                yield Extent(offset, hole.offset - offset)
            offset = hole.offset + hole.length
            if offset >= end:
                break  # this hole may reach into the next extent as well
            hole = next(holes, None)
        if offset < end:
            yield Extent(offset, end - offset)


def complement(extents: Iterable[Extent], size: int) -> Iterator[Extent]:
    """What of ``0 .. size`` is in none of them. Input in order of offset."""
    return subtract([Extent(0, size)] if size > 0 else [], extents)


def intersect(extents: Iterable[Extent], others: Iterable[Extent]) -> Iterator[Extent]:
    """What is in both. Both in order of offset."""
    left, right = merge(extents), merge(others)
    one, two = next(left, None), next(right, None)
    while one is not None and two is not None:
        low = max(one.offset, two.offset)
        high = min(one.offset + one.length, two.offset + two.length)
        if low < high:
            yield Extent(low, high - low)
        if one.offset + one.length < two.offset + two.length:
            one = next(left, None)
        else:
            two = next(right, None)


def split(extent: Extent, unit: int) -> Iterator[Extent]:
    """The extent cut at every multiple of ``unit``; the pieces are in order and may be short at either end."""
    offset, end = extent.offset, extent.offset + extent.length
    while offset < end:
        stop = min(end, offset - offset % unit + unit)
        yield Extent(offset, stop - offset)
        offset = stop


def total(extents: Iterable[Extent]) -> int:
    """Bytes of all of them; what overlaps is counted twice."""
    return sum(extent.length for extent in extents)
