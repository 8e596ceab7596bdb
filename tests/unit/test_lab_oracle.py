"""The oracle must see what a torn copy looks like, and must not take silence for proof."""

from __future__ import annotations

from pathlib import Path

from lab.writer import Ack, check, longest_pause, read_acks

# Row n is sent at n seconds and acknowledged half a second later; the instant is from 10 to 11
ACKS = [Ack(number, float(number), number + 0.5) for number in range(1, 21)]


def test_a_consistent_copy_is_proved() -> None:
    proof = check(range(1, 10), ACKS, frozen_at=10.0, thawed_at=11.0)
    assert proof.ok
    assert (proof.rows, proof.before, proof.after) == (9, 9, 10)


def test_a_row_on_its_way_at_the_instant_may_be_there() -> None:
    assert check(range(1, 11), ACKS, frozen_at=10.0, thawed_at=11.0).ok


def test_an_acknowledged_row_that_is_missing() -> None:
    proof = check(range(1, 9), ACKS, frozen_at=10.0, thawed_at=11.0)
    assert not proof.ok and proof.missing == (9,)


def test_a_row_from_after_the_instant() -> None:
    proof = check(range(1, 12), ACKS, frozen_at=10.0, thawed_at=11.0)
    assert not proof.ok and proof.too_new == (11,)


def test_a_gap() -> None:
    """Row 10 is undecided, so only the gap betrays that its successor overtook it."""
    acks = [*ACKS[:9], Ack(10, 9.9, None), Ack(11, 9.95, None), *ACKS[11:]]
    proof = check([*range(1, 10), 11], acks, frozen_at=10.0, thawed_at=11.0)
    assert not proof.ok and proof.gaps == (10,) and not proof.missing and not proof.too_new


def test_clocks_that_differ_make_rows_undecided() -> None:
    assert check(range(1, 9), ACKS, frozen_at=10.0, thawed_at=11.0, clock_error=0.6).ok
    assert not check(range(1, 8), ACKS, frozen_at=10.0, thawed_at=11.0, clock_error=0.6).ok


def test_nothing_is_proved_without_rows_on_both_sides() -> None:
    assert not check([], ACKS, frozen_at=0.5, thawed_at=0.6).ok
    assert not check(range(1, 21), ACKS, frozen_at=30.0, thawed_at=31.0).ok


def test_acks_file(tmp_path: Path) -> None:
    """The last line may be on its way; a lost row has no acknowledgement and no pause."""
    path = tmp_path / "acks"
    path.write_text("1 100.000000 100.250000\n2 100.300000 lost\n2 101.000000 101.750000\n3 102.0")
    acks = read_acks(path)
    assert acks == [Ack(1, 100.0, 100.25), Ack(2, 100.3, None), Ack(2, 101.0, 101.75)]
    assert longest_pause(acks) == 0.75
    assert read_acks(tmp_path / "none") == []
