"""Debian and Ubuntu: where grub-pc installs itself on its next update.

debconf keeps the old disk (``grub-pc/install_devices: /dev/disk/by-id/ata-...``). The next update of grub-pc then fails, or
leaves a core image older than its modules: "symbol not found" at the boot after (LP#1889556 is the known wreck of it). The
database is a text file of stanzas, debconf-devel(7); the answer becomes the VM's boot disk.
"""

from __future__ import annotations

import re

from ....model import Firmware
from ..context import Context
from ..guest import bytes_of
from .device_map import disk_name

NAME = "debconf-grub"
CRITICAL = False
WHY = "the next update of grub-pc installs to the VM's disk"
PATH = "/var/cache/debconf/config.dat"
_QUESTIONS = ("grub-pc/install_devices",)
_REMOVABLE = "grub2/force_efi_extra_removable"  # grub-install keeps \\EFI\\BOOT\\BOOTX64.EFI up to date then


def edited(ctx: Context, text: str) -> str:
    """The database with the answers changed where they name a device that the VM has under another name, or not at all."""
    if ctx.machine.firmware is Firmware.UEFI:
        text = re.sub(rf"(?m)^(Name: {_REMOVABLE}\n(?:(?!Value:|\n).*\n)*Value: )false$", r"\1true", text)
    stanzas = text.split("\n\n")
    for index, stanza in enumerate(stanzas):
        name = re.search(r"(?m)^Name: (.*)$", stanza)
        value = re.search(r"(?m)^Value: (.*)$", stanza)
        if not name or name[1] not in _QUESTIONS or not value:
            continue
        old = [item for item in re.split(r",\s*", value[1].strip()) if item]
        if not any(ctx.devices.volatile(item) for item in old):
            continue
        stanzas[index] = stanza[: value.start(1)] + disk_name(ctx, 0) + stanza[value.end(1) :]
    return "\n\n".join(stanzas)


def needed(ctx: Context) -> str:
    return WHY if ctx.tree.exists(PATH) else ""


def apply(ctx: Context) -> None:
    ctx.guest.put(PATH, bytes_of(edited(ctx, ctx.guest.text(PATH))), WHY)
