"""The tracked snapshot on a real loop device under a real SQLite writer: the copy equals the frozen device."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import time
from pathlib import Path

import pytest

from livep2v.host.digestmap import DigestMap
from livep2v.host.image import create
from livep2v.host.receiver import Held, ImageReceiver
from livep2v.model import Instant, SnapshotSpec
from livep2v.source.local import LocalSource
from livep2v.source.snapshot import freezer, tracker
from livep2v.source.snapshot.tracked import TrackedSnapshot
from tests.support.loopdisk import LoopDisk, loop_disk, sqlite_writer, used_blocks

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="freezing needs root")


def take(folder: Path, disk: LoopDisk, spec: SnapshotSpec, monkeypatch: pytest.MonkeyPatch) -> tuple[Instant, Path, float]:
    """Copy ``disk`` to a raw replica. The thaw of the instant first saves the device as it is while frozen: the oracle.
    Returns the instant, the replica, and the seconds from freeze to thaw without that saving."""
    frozen, replica = folder / "frozen.raw", folder / "replica.raw"
    real_freeze, real_thaw = freezer.Freezer.freeze, freezer.Freezer.thaw
    began: list[float] = []
    times: list[float] = []

    def freeze(self: freezer.Freezer, limit: float) -> None:
        began.append(time.monotonic())
        real_freeze(self, limit)

    def thaw(self: freezer.Freezer, quiet: bool = False) -> None:
        if self._armed:
            times.append(time.monotonic() - began[-1])
            if len(began) > 1:  # the first is the settling
                subprocess.run(
                    ["dd", f"if={disk.path}", f"of={frozen}", "bs=4M", "iflag=direct", "status=none"], check=True, timeout=60
                )
        real_thaw(self, quiet)

    monkeypatch.setattr(freezer.Freezer, "freeze", freeze)
    monkeypatch.setattr(freezer.Freezer, "thaw", thaw)
    held = Held(disk.name, create(replica, "raw", "dynamic", disk.size), DigestMap(folder / "digests", disk.size))
    receiver = ImageReceiver([held])
    source = LocalSource()
    try:
        instant = source.copy(spec, receiver, lambda name, facts: None)
        receiver.flush()
        held.image.flush()
    finally:
        source.close()
        receiver.close()
        held.image.close()
        held.digests.close()
    return instant, replica, times[-1]


def differing(frozen: Path, replica: Path, used: list[tuple[int, int]]) -> int:
    """Bytes in used ranges where the two differ."""
    bad = 0
    with frozen.open("rb") as one, replica.open("rb") as two:
        for offset, length in used:
            one.seek(offset)
            two.seek(offset)
            left, right = one.read(length), two.read(length)
            bad += sum(a != b for a, b in zip(left, right, strict=True)) if left != right else 0
    return bad


@pytest.mark.parametrize("run", range(10))
def test_copy_equals_the_frozen_device(run: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with loop_disk(tmp_path) as disk, sqlite_writer(disk.mountpoint) as writer:
        instant, replica, frozen_for = take(tmp_path, disk, disk.spec(hard_limit=60.0), monkeypatch)
        assert writer.poll() is None, "the writer goes on"
    used = used_blocks(tmp_path / "frozen.raw", tmp_path)
    used_bytes = sum(length for _, length in used)
    print(f"freeze {frozen_for * 1000:.0f} ms, passes {[p.blocks for p in instant.passes]}, late {instant.late_blocks}, "
          f"used {used_bytes}, {instant.disks[0]}")
    assert used_bytes > 150 << 20
    assert differing(tmp_path / "frozen.raw", replica, used) == 0
    subprocess.run(["e2fsck", "-fn", str(replica)], check=True, capture_output=True)
    copy = instant.disks[0]
    assert copy.sent <= 1.10 * used_bytes + copy.resent
    assert replica.stat().st_blocks * 512 < 1.2 * used_bytes, "old data in free space did not travel"
    mounted = tmp_path / "copy"
    mounted.mkdir()
    subprocess.run(["mount", "-o", "loop,ro,noload", str(replica), str(mounted)], check=True)
    try:
        for name in ("ledger.db", "ledger.db-wal"):
            (tmp_path / name).write_bytes((mounted / name).read_bytes())
    finally:
        subprocess.run(["umount", str(mounted)], check=True)
    base = sqlite3.connect(tmp_path / "ledger.db")
    assert base.execute("pragma integrity_check").fetchone() == ("ok",)
    count, last = base.execute("select count(*), max(n) from ledger").fetchone()
    base.close()
    assert count == last > 0


def test_events_lost_just_before_the_freeze_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The polling thread may be the one that sees the loss: the instant must not go by what its own look says."""
    with loop_disk(tmp_path, fill=60 << 20) as disk:
        victim = disk.mountpoint / "victim"
        victim.write_bytes(os.urandom(24 << 20))
        bursts: list[int] = []

        def burst(self: TrackedSnapshot) -> None:
            if not bursts:
                bursts.append(1)
                how = ["bs=4k", "count=6000", "oflag=direct", "conv=notrunc", "status=none"]
                subprocess.run(["dd", "if=/dev/urandom", f"of={victim}", *how], check=True)
                time.sleep(0.2)  # the polling thread has looked

        monkeypatch.setattr(TrackedSnapshot, "_lock_memory", burst)
        monkeypatch.setattr(tracker, "POLL", 0.15)
        spec = disk.spec(hard_limit=60.0, tracker_buffer_kib=4)
        instant, replica, _ = take(tmp_path, disk, spec, monkeypatch)
    assert bursts and instant.overruns >= 1
    assert differing(tmp_path / "frozen.raw", replica, used_blocks(tmp_path / "frozen.raw", tmp_path)) == 0


def test_what_is_mounted_during_the_copy_is_frozen_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what was mounted when it began can be unmounted meanwhile."""
    with loop_disk(tmp_path, 128 << 20, 20 << 20) as disk:
        again = tmp_path / "again"
        again.mkdir()
        subprocess.run(["umount", str(disk.mountpoint)], check=True)
        real = TrackedSnapshot.bulk

        def bulk(self: TrackedSnapshot) -> None:
            real(self)
            subprocess.run(["mount", disk.path, str(again)], check=True)
            (again / "new").write_bytes(os.urandom(3 << 20))

        monkeypatch.setattr(TrackedSnapshot, "bulk", bulk)
        try:
            instant, replica, _ = take(tmp_path, disk, disk.spec(hard_limit=60.0), monkeypatch)
            assert instant.mountpoints == (str(again),)
            subprocess.run(["umount", str(again)], check=True)  # nothing of ours holds it
        finally:
            subprocess.run(["mount", disk.path, str(disk.mountpoint)], check=True)
    assert differing(tmp_path / "frozen.raw", replica, used_blocks(tmp_path / "frozen.raw", tmp_path)) == 0
    subprocess.run(["e2fsck", "-fn", str(replica)], check=True, capture_output=True)


def test_a_mount_point_can_be_unmounted_during_the_bulk_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with loop_disk(tmp_path, 128 << 20, 20 << 20) as disk:
        real = TrackedSnapshot.bulk

        def bulk(self: TrackedSnapshot) -> None:
            subprocess.run(["umount", str(disk.mountpoint)], check=True)
            real(self)

        monkeypatch.setattr(TrackedSnapshot, "bulk", bulk)
        try:
            instant, replica, _ = take(tmp_path, disk, disk.spec(hard_limit=60.0), monkeypatch)
        finally:
            subprocess.run(["mount", disk.path, str(disk.mountpoint)], check=True)
    assert instant.mountpoints == ()
    subprocess.run(["e2fsck", "-fn", str(replica)], check=True, capture_output=True)
