"""initramfs-tools: the swap area to resume from.

``RESUME=/dev/sda3`` in /etc/initramfs-tools/conf.d/resume is copied into each initramfs, where it makes the boot wait 30 s for
a disk that never comes ("Gave up waiting for suspend/resume device"). The copies inside are replaced by ``boot/initramfs.py``
with the same function.
"""

from __future__ import annotations

import re

from ..context import Context
from ..guest import bytes_of

NAME = "resume"
CRITICAL = False
WHY = "the swap area by a name that exists in the VM"
_FILES = ("/etc/initramfs-tools/conf.d/*", "/etc/initramfs-tools/initramfs.conf")


def edited(ctx: Context, text: str) -> str:
    """Settings of initramfs-tools with RESUME= edited; ``none`` where the swap area is not in the VM."""

    def edit(match: re.Match[str]) -> str:
        value = match[3]
        if ctx.devices.absent(value):
            return match[1] + match[2] + "none" + match[2]
        stable = ctx.devices.stable(value) if ctx.devices.volatile(value) else value
        return match[1] + match[2] + (stable or "none") + match[2]

    return re.sub(r"(?m)^(\s*RESUME=)([\"']?)((?:/dev/|[A-Z]+=)[^\"'\s]+)\2", edit, text)


def needed(ctx: Context) -> str:
    return WHY if ctx.tree.exists("/etc/initramfs-tools") else ""


def apply(ctx: Context) -> None:
    for pattern in _FILES:
        for path in ctx.guest.glob(pattern):
            if ctx.tree.kind(path) == "file":
                ctx.guest.put(path, bytes_of(edited(ctx, ctx.guest.text(path))), WHY)
