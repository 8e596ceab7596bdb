"""A loop device as the physical disk of a test: real kernel, real file system, real writers, block events included."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

from livep2v.model import Action, PlanDisk, Region, SnapshotSpec

WRITER = textwrap.dedent("""
    import os, random, sqlite3, sys, time
    folder = sys.argv[1]
    base = sqlite3.connect(os.path.join(folder, "ledger.db"), isolation_level=None)
    base.execute("pragma journal_mode=wal"); base.execute("pragma synchronous=full")
    base.execute("create table if not exists ledger(n integer primary key, payload blob)")
    names, n, longest = [], 0, 0.0
    end = time.time() + float(sys.argv[2])
    while time.time() < end:
        start = time.time()
        base.execute("insert into ledger(payload) values (?)", (os.urandom(200),)); n += 1
        for _ in range(3):
            name = os.path.join(folder, "churn", "f%06d" % random.randrange(2000))
            if os.path.exists(name): os.unlink(name)
            else:
                with open(name, "wb") as stream: stream.write(os.urandom(random.randrange(1, 40000)))
        longest = max(longest, time.time() - start)
        print(n, "%.4f" % longest, flush=True)
        time.sleep(max(0, 0.01 - (time.time() - start)))  # 4 operations each: about 400 a second
""")


class LoopDisk:
    """``path``: the loop device; ``file``: what it is backed by; ``mountpoint``: where its ext4 is mounted."""

    def __init__(self, path: str, file: Path, size: int, mountpoint: Path) -> None:
        self.path, self.file, self.size, self.mountpoint = path, file, size, mountpoint
        facts = os.stat(path)
        self.devno = f"{os.major(facts.st_rdev)}:{os.minor(facts.st_rdev)}"
        self.name = Path(path).name

    def plan_disk(self, kind: str = "ext4", **changes: object) -> PlanDisk:
        region = Region(0, self.size, Action.USED, kind, self.path)
        disk = PlanDisk(
            0, self.name, self.path, self.devno, self.size, 512, "disk.raw", "raw", "dynamic", (region,), 1
        )
        return disk._replace(**changes)  # type: ignore[arg-type]

    def spec(self, **changes: object) -> SnapshotSpec:
        spec = SnapshotSpec("tracked", (self.plan_disk(),), max_freeze=1.0, hard_limit=8.0)
        return spec._replace(**changes)  # type: ignore[arg-type]


@contextlib.contextmanager
def loop_disk(folder: Path, size: int = 512 << 20, fill: int = 150 << 20, mkfs: tuple[str, ...] = ("mkfs.ext4", "-q", "-F"),
              old_data: bool = True) -> Iterator[LoopDisk]:
    """A mounted file system with ``fill`` bytes of files, on a disk whose free space is full of old data."""
    file = folder / "disk.img"
    if old_data:
        with file.open("wb") as stream:
            block = os.urandom(1 << 20)
            for number in range(size >> 20):
                stream.write(number.to_bytes(8, "big") + block[8:])
    else:
        file.touch()
        os.truncate(file, size)
    subprocess.run([*mkfs, "-E", "nodiscard", str(file)], check=True, capture_output=True)
    path = subprocess.run(
        ["losetup", "--find", "--show", "--direct-io=on", str(file)], check=True, capture_output=True, text=True
    ).stdout.strip()
    mountpoint = folder / "mnt"
    mountpoint.mkdir()
    try:
        subprocess.run(["mount", path, str(mountpoint)], check=True)
        try:
            (mountpoint / "churn").mkdir()
            for number in range(fill >> 20):
                (mountpoint / f"data{number}").write_bytes(os.urandom(1 << 20))
            os.sync()
            yield LoopDisk(path, file, size, mountpoint)
        finally:
            subprocess.run(["umount", str(mountpoint)], check=True)
    finally:
        subprocess.run(["losetup", "-d", path], check=True)


@contextlib.contextmanager
def sqlite_writer(folder: Path, seconds: float = 120.0) -> Iterator[subprocess.Popen[str]]:
    """SQLite commits and file creation and deletion, about 400 operations a second, until the block ends."""
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(folder), str(seconds)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()  # it has committed once
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=30)


def used_blocks(image: Path, scratch: Path) -> list[tuple[int, int]]:
    """``(offset, length)`` of what dumpe2fs, not we, calls used in an ext file system image."""
    text = subprocess.run(["dumpe2fs", str(image)], check=True, capture_output=True, text=True).stdout
    del scratch
    size = count = 0
    free: list[tuple[int, int]] = []
    for line in text.splitlines():
        if line.startswith("Block size:"):
            size = int(line.split()[-1])
        elif line.startswith("Block count:"):
            count = int(line.split()[-1])
        elif line.strip().startswith("Free blocks:") and not line.startswith("Free blocks:"):
            for part in line.split(":", 1)[1].split(","):
                if part.strip():
                    low, _, high = part.strip().partition("-")
                    free.append((int(low), int(high or low)))
    used, at = [], 0
    for first, last in sorted(free):
        if first > at:
            used.append((at * size, (first - at) * size))
        at = last + 1
    if at < count:
        used.append((at * size, (count - at) * size))
    return used
