"""Faults on the side of the host, and a user who changes his mind: the real command on a real disk image."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from livep2v.convert import convert
from livep2v.errors import HostDiskFull
from livep2v.host.remote import RemoteSource
from livep2v.host.target import Target
from livep2v.model import Options
from tests.support.faults import (
    CLI,
    MIB,
    ROOT,
    agents,
    assert_nothing_left,
    disk_image,
    family,
    is_frozen,
    receiving,
)
from tests.support.loopdisk import loop_disk, sqlite_writer


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return disk_image(tmp_path_factory.mktemp("image"))


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system of its own with room for 400 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400m", "none", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill(folder: Path, leave: int) -> None:
    """Somebody else takes the room, all but ``leave`` bytes."""
    place = os.statvfs(folder)
    with (folder / "somebody-elses").open("wb") as stream:
        os.posix_fallocate(stream.fileno(), 0, place.f_bavail * place.f_frsize - leave)


def assert_failed(job: Path, code: int, words: str) -> None:
    """The job is visibly failed, and the report says so to a program."""
    assert words in (job / "FAILED.txt").read_text()
    assert not (job / "RUNNING").exists() and not (job / "start.sh").exists()
    report = json.loads((job / "report.json").read_text())
    assert (report["state"], report["exit_code"]) == ("failed", code)
    assert words in report["error"]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system")
@pytest.mark.parametrize("image_format", ["raw", "vhd"])
def test_the_disk_of_the_host_fills_up(image_format: str, image: Path, small: Path) -> None:
    pids: set[int] = set()

    def progress(name: str, facts: dict[str, Any]) -> None:
        if name == "bytes" and facts["sent"] > 10 * MIB and not pids:
            pids.update(agents(family(os.getpid())) - {os.getpid()})
            fill(small, 8 * MIB)

    options = Options(str(image), output=str(small), name="box", format=image_format, limit_rate=30 << 20, compress="none")
    with pytest.raises(HostDiskFull, match="-o") as caught:
        convert(options, progress)
    assert caught.value.exit_code == 42
    assert_nothing_left(pids)
    assert_failed(small / "box", 42, "no room")


@pytest.mark.skipif(os.geteuid() != 0, reason="freezing needs root")
def test_the_disk_of_the_host_fills_up_while_a_machine_runs(small: Path, tmp_path: Path) -> None:
    pids: set[int] = set()
    with loop_disk(tmp_path, 256 * MIB, 120 * MIB) as disk, sqlite_writer(disk.mountpoint) as writer:
        source = RemoteSource(Target("local", "this machine"))

        def progress(name: str, facts: dict[str, Any]) -> None:
            if name == "bytes" and facts["sent"] > 10 * MIB and not pids:
                pids.update(agents(family(source._process.pid)))
                fill(small, 8 * MIB)

        with (
            receiving(small, disk.size, disk.name) as (receiver, _, _),
            contextlib.closing(source),
            pytest.raises(HostDiskFull) as caught,
        ):
            source.copy(disk.spec(limit_rate=60 << 20, compress="none"), receiver, progress)
        assert caught.value.exit_code == 42 and len(pids) == 2
        assert_nothing_left(pids)
        assert not is_frozen(disk.mountpoint)
        assert writer.poll() is None


def digest(folder: Path) -> str:
    """Of names, kinds, times and contents."""
    text = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        text.update(f"{path} {path.lstat().st_mode} {path.lstat().st_mtime_ns}".encode())
        if path.is_file():
            text.update(path.read_bytes())
    return text.hexdigest()


@pytest.mark.parametrize("kind", ["a job", "an empty folder", "a file"])
def test_the_name_is_taken(kind: str, image: Path, tmp_path: Path) -> None:
    taken = tmp_path / "jobs" / "box"
    if kind == "a file":
        taken.parent.mkdir()
        taken.write_text("mine\n")
    else:
        taken.mkdir(parents=True)
    if kind == "a job":
        (taken / "box.vhd").write_bytes(os.urandom(1000))
        (taken / "report.json").write_text('{"state": "done"}\n')
    before = digest(tmp_path / "jobs")
    argv = [*CLI, "convert", str(image), "-o", str(tmp_path / "jobs"), "--name", "box"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=ROOT, timeout=60)
    assert done.returncode == 41
    assert "JobExists" in done.stderr and str(taken) in done.stderr and "--name" in done.stderr
    assert digest(tmp_path / "jobs") == before


def running(argv: list[str]) -> tuple[subprocess.Popen[str], set[int]]:
    """Start a conversion with --json and come back, with its agent's processes, when bytes travel."""
    process = subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        event = json.loads(line)
        if event["event"] == "bytes" and event["sent"] > 5 * MIB:
            return process, agents(family(process.pid) - {process.pid})
    raise AssertionError(f"ended before it began: {process.communicate()}")


@pytest.mark.parametrize("whom", ["the command", "its terminal"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda item: item.name)
def test_the_user_stops_it(number: signal.Signals, whom: str, image: Path, tmp_path: Path) -> None:
    """A terminal sends Ctrl-C to the agent, or to ssh, as well: whoever is faster, the user has stopped it."""
    argv = [*CLI, "convert", str(image), "-o", str(tmp_path), "--name", "box", "--json", "--limit-rate", "5M",
            "--compress", "none"]
    process, pids = running(argv)
    started = time.monotonic()
    if whom == "its terminal":
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert time.monotonic() - started < 10
    assert "copying" in err and "Traceback" not in err
    last = json.loads(out.splitlines()[-1])
    assert (last["event"], last["type"], last["exit_code"]) == ("error", "Cancelled", 130)
    assert_nothing_left(pids)
    assert_failed(tmp_path / "box", 130, "Cancelled")


def test_the_agent_is_killed(image: Path, tmp_path: Path) -> None:
    """To the host this is the connection that is cut: here the process at its other end is gone."""
    argv = [*CLI, "convert", str(image), "-o", str(tmp_path), "--name", "box", "--json", "--limit-rate", "5M",
            "--compress", "none"]
    process, pids = running(argv)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 14, err
    assert "SourceLost" in err and "copying its disks" in err
    assert json.loads(out.splitlines()[-1])["exit_code"] == 14
    assert_nothing_left(pids)
    assert_failed(tmp_path / "box", 14, "SourceLost")
