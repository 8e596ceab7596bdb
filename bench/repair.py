"""The repair of the lab machine's replica, against the same step of virt-v2v where that is installed.

virt-v2v repairs before it copies and says when it begins to copy: until then its work is that of our repair. It does not
change its input; ours gets a fresh copy each time.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path

from lab.build import cache_folder, recipe_key
from lab.recipe import OLDBOX
from livep2v.host.accel import accelerator
from livep2v.host.run import run
from livep2v.host.virtualize import GuestDisk, virtualize

from .replica import Replica, replicate
from .table import Table, compared, pairs, spread

RUNS = 3
TIMEOUT = 3600.0  # s; virt-v2v 2.2 has been seen to need 10 minutes under emulation
COPYING = re.compile(r"(?m)^\[ *([0-9.]+)\] Copying disk 1/")


def measure(runs: int) -> Table:
    title = f"Repair of the lab machine's replica ({accelerator().name})"
    disk = cache_folder() / f"{OLDBOX.name}-{recipe_key(OLDBOX)}" / "disk.raw"
    if not disk.exists():
        return Table(title, ("", ""), (("left out", "no lab machine is cached: run `python -m lab build` first"),))
    with tempfile.TemporaryDirectory(prefix="livep2v-bench-") as name:
        folder = Path(name)
        replica = replicate(disk, folder, "replica", "raw")
        if shutil.which("virt-v2v"):
            found = pairs(lambda number: repair(replica, folder / f"{number}"), lambda _: virt_v2v(replica.file), runs)
            return compared(title, "livep2v", "virt-v2v -i disk -o null, until it copies", found, True)
        seconds = [repair(replica, folder / f"{number}") for number in range(runs)]
    return Table(
        title,
        ("", "min / median / max"),
        (("livep2v, seconds", spread(seconds, ".1f")), ("virt-v2v", "is not installed: not compared")),
    )


def repair(replica: Replica, folder: Path) -> float:
    """Seconds of the repair of a copy of ``replica``, the committing included."""
    folder.mkdir()
    copy = folder / replica.file.name
    run(["cp", "--sparse=always", replica.file, copy], timeout=600)
    disk = GuestDisk(copy, "raw", replica.plan.snapshot.disks[0])
    changes = virtualize(folder, [disk], replica.machine, replica.plan, lambda name, facts: None, accelerator().name)
    shutil.rmtree(folder)
    return changes.seconds


def virt_v2v(image: Path) -> float:
    """Seconds until virt-v2v begins to copy."""
    env = {"LIBGUESTFS_BACKEND": "direct"}
    if accelerator().name != "kvm":
        env["LIBGUESTFS_BACKEND_SETTINGS"] = "force_tcg"
    return copying_at(run(["virt-v2v", "-i", "disk", image, "-o", "null"], timeout=TIMEOUT, env=env).stdout)


def copying_at(output: str) -> float:
    """The time stamp, in seconds since its start, of virt-v2v's message that it copies. Raises ValueError without one."""
    found = COPYING.search(output)
    if found is None:
        raise ValueError(f"virt-v2v did not say when it begins to copy: {output[-500:]!r}")
    return float(found.group(1))
