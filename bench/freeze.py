"""The tracked snapshot of a loop device under a SQLite writer that also makes and deletes files (400 operations a second).

The oracle is the device itself, saved while frozen; that saving is not part of the time. What is used, dumpe2fs says.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import pytest

from livep2v.model import Instant
from tests.support.loopdisk import loop_disk, sqlite_writer, used_blocks
from tests.unit.test_tracked_snapshot import differing, take

from .table import Table, spread

RUNS = 10
MIB = 1 << 20


def measure(runs: int) -> Table:
    times, right, used, instants = zip(*(one() for _ in range(runs)), strict=True)
    copies = [instant.disks[0] for instant in instants]
    first = [(copy.sent - copy.resent) / size for size, copy in zip(used, copies, strict=True)]
    return Table(
        f"Freeze: tracked snapshot of a loop device under a SQLite writer and file churn, {runs} runs",
        ("", "min / median / max"),
        (
            ("file systems frozen, ms", spread(times, ".0f")),
            ("byte-identical where used, e2fsck clean", f"{sum(right)} of {runs}"),
            ("used (dumpe2fs), MiB", spread([size / MIB for size in used], ".1f")),
            ("sent before compression, MiB", spread([copy.sent / MIB for copy in copies], ".1f")),
            ("of it sent again, MiB", spread([copy.resent / MIB for copy in copies], ".1f")),
            ("(sent - again) / used", spread(first, ".3f")),
            ("passes", spread([len(instant.passes) for instant in instants], ".0f")),
        ),
        all(right),
    )


def one() -> tuple[float, bool, int, Instant]:
    """Milliseconds from freeze to thaw; whether the copy is the frozen device where that is used; bytes used; the account."""
    with tempfile.TemporaryDirectory(prefix="livep2v-bench-") as name, pytest.MonkeyPatch.context() as patch:
        folder = Path(name)
        with loop_disk(folder) as disk, sqlite_writer(disk.mountpoint):
            # The watchdog would count the saving of the device as part of the freeze.
            instant, replica, seconds = take(folder, disk, disk.spec(hard_limit=60.0), patch)
        used = used_blocks(folder / "frozen.raw", folder)
        clean = subprocess.run(["e2fsck", "-fn", str(replica)], capture_output=True, check=False).returncode == 0
        same = differing(folder / "frozen.raw", replica, used) == 0
        return seconds * 1000, same and clean, sum(length for _, length in used), instant
