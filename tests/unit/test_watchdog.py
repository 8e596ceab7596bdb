"""Freeze and watchdog on a real file system: whatever ends, the file system is thawed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from livep2v.errors import FreezeError, FreezeTimeout
from livep2v.model import Mount
from livep2v.source import kernel
from livep2v.source.snapshot.freezer import Freezer
from livep2v.source.snapshot.guardian import Guardian
from tests.support.loopdisk import loop_disk

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="freezing needs root")


def mount_of(disk: object) -> Mount:
    return Mount(str(disk.mountpoint), disk.path, disk.devno, "ext4", "rw", 1, (disk.name,))  # type: ignore[attr-defined]


def is_frozen(mountpoint: Path) -> bool:
    """A second FIFREEZE says EBUSY while it is frozen; a success is taken back."""
    fd = os.open(mountpoint, os.O_RDONLY)
    try:
        kernel.freeze(fd)
    except OSError:
        return True
    else:
        kernel.thaw(fd)
        return False
    finally:
        os.close(fd)


def wait_thawed(mountpoint: Path, limit: float) -> float:
    started = time.monotonic()
    while is_frozen(mountpoint):
        assert time.monotonic() - started < limit, "still frozen"
        time.sleep(0.02)
    return time.monotonic() - started


def test_freeze_stops_writers_and_thaw_lets_them_go_on(tmp_path: Path) -> None:
    with loop_disk(tmp_path, 64 << 20, 1 << 20, old_data=False) as disk:
        guardian = Guardian()
        freezer = Freezer([mount_of(disk)], guardian)
        try:
            freezer.freeze(20.0)
            writer = subprocess.Popen(["touch", str(disk.mountpoint / "late")])
            time.sleep(0.5)
            assert writer.poll() is None, "a writer waits while frozen"
            assert is_frozen(disk.mountpoint)
            freezer.thaw()
            assert writer.wait(10) == 0
            assert freezer.mountpoints == (str(disk.mountpoint),)
        finally:
            freezer.close()
            guardian.close()
        assert not is_frozen(disk.mountpoint)


def test_the_watchdog_thaws_at_the_hard_limit(tmp_path: Path) -> None:
    with loop_disk(tmp_path, 64 << 20, 1 << 20, old_data=False) as disk:
        guardian = Guardian()
        freezer = Freezer([mount_of(disk)], guardian)
        try:
            freezer.freeze(0.5)
            time.sleep(0.2)
            assert is_frozen(disk.mountpoint)
            wait_thawed(disk.mountpoint, 3)
            with pytest.raises(FreezeTimeout, match=r"0\.5 s"):
                freezer.thaw()
        finally:
            freezer.close()
            guardian.close()


INSTANCES = "from livep2v.source.snapshot.tracefs import find; import os; print(os.listdir(find() + '/instances'))"
KILLED = textwrap.dedent("""
    import os, sys, time
    from livep2v.model import Mount
    from livep2v.source.snapshot.freezer import Freezer
    from livep2v.source.snapshot.guardian import Guardian
    from livep2v.source.snapshot.tracefs import Instance
    guardian = Guardian()
    instance = Instance(1024)
    guardian.remember(instance.name, instance.parent_fd)
    freezer = Freezer([Mount(sys.argv[1], sys.argv[2], "7:0", "ext4", "rw", 1, ("loop",))], guardian)
    freezer.freeze(60.0)
    print("frozen", guardian.pid, instance.name, flush=True)
    time.sleep(60)
""")


def test_killed_while_frozen_the_watchdog_cleans_up(tmp_path: Path) -> None:
    with loop_disk(tmp_path, 64 << 20, 1 << 20, old_data=False) as disk:
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(disk.mountpoint), disk.path], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        _, pid, instance = process.stdout.readline().split()
        assert is_frozen(disk.mountpoint)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert wait_thawed(disk.mountpoint, 2) < 2
        for _ in range(100):
            if not Path(f"/proc/{pid}").exists():
                break
            time.sleep(0.02)
        assert not Path(f"/proc/{pid}").exists(), "the watchdog ends too"
        probe = subprocess.run(
            [sys.executable, "-c", INSTANCES],
            capture_output=True, text=True, check=True,
        )
        assert instance not in probe.stdout
        process.stdout.close()


def test_the_watchdog_is_deaf_to_polite_signals_and_its_death_is_noticed(tmp_path: Path) -> None:
    with loop_disk(tmp_path, 64 << 20, 1 << 20, old_data=False) as disk:
        guardian = Guardian()
        freezer = Freezer([mount_of(disk)], guardian)
        try:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                os.kill(guardian.pid, number)
            freezer.freeze(20.0)
            os.kill(guardian.pid, signal.SIGKILL)
            with pytest.raises(FreezeError, match="watchdog"):
                freezer.thaw()
            assert not is_frozen(disk.mountpoint), "thawed all the same, by us"
        finally:
            freezer.close()
            guardian.close()


def test_somebody_elses_freeze_is_not_ours_to_thaw(tmp_path: Path) -> None:
    with loop_disk(tmp_path, 64 << 20, 1 << 20, old_data=False) as disk:
        fd = os.open(disk.mountpoint, os.O_RDONLY)
        guardian = Guardian()
        freezer = Freezer([mount_of(disk)], guardian)
        try:
            kernel.freeze(fd)
            with pytest.raises(FreezeError, match="somebody else"):
                freezer.freeze(5.0)
            assert is_frozen(disk.mountpoint)
        finally:
            kernel.thaw(fd)
            freezer.close()
            guardian.close()
            os.close(fd)
