"""Range arithmetic against sets of bytes."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from livep2v.formats import ranges
from livep2v.model import Extent

SIZE = 64
extents = st.lists(st.builds(Extent, st.integers(0, SIZE), st.integers(0, 20)), max_size=8)
in_order = extents.map(sorted)


def covered(items: Iterable[Extent]) -> set[int]:
    return {byte for offset, length in items for byte in range(offset, offset + length)}


def is_normal(items: list[Extent]) -> bool:
    """Sorted, not empty, not touching each other."""
    return all(one.length > 0 for one in items) and all(one.offset + one.length < two.offset for one, two in pairwise(items))


@given(in_order)
def test_merge(items: list[Extent]) -> None:
    found = list(ranges.merge(items))
    assert covered(found) == covered(items)
    assert is_normal(found)


@given(extents, extents)
def test_union(one: list[Extent], two: list[Extent]) -> None:
    found = ranges.union(one, two)
    assert covered(found) == covered(one) | covered(two)
    assert is_normal(found)


@given(in_order, st.integers(1, 16), st.one_of(st.none(), st.integers(84, 100)))
def test_align_out(items: list[Extent], unit: int, limit: int | None) -> None:
    found = list(ranges.align_out(items, unit, limit))
    touched = {byte // unit for byte in covered(items)}
    assert covered(found) == {
        byte for number in touched for byte in range(number * unit, number * unit + unit) if limit is None or byte < limit
    }
    assert is_normal(found)


@given(in_order, st.integers(0, SIZE), st.integers(0, SIZE))
def test_clip(items: list[Extent], start: int, end: int) -> None:
    found = list(ranges.clip(items, start, end))
    assert covered(found) == covered(items) & set(range(start, end))
    assert all(one.length > 0 for one in found)


@given(in_order, st.integers(0, 1000))
def test_shift(items: list[Extent], distance: int) -> None:
    assert covered(ranges.shift(items, distance)) == {byte + distance for byte in covered(items)}


@given(in_order, in_order)
def test_subtract(one: list[Extent], two: list[Extent]) -> None:
    found = list(ranges.subtract(one, two))
    assert covered(found) == covered(one) - covered(two)
    assert is_normal(found)


@given(in_order, st.integers(0, 2 * SIZE))
def test_complement(items: list[Extent], size: int) -> None:
    found = list(ranges.complement(items, size))
    assert covered(found) == set(range(size)) - covered(items)
    assert is_normal(found)


@given(in_order, in_order)
def test_intersect(one: list[Extent], two: list[Extent]) -> None:
    found = list(ranges.intersect(one, two))
    assert covered(found) == covered(one) & covered(two)
    assert all(item.length > 0 for item in found)
    assert found == sorted(found)


@given(st.builds(Extent, st.integers(0, SIZE), st.integers(0, SIZE)), st.integers(1, 16))
def test_split(extent: Extent, unit: int) -> None:
    pieces = list(ranges.split(extent, unit))
    assert [byte for piece in pieces for byte in range(piece.offset, piece.offset + piece.length)] == sorted(covered([extent]))
    assert all(piece.offset // unit == (piece.offset + piece.length - 1) // unit for piece in pieces)


@given(in_order)
def test_total(items: list[Extent]) -> None:
    assert ranges.total(ranges.merge(items)) == len(covered(items))
