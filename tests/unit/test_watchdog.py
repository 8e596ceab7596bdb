"""Freeze and watchdog on a real file system: whatever ends, the file system is thawed."""

from __future__ import annotations

import contextlib
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
from tests.support.faults import is_frozen
from tests.support.loopdisk import loop_disk

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="freezing needs root")


def mount_of(disk: object) -> Mount:
    return Mount(str(disk.mountpoint), disk.path, disk.devno, "ext4", "rw", 1, (disk.name,))  # type: ignore[attr-defined]


def wait_thawed(mountpoint: Path, limit: float) -> float:
    started = time.monotonic()
    while is_frozen(mountpoint):
        assert time.monotonic() - started < limit, "still frozen"
        time.sleep(0.02)
    return time.monotonic() - started


def test_freeze_stops_writers_and_thaw_lets_them_go_on(tmp_path: Path) -> None:
    with loop_disk(tmp_path, 64 << 20, 1 << 20, old_data=False) as disk:
        guardian = Guardian()
        freezer = Freezer(lambda: [mount_of(disk)], guardian)
        freezer.open()
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
        freezer = Freezer(lambda: [mount_of(disk)], guardian)
        freezer.open()
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
    freezer = Freezer(lambda: [Mount(sys.argv[1], sys.argv[2], sys.argv[3], "ext4", "rw", 1, ("loop",))], guardian)
    freezer.open()
    freezer.freeze(60.0)
    print("frozen", guardian.pid, instance.name, flush=True)
    time.sleep(60)
""")


def test_killed_while_frozen_the_watchdog_cleans_up(tmp_path: Path) -> None:
    with loop_disk(tmp_path, 64 << 20, 1 << 20, old_data=False) as disk:
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(disk.mountpoint), disk.path, disk.devno], stdout=subprocess.PIPE, text=True
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
        freezer = Freezer(lambda: [mount_of(disk)], guardian)
        freezer.open()
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
        freezer = Freezer(lambda: [mount_of(disk)], guardian)
        freezer.open()
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


def test_a_file_system_under_another_mount_is_not_passed_over(tmp_path: Path) -> None:
    """Its path leads to the other one: it must be frozen by another of its mount points, or the instant refused."""
    with loop_disk(tmp_path, 64 << 20, 1 << 20, old_data=False) as disk:
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        guardian = Guardian()
        one = mount_of(disk)
        subprocess.run(["mount", "-t", "tmpfs", "none", str(disk.mountpoint)], check=True)
        try:
            with pytest.raises(FreezeError, match="hidden under another mount"):
                Freezer(lambda: [one], guardian).open()
            subprocess.run(["mount", disk.path, str(elsewhere)], check=True)
            try:
                freezer = Freezer(lambda: [one, one._replace(mountpoint=str(elsewhere), order=2)], guardian)
                freezer.open()
                freezer.freeze(10.0)
                assert is_frozen(elsewhere)
                freezer.close()
                assert freezer.mountpoints == (str(elsewhere),) and not is_frozen(elsewhere)
            finally:
                subprocess.run(["umount", str(elsewhere)], check=True)
        finally:
            subprocess.run(["umount", str(disk.mountpoint)], check=True)
            guardian.close()


def test_a_mount_point_that_cannot_be_opened_is_a_freeze_error(tmp_path: Path) -> None:
    guardian = Guardian()
    try:
        gone = Mount(str(tmp_path / "gone"), "/dev/loop0", "7:0", "ext4", "rw", 1, ("loop0",))
        with pytest.raises(FreezeError, match=r"gone.*No such file"):
            Freezer(lambda: [gone], guardian).open()
    finally:
        guardian.close()


def test_a_freeze_that_succeeds_after_the_limit_is_thawed_too(tmp_path: Path) -> None:
    """The watchdog repeats itself until it is disarmed."""
    with loop_disk(tmp_path, 64 << 20, 1 << 20, old_data=False) as disk:
        guardian = Guardian()
        fd = os.open(disk.mountpoint, os.O_RDONLY)
        try:
            guardian.arm([fd], 0.3)
            time.sleep(0.6)  # it has fired once, with nothing frozen
            kernel.freeze(fd)
            assert wait_thawed(disk.mountpoint, 4) < 4
            with pytest.raises(FreezeTimeout):
                guardian.disarm()
        finally:
            os.close(fd)
            guardian.close()


def test_a_freeze_that_hangs_on_another_is_undone(tmp_path: Path) -> None:
    """A file system in a file of a frozen one cannot be frozen; the watchdog must not hang behind it."""
    with loop_disk(tmp_path, 128 << 20, 1 << 20, old_data=False) as lower:
        inner = tmp_path / "inner"
        inner.mkdir()
        file = lower.mountpoint / "inner.img"
        file.touch()
        os.truncate(file, 32 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", str(file)], check=True)
        subprocess.run(["mount", "-o", "loop", str(file), str(inner)], check=True)
        lower_fd, inner_fd = os.open(lower.mountpoint, os.O_RDONLY), os.open(inner, os.O_RDONLY)
        guardian = Guardian()
        try:
            (inner / "dirty").write_bytes(os.urandom(1 << 20))
            guardian.arm([inner_fd, lower_fd], 1.0)
            kernel.freeze(lower_fd)
            child = os.fork()
            if child == 0:  # hangs in the kernel: its write-back waits for the frozen one
                with contextlib.suppress(OSError):
                    kernel.freeze(inner_fd)
                os._exit(0)
            assert wait_thawed(lower.mountpoint, 6) < 6
            os.waitpid(child, 0)
            wait_thawed(inner, 6)
        finally:
            os.close(lower_fd)
            os.close(inner_fd)
            guardian.close()
            subprocess.run(["umount", str(inner)], check=True)
