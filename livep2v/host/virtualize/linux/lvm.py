"""LVM: nothing that makes it overlook the VM's disks.

/etc/lvm/devices/system.devices lists disks by their hardware identity (sys_wwid), which never matches: RHEL 9 then hangs at
boot (RHBZ2112801, rear#3042). It is moved to the backup, and the first boot imports the disks that are there. A filter in
lvm.conf that accepts only the old names is commented out; filters: lvm.conf(5). In the copies inside the initramfs
``boot/initramfs.py`` switches the list off and comments out the filter.
"""

from __future__ import annotations

import re

from ..context import Context
from ..guest import bytes_of

NAME = "lvm"
CRITICAL = True
WHY = "LVM has to find the VM's disks"
DEVICES = "/etc/lvm/devices/*.devices"
IMPORT = "/var/lib/livep2v/import-lvm-devices"
_CONFIGS = ("/etc/lvm/lvm.conf", "/etc/lvm/lvmlocal.conf")
INSIDE = ("etc/lvm/lvm.conf", "etc/lvm/lvmlocal.conf")  # their copies in an initramfs
_FILTER = re.compile(r"(?m)^([ \t]*)((?:global_)?filter[ \t]*=[ \t]*)(\[(?:[^\]\"]++|\"(?:[^\"\\]|\\.)*+\")*+\]|\"[^\"\n]*\")")
_PROBES = ("/dev/vda2", "/dev/sda2", "/dev/nvme0n1p2")


def rejects(value: str) -> bool:
    """A filter value does not let a VM's disk through: the first pattern that matches decides, none accepts."""
    patterns = re.findall(r'"((?:[^"\\]|\\.)*)"', value)
    for name in _PROBES:
        for pattern in patterns:
            if len(pattern) < 3 or pattern[0] not in "ar":
                continue
            close = {"[": "]", "(": ")", "{": "}"}.get(pattern[1], pattern[1])
            expression = pattern[2:].rpartition(close)[0]
            try:
                matched = re.search(expression, name)
            except re.error:
                return True  # not ours to judge: without it LVM looks at all disks
            if matched:
                if pattern[0] == "r":
                    return True
                break
    return False


def edited(text: str) -> str:
    """A configuration with filters that reject the VM's disks commented out."""

    def edit(match: re.Match[str]) -> str:
        if not rejects(match.group(3)):
            return match.group(0)
        return "\n".join("# livep2v: " + line for line in match.group(0).split("\n"))

    return _FILTER.sub(edit, text)


def needed(ctx: Context) -> str:
    return WHY if ctx.tree.exists("/etc/lvm") else ""


def apply(ctx: Context) -> None:
    for path in ctx.guest.glob(DEVICES):
        if ctx.guest.remove(path, "it lists the old disks by their hardware identity"):
            ctx.guest.put(IMPORT, b"", "the first boot lists the VM's disks instead")
    ctx.guest.remove("/etc/lvm/cache/.cache", "it lists the old disks")
    for path in _CONFIGS:
        if ctx.tree.exists(path):
            ctx.guest.put(path, bytes_of(edited(ctx.guest.text(path))), WHY)
