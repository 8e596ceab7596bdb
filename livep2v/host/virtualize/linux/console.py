"""Consoles: no login on the second serial port.

On a real machine it is serial over LAN; in the VM the boot check listens there for the first-boot report, and a getty would
answer it. The kernel's console moves to the first port with the boot arguments; systemd then starts a getty there by itself.
"""

from __future__ import annotations

import re

from ..context import Context
from ..guest import bytes_of

NAME = "console"
CRITICAL = False
WHY = "the machine's serial-over-LAN port does not exist; the VM's console is the first serial port"
UNIT = "/etc/systemd/system/getty.target.wants/serial-getty@ttyS1.service"
INITTAB = "/etc/inittab"


def needed(ctx: Context) -> str:
    return WHY


def apply(ctx: Context) -> None:
    ctx.guest.remove(UNIT, WHY)
    text = ctx.guest.text(INITTAB)
    if text and not re.search(r"(?m)^[^#\n]*\bttyS0\b", text):
        new = re.sub(r"(?m)^([^#\n]*)\bttyS1\b", r"\1ttyS0", text)
        ctx.guest.put(INITTAB, bytes_of(new), WHY)
