"""A local image to a dynamic VHD, against ``qemu-img convert -O vpc``, on an image whose free space is full of old data.

qemu-img cannot know what a file system uses, so it copies the old data too: that difference is what is compared. Neither
waits for the disk at the end.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from livep2v.host.run import run
from tests.support.loopdisk import loop_disk, used_blocks
from tests.unit.test_tracked_snapshot import differing

from .replica import replicate
from .table import Table, compared, forget, pairs

RUNS = 5
SIZE, FILL = 2 << 30, 400 << 20  # bytes of the image, bytes of files on it
MIB = 1 << 20


def measure(runs: int) -> Table:
    with tempfile.TemporaryDirectory(prefix="livep2v-bench-") as name:
        folder = Path(name)
        with loop_disk(folder, SIZE, FILL) as disk:
            image = disk.file
        used = used_blocks(image, folder)
        sizes: list[int] = []
        right = True

        def ours(number: int) -> float:
            nonlocal right
            forget(image)
            replica = replicate(image, folder, f"job{number}", "vhd")
            sizes.append(replica.file.stat().st_blocks * 512)
            if number == 0:  # read by qemu, not by us
                raw = folder / "back.raw"
                run(["qemu-img", "convert", "-f", "vpc", "-O", "raw", replica.file, raw], timeout=600)
                right = raw.stat().st_size == SIZE and differing(image, raw, used) == 0
                raw.unlink()
            replica.file.unlink()
            return replica.seconds

        def theirs(number: int) -> float:
            forget(image)
            target = folder / "theirs.vhd"
            started = time.monotonic()
            run(["qemu-img", "convert", "-f", "raw", "-O", "vpc", image, target], timeout=600)
            seconds = time.monotonic() - started
            sizes.append(target.stat().st_blocks * 512)
            target.unlink()
            return seconds

        found = pairs(ours, theirs, runs)
    title = f"Local image to dynamic VHD: {SIZE >> 20} MiB, {sum(item[1] for item in used) >> 20} MiB used, the rest old data"
    table = compared(title, "livep2v", "qemu-img convert -O vpc", found, right)
    files = ("file on the host, MiB: livep2v, qemu-img", f"{sizes[0] / MIB:.0f}, {sizes[1] / MIB:.0f}")
    return table._replace(rows=(*table.rows, files, ("used blocks equal the image's", "yes" if right else "NO")))
