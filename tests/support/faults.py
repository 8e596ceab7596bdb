"""Faults made real, and the search for what a conversion left behind."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from livep2v.host.digestmap import DigestMap
from livep2v.host.image import create
from livep2v.host.receiver import Held, ImageReceiver
from livep2v.source import kernel

MIB = 1 << 20
CLI = [sys.executable, "-c", "import sys; from livep2v.cli import main; sys.exit(main())"]
ROOT = Path(__file__).resolve().parents[2]  # of the project
INSTANCES = "from livep2v.source.snapshot.tracefs import find; import os; print('\\n'.join(os.listdir(find() + '/instances')))"


def is_frozen(mountpoint: Path) -> bool:
    """A second FIFREEZE says EBUSY while it is frozen; a success is taken back."""
    fd = os.open(mountpoint, os.O_RDONLY)
    try:
        kernel.freeze(fd)
    except OSError:
        return True
    else:
        with contextlib.suppress(OSError):  # an armed watchdog may have been faster
            kernel.thaw(fd)
        return False
    finally:
        os.close(fd)


def wait_until(condition: Callable[[], bool], limit: float, what: str) -> float:
    """Seconds until ``condition``; an AssertionError that says ``what`` after ``limit``."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < limit, what
        time.sleep(0.02)
    return time.monotonic() - started


def family(pid: int) -> set[int]:
    """A process and all that descend from it, now. A watchdog whose agent was killed is not found any more: ask before."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found, size = {pid}, 0
    while size != len(found):
        size = len(found)
        found |= {child for child, parent in parents.items() if parent in found}
    return found


def alive(pid: int) -> bool:
    """True for a process that is there and no zombie."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def agents(pids: set[int]) -> set[int]:
    """Those of ``pids`` that run our archive: the agent and its watchdog."""
    found = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            if b"import sys,base64" in Path(f"/proc/{pid}/cmdline").read_bytes():  # how the bootstrap line starts Python
                found.add(pid)
    return found


def instances() -> set[str]:
    """Tracing instances of this machine, as a process of its own sees them."""
    probe = subprocess.run([sys.executable, "-c", INSTANCES], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(probe.stdout.split())


def assert_nothing_left(pids: set[int], limit: float = 5.0) -> None:
    """No process of ``pids`` lives, none of them left a tracing instance or a file."""
    assert pids
    wait_until(lambda: not any(map(alive, pids)), limit, f"still there: {sorted(pid for pid in pids if alive(pid))}")
    names = {f"livep2v-{pid}" for pid in pids}
    assert not names & instances()
    for folder in ("/dev/shm", "/tmp", "/var/tmp", "/run", "/root", "/"):
        assert not {entry.lstrip(".") for entry in os.listdir(folder)} & names


@contextlib.contextmanager
def receiving(folder: Path, size: int, name: str = "disk") -> Iterator[tuple[ImageReceiver, Held, Path]]:
    """A real receiver into a raw replica in ``folder``; nothing is flushed at the end."""
    path = folder / "replica.raw"
    held = Held(name, create(path, "raw", "dynamic", size), DigestMap(folder / "digests", size))
    receiver = ImageReceiver([held])
    try:
        yield receiver, held, path
    finally:
        receiver.close()
        held.image.close()
        held.digests.close()


def disk_image(folder: Path, data: int = 60, size: int = 128, name: str = "oldbox.img") -> Path:
    """An MBR disk of ``size`` MiB with one ext4 that holds ``data`` MiB of files which do not compress."""
    path, tree = folder / name, folder / f"{name}.tree"
    tree.mkdir(parents=True)
    for number in range(data):
        (tree / f"file{number}").write_bytes(os.urandom(MIB))
    path.touch()
    os.truncate(path, size * MIB)
    table = "label: dos\nlabel-id: 0x12345678\nstart=2048, type=83, bootable\n"
    subprocess.run(["sfdisk", "-q", str(path)], input=table, text=True, check=True)
    mkfs = ["mkfs.ext4", "-q", "-F", "-E", f"offset={MIB}", "-d", str(tree), str(path), f"{size - 1}M"]
    subprocess.run(mkfs, check=True, capture_output=True)
    return path


_SSH = """\
#!/bin/sh
# Takes the arguments of ssh, and runs the command as sshd would: by a shell, of whomever "logs in".
while [ "$1" != -- ]; do shift; done
{before} sh -c "$3" {after}
"""


def other_ssh(folder: Path, login: tuple[str, ...] = (), relay: tuple[str, ...] = ()) -> Path:
    """A folder for the front of PATH with an ``ssh`` that leads to this machine. ``login``: what becomes the remote user
    (chroot, runuser); ``relay``: a program that what the remote says goes through."""
    folder.mkdir(parents=True)
    program = folder / "ssh"
    if relay:
        text = _SSH.format(before=shlex.join(login), after="| exec " + shlex.join(relay))
    else:
        text = _SSH.format(before="exec " + shlex.join(login), after="")
    program.write_text(text)
    program.chmod(0o755)
    return folder
