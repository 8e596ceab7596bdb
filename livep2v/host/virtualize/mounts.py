"""Find the guest's root among the appliance's devices and mount it with all that belongs to the system.

A live machine's own mount table says what was mounted where, down to the btrfs subvolume; nothing is inferred. Only an image,
which has no table, is inspected by libguestfs (inspect_os).
"""

from __future__ import annotations

import re
from typing import Any

from ...errors import RepairError
from ...model import Machine, Mount, Plan
from .devices import Devices

# What a fix reads or writes lies in these; data volumes are not mounted, so nothing can happen to them.
SYSTEM = ("/", "/boot", "/boot/efi", "/efi", "/usr", "/var", "/var/lib", "/var/cache", "/var/log", "/etc")


def mount_guest(g: Any, machine: Machine, plan: Plan, devices: Devices) -> str:
    """Mount the guest; the answer is the device of its root, as the source named it. Raises RepairError."""
    if machine.live:
        return _mount_live(g, machine, plan, devices)
    return _mount_image(g)


def _drive(plan: Plan, disk: str) -> str:
    """The appliance's name of a disk: drives are added in the order of the plan."""
    names = [item.name for item in plan.snapshot.disks]
    index = names.index(disk)
    if index >= 26:
        raise RepairError(what=disk, reason=f"it is disk {index + 1} of the plan; the repair handles 26")
    return f"/dev/sd{chr(ord('a') + index)}"


def appliance_device(mount: Mount, plan: Plan, devices: Devices) -> str:
    """The appliance's name of what was mounted, or "" if it is not among the converted disks."""
    target = devices.lookup(mount.device)
    if target is None or not target.converted:
        return ""
    if target.disk:
        return _drive(plan, target.disk) + (str(target.partition) if target.partition else "")
    return mount.device  # a logical volume or an array keeps its own name


def _mount_live(g: Any, machine: Machine, plan: Plan, devices: Devices) -> str:
    last: dict[str, Mount] = {}
    for mount in sorted(machine.mounts, key=lambda item: item.order):
        if mount.root != "/" and mount.fstype != "btrfs":
            continue  # a folder of another file system, bound there: mounting that whole would put our files in the wrong place
        last[mount.mountpoint] = mount  # a later mount hides an earlier one on the same point
    if "/" not in last:
        raise RepairError(what="root file system", reason="the machine's mount table has no block device on /")
    root = ""
    for point in sorted((point for point in last if point in SYSTEM), key=len):
        mount = last[point]
        device = appliance_device(mount, plan, devices)
        if not device:
            if point == "/":
                raise RepairError(what=f"root file system on {mount.device}", reason="it is not on a converted disk")
            continue
        options = _options(mount)
        try:
            g.mount_options(options, device, point)
        except RuntimeError as error:
            raise RepairError(
                what=f"{mount.device} ({mount.fstype}) on {point}", reason=f"cannot be mounted in the appliance: {error}"
            ) from error
        root = mount.device if point == "/" else root
    _mount_from_fstab(g, plan, devices, set(last))
    return root


def _mount_from_fstab(g: Any, plan: Plan, devices: Devices, done: set[str]) -> None:
    """What the system needs and had not mounted at the time, such as a /boot that is mounted only for updates (Gentoo)."""
    text = g.read_file("/etc/fstab").decode("utf-8", "replace") if g.is_file("/etc/fstab") else ""
    lines = [line.split() for line in text.splitlines() if not line.lstrip().startswith("#")]
    for fields in sorted((fields for fields in lines if len(fields) > 2), key=lambda fields: len(fields[1])):
        if fields[1] in SYSTEM and fields[1] not in done:
            mount = Mount(fields[1], fields[0], "", fields[2], "", 0)
            device = appliance_device(mount, plan, devices)
            if not device or not g.is_dir(fields[1]):
                continue
            try:
                g.mount(device, fields[1])
            except RuntimeError as error:
                if fields[1] in ("/boot", "/usr"):
                    raise RepairError(
                        what=f"{fields[0]} on {fields[1]}", reason=f"cannot be mounted in the appliance: {error}"
                    ) from error


def _options(mount: Mount) -> str:
    subvolume = re.search(r"(?:^|,)(subvol=[^,]+)", mount.options)
    return subvolume.group(1) if subvolume and mount.fstype == "btrfs" else ""


def _mount_image(g: Any) -> str:
    try:
        roots = g.inspect_os()
    except RuntimeError as error:
        raise RepairError(what="image", reason=f"no operating system can be made out in it: {error}") from error
    if len(roots) != 1:
        raise RepairError(
            what="image",
            reason=f"{len(roots)} operating systems found in it ({', '.join(roots) or 'none'}); exactly one is needed",
        )
    points = g.inspect_get_mountpoints(roots[0])
    for point in sorted((point for point in points if point in SYSTEM), key=len):
        try:
            g.mount(points[point], point)
        except RuntimeError as error:
            if point in ("/", "/boot", "/usr"):
                raise RepairError(what=f"{points[point]} on {point}", reason=f"cannot be mounted: {error}") from error
    return str(roots[0])
