"""The tracker against the real kernel: what was written, and only that, is marked."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from livep2v.errors import TrackingUnavailable
from livep2v.model import BLOCK, PlanDisk
from livep2v.source.snapshot import ring, tracefs, tracker
from livep2v.source.snapshot.tracker import Tracker

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="tracing needs root")
SIZE = 64 << 20


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[str]:
    file = tmp_path / "disk"
    file.touch()
    os.truncate(file, SIZE)
    path = subprocess.run(
        ["losetup", "--find", "--show", "--direct-io=on", str(file)], check=True, capture_output=True, text=True
    ).stdout.strip()
    yield path
    subprocess.run(["losetup", "-d", path], check=True)


def plan_disk(path: str) -> PlanDisk:
    facts = os.stat(path)
    return PlanDisk(
        0, Path(path).name, path, f"{os.major(facts.st_rdev)}:{os.minor(facts.st_rdev)}", SIZE, 512, "", "raw", "", (), 1
    )


def marked(marks: bytearray) -> set[int]:
    return {number for number, mark in enumerate(marks) if mark}


def dd(path: str, *words: str) -> None:
    subprocess.run(["dd", "status=none", "conv=notrunc", *words], check=True)


def test_writes_are_marked_where_they_land(loop: str) -> None:
    one = Tracker([plan_disk(loop)], 4096)
    try:
        dd(loop, "if=/dev/urandom", f"of={loop}", "bs=64k", "seek=10", "count=3", "oflag=direct")
        dd(loop, "if=/dev/urandom", f"of={loop}", "bs=512", "seek=5121", "count=1", "oflag=direct")  # inside block 40
        dd(loop, "if=/dev/urandom", f"of={loop}", "bs=4k", f"seek={100 * 16 - 1}", "count=2", "oflag=direct")  # 99 and 100
        assert one.drain() is False
        assert marked(one.dirty[0]) == {10, 11, 12, 40, 99, 100} == marked(one.moved[0])
    finally:
        one.close()


def test_discards_and_write_zeroes_count_reads_and_flushes_do_not(loop: str) -> None:
    dd(loop, "if=/dev/urandom", f"of={loop}", "bs=1M", "count=32", "oflag=direct")
    one = Tracker([plan_disk(loop)], 4096)
    try:
        dd(loop, f"if={loop}", "of=/dev/null", "bs=1M", "count=32", "iflag=direct")
        subprocess.run(["sync", loop], check=True)
        one.drain()
        assert not marked(one.dirty[0])
        subprocess.run(["blkdiscard", "-o", str(BLOCK * 64), "-l", str(BLOCK * 2), loop], check=True)
        subprocess.run(["blkdiscard", "-z", "-o", str(BLOCK * 128), "-l", str(BLOCK), loop], check=True)
        one.drain()
        assert marked(one.dirty[0]) == {64, 65, 128}
    finally:
        one.close()


def test_a_ring_that_is_too_small_says_so(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracker, "POLL", 30.0)
    one = Tracker([plan_disk(loop)], 4)
    try:
        dd(loop, "if=/dev/urandom", f"of={loop}", "bs=4k", "count=3000", "oflag=direct")
        assert one.drain() is True
        assert one.overruns == 1
        assert one.drain() is False, "told once"
    finally:
        one.close()


def test_the_instance_is_gone_afterwards(loop: str) -> None:
    one = Tracker([plan_disk(loop)], 1024)
    parent = os.path.dirname(os.path.realpath(one.instance.path))
    name = one.instance.name
    listing = os.listdir(f"/proc/self/fd/{one.instance.parent_fd}")
    assert name in listing and parent
    again = os.dup(one.instance.parent_fd)
    one.close()
    try:
        assert name not in os.listdir(f"/proc/self/fd/{again}")
    finally:
        os.close(again)


def test_no_tracefs_is_said_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracefs, "PLACES", ("/nonexistent",))
    monkeypatch.setattr(tracefs, "_holds_events", lambda place: False)
    with pytest.raises(TrackingUnavailable, match="block_rq_complete"):
        tracefs.find()


def test_a_layout_without_our_fields_is_refused() -> None:
    with pytest.raises(TrackingUnavailable, match="layout"):
        ring.Decoder("field: local_t commit; offset:8; size:8; field: char data; offset:16; size:4080;", "ID: 5\n")
