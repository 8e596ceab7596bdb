"""The tracked snapshot of a loop device under a SQLite writer that also makes and deletes files (400 operations a second).

The oracle is the device itself, saved while frozen; that saving is not part of the time. What is used, dumpe2fs says.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest

from livep2v.model import Instant
from tests.support.loopdisk import loop_disk, sqlite_writer, used_blocks
from tests.unit.test_tracked_snapshot import differing, take

from .table import Table, spread

RUNS = 10
MIB = 1 << 20


class Run(NamedTuple):
    freeze_ms: float  # first freeze to first thaw
    identical: bool  # used blocks equal the frozen device's, and e2fsck finds nothing
    used: int  # bytes, by dumpe2fs
    instant: Instant


def measure(runs: int) -> Table:
    found = [one() for _ in range(runs)]
    copies = [run.instant.disks[0] for run in found]
    right = sum(run.identical for run in found)
    first = [(copy.sent - copy.resent) / run.used for run, copy in zip(found, copies, strict=True)]
    return Table(
        f"Freeze: tracked snapshot of a loop device under a SQLite writer and file churn, {runs} runs",
        ("", "min / median / max"),
        (
            ("file systems frozen, ms", spread([run.freeze_ms for run in found], ".0f")),
            ("byte-identical where used, e2fsck clean", f"{right} of {runs}"),
            ("used (dumpe2fs), MiB", spread([run.used / MIB for run in found], ".1f")),
            ("sent before compression, MiB", spread([copy.sent / MIB for copy in copies], ".1f")),
            ("of it sent again, MiB", spread([copy.resent / MIB for copy in copies], ".1f")),
            ("(sent - again) / used", spread(first, ".3f")),
            ("passes", spread([len(run.instant.passes) for run in found], ".0f")),
        ),
        right == runs,
    )


def one() -> Run:
    with tempfile.TemporaryDirectory(prefix="livep2v-bench-") as name, pytest.MonkeyPatch.context() as patch:
        folder = Path(name)
        with loop_disk(folder) as disk, sqlite_writer(disk.mountpoint):
            # The watchdog would count the saving of the device as part of the freeze.
            instant, replica, seconds = take(folder, disk, disk.spec(hard_limit=60.0), patch)
        used = used_blocks(folder / "frozen.raw", folder)
        clean = subprocess.run(["e2fsck", "-fn", str(replica)], capture_output=True, check=False).returncode == 0
        same = differing(folder / "frozen.raw", replica, used) == 0
        return Run(seconds * 1000, same and clean, sum(length for _, length in used), instant)
