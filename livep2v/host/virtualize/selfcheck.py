"""The repaired guest, looked at once more before its overlay is written into the replica.

Each check reads the guest's files as the boot will, and not what a fix believes to have done.
"""

from __future__ import annotations

import re

from ...model import Initramfs
from .context import Context
from .entries import find
from .guest import text_of
from .linux import fstab, lvm, nic_names


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
    """A file for a MAC address that no card of the VM has does nothing: only those that match a card are looked at."""
    wrong = []
    pins = dict(nic_names.pins(ctx))
    for path in ctx.guest.glob(nic_names.LINKS):
        text = ctx.guest.text(path)
        mac, name = re.search(r"(?m)^MACAddress=(\S+)$", text), re.search(r"(?m)^Name=(\S+)$", text)
        if mac and name and pins.get(mac[1], name[1]) != name[1]:
            wrong.append(f"{path}: gives {mac[1]} the name {name[1]}, but it was {pins[mac[1]]}")
    return wrong


def _lvm(ctx: Context) -> list[str]:
    wrong = [f"{path}: lists the old disks" for path in ctx.guest.glob(lvm.DEVICES) if not ctx.tree.exists(lvm.IMPORT)]
    for path in ("/etc/lvm/lvm.conf", "/etc/lvm/lvmlocal.conf"):
        text = ctx.guest.text(path)
        if lvm.edited(text) != text:
            wrong.append(f"{path}: a filter rejects the VM's disks")
    for item in ctx.initramfs[:1]:
        image = ctx.images.get(item.path)
        if image is None or image.problem or image.hidden:  # not read to its end and left as it is: a warning already
            continue
        for name in lvm.INSIDE:
            text = text_of(image.files.get(name, b""))
            if lvm.edited(text) != text:
                wrong.append(f"{item.path}: a filter in its {name} rejects the VM's disks")
    return wrong
