"""device.map: GRUB's own table of BIOS disks, with the names of the old disks.

GRUB 2 needs none and reads a stale one in preference to the truth: grub-install then says "cannot find a GRUB drive for
/dev/vda". It is removed. GRUB legacy needs it, by kernel names: with UUIDs its stage 1 stops with "Error 21" (vjailbreak
08c873d).
"""

from __future__ import annotations

import re

from ..context import Context
from ..entries import LEGACY_CONFIGS
from ..guest import bytes_of

NAME = "device-map"
CRITICAL = False
WHY = "it names the old disks"
PREFIX = {"virtio": "vd", "ide": "sd", "sata": "sd", "scsi": "sd"}


def disk_name(ctx: Context, index: int) -> str:
    """The kernel's name of the VM's disk ``index`` in boot order."""
    if ctx.disk_bus == "nvme":
        return f"/dev/nvme{index}n1"
    return f"/dev/{PREFIX.get(ctx.disk_bus, 'sd')}{chr(ord('a') + index)}"


def _maps(ctx: Context) -> list[str]:
    return [path for path in ("/boot/grub/device.map", "/boot/grub2/device.map") if ctx.tree.exists(path)]


def needed(ctx: Context) -> str:
    return WHY if _maps(ctx) else ""


def apply(ctx: Context) -> None:
    legacy = any(ctx.tree.exists(path) for path in LEGACY_CONFIGS) and not ctx.tree.exists("/boot/grub/grub.cfg")
    for path in _maps(ctx):
        text = ctx.guest.text(path)
        if not legacy or path.startswith("/boot/grub2/"):
            ctx.guest.remove(path, WHY)
            continue
        new = re.sub(r"(?m)^(\(hd(\d+)\)\s+)\S+", lambda m: m[1] + disk_name(ctx, int(m[2])), text)
        ctx.guest.put(path, bytes_of(new), WHY)
