"""The repaired guest, looked at once more before its overlay is written into the replica.

Each check reads the guest's files as the boot will, and not what a fix believes to have done.
"""

from __future__ import annotations

import re

from ...model import Initramfs
from .context import Context
from .entries import find
from .linux import fstab, lvm


def check(ctx: Context) -> list[str]:
    """Everything that would keep the VM from booting; empty if nothing is wrong."""
    return [*_entries(ctx), *_initramfs(ctx), *_fstab(ctx), *_links(ctx), *_lvm(ctx)]


def _entries(ctx: Context) -> list[str]:
    entries = find(ctx.tree)
    if not entries:
        return ["no boot entry has a kernel that exists"]
    first = entries[0]
    wrong = []
    if not ctx.tree.exists(first.kernel):
        wrong.append(f"{first.source}: the default entry's kernel {first.kernel} does not exist")
    root = re.search(r"(?:^|\s)root=(\S+)", first.cmdline)
    spec = root.group(1) if root else ""
    if spec and ctx.devices.volatile(spec):
        wrong.append(f"{first.source}: the default entry still has root={spec}")
    elif spec.startswith(("UUID=", "LABEL=", "PARTUUID=")):
        target = ctx.devices.lookup(spec)
        if target is None or not target.converted:
            wrong.append(f"{first.source}: root={spec} is on none of the converted disks")
    return wrong


def _initramfs(ctx: Context) -> list[str]:
    if ctx.disk_bus != "virtio":
        return []
    first: list[Initramfs] = ctx.initramfs[:1]
    return [f"{item.path}: no virtio inside, but the VM would have a virtio disk" for item in first if not item.has_virtio]


def _fstab(ctx: Context) -> list[str]:
    wrong = []
    for line in ctx.guest.text(fstab.PATH).splitlines():
        fields = line.split()
        if len(fields) < 3 or fields[0].startswith("#"):
            continue
        options = fields[3].split(",") if len(fields) > 3 else []
        if {"nofail", "noauto"} & set(options) or fields[2] in ("iso9660", "udf"):
            continue
        if ctx.devices.volatile(fields[0]):
            wrong.append(f"{fstab.PATH}: {fields[0]} on {fields[1]} is a name that the VM does not have")
    return wrong


def _links(ctx: Context) -> list[str]:
    wrong = []
    names: dict[str, str] = {}
    macs = {nic.mac.lower() for nic in ctx.plan.vm.nics}
    for path in ctx.guest.glob("/etc/systemd/network/10-livep2v-*.link"):
        text = ctx.guest.text(path)
        match = re.search(r"(?m)^MACAddress=(\S+)$", text), re.search(r"(?m)^Name=(\S+)$", text)
        if match[0] is None or match[1] is None or match[0][1] not in macs:
            wrong.append(f"{path}: its MAC address is none of the VM's")
        elif names.setdefault(match[0][1], match[1][1]) != match[1][1]:
            wrong.append(f"{path}: a second name for {match[0][1]}")
    return wrong


def _lvm(ctx: Context) -> list[str]:
    wrong = [f"{path}: lists the old disks" for path in ctx.guest.glob(lvm.DEVICES) if not ctx.tree.exists(lvm.IMPORT)]
    for path in ("/etc/lvm/lvm.conf", "/etc/lvm/lvmlocal.conf"):
        text = ctx.guest.text(path)
        if lvm.edited(text) != text:
            wrong.append(f"{path}: a filter rejects the VM's disks")
    return wrong
