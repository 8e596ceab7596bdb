"""What a device name of the source means, and by which name the VM will find the same volume.

The inspected machine says exactly which volume each name stood for; nothing is guessed from the order of disks, which is how
virt-v2v gets nvme and multipath names wrong (RHBZ2101665). Only an image, which has no machine behind it, is read by the
order of its disks.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from ...model import Machine, Partition, Plan, Volume

# Names that follow the controller, the bus or the order of discovery. by-id names of device mapper and md carry their own
# UUID and stay.
VOLATILE = re.compile(
    r"^/dev/(?:(?:[shv]|xv)d[a-z]+\d*|nvme\d+n\d+(?:p\d+)?|mmcblk\d+(?:p\d+)?|(?:cciss|ida|rd)/c\d+d\d+(?:p\d+)?"
    r"|mapper/mpath\w+|disk/by-path/.+|disk/by-id/(?!dm-|lvm-|md-).+)$"
)
TAGS = {
    "UUID": "/dev/disk/by-uuid/",
    "LABEL": "/dev/disk/by-label/",
    "PARTUUID": "/dev/disk/by-partuuid/",
    "PARTLABEL": "/dev/disk/by-partlabel/",
}
_ORDERED = re.compile(r"^/dev/(?:(?:[shv]|xv)d([a-z])(\d*)|nvme(\d+)n1(?:p(\d+))?)$")
# Names that number no disk by order, or in another way; an image is one disk, so it is the one that they mean.
_ONLY = re.compile(
    r"^/dev/(?:mmcblk0(?:p(\d+))?|(?:cciss|ida|rd)/c0d0(?:p(\d+))?|disk/by-(?:path|id)/(?!dm-|lvm-|md-).+?(?:-part(\d+))?)$"
)


class Target(NamedTuple):
    """A volume of the source."""

    volume: Volume
    disk: str  # name of its disk; "" for one that lies on several (LVM, md)
    partition: int  # number; 0: the whole disk, or not a partition
    partuuid: str
    converted: bool  # its disk is among those of the plan


class Devices:
    def __init__(self, machine: Machine, plan: Plan) -> None:
        self.machine = machine
        self.order = [disk.name for disk in plan.snapshot.disks]
        self.names: dict[str, Target] = {}
        self.targets: list[Target] = []
        for disk in machine.disks:
            converted = disk.name in self.order
            for part in disk.partitions:
                self._add(part.volume, disk.name, part, converted, (part.path, *part.links))
            whole = Target(disk.volume or Volume("unknown"), disk.name, 0, "", converted)
            if disk.volume is not None:
                self.targets.append(whole)
            for name in (disk.path, *disk.links):
                self.names.setdefault(name, whole)
        for holder in machine.holders:
            disks = self._disks_under(holder.path)
            target = Target(holder.volume, "", 0, "", disks <= set(self.order))
            self.targets.append(target)
            self.names.setdefault(holder.path, target)

    def _add(self, volume: Volume, disk: str, part: Partition, converted: bool, names: tuple[str, ...]) -> None:
        target = Target(volume, disk, part.number, part.uuid, converted)
        self.targets.append(target)
        for name in names:
            self.names.setdefault(name, target)

    def _disks_under(self, path: str) -> set[str]:
        for mount in self.machine.mounts:
            if mount.device == path and mount.disks:
                return set(mount.disks)
        return set()

    def lookup(self, spec: str) -> Target | None:
        """The volume that ``spec`` (a device name, or TAG=value) stood for; None if the machine had none."""
        spec = spec.strip("\"'")
        tag, _, value = spec.partition("=")
        if tag not in TAGS:
            tag = next((name for name, folder in TAGS.items() if spec.startswith(folder)), "")
            value = spec[len(TAGS[tag]) :] if tag else ""
        value = value.strip("\"'")
        if tag == "UUID":
            return self._first(lambda target: target.volume.uuid.lower() == value.lower() != "")
        if tag == "LABEL":
            return self._first(lambda target: target.volume.label == value != "")
        if tag == "PARTUUID":
            return self._first(lambda target: target.partuuid.lower() == value.lower() != "")
        if spec in self.names:
            return self.names[spec]
        return None if self.machine.live else self._by_order(spec)

    def _first(self, wanted: object) -> Target | None:
        assert callable(wanted)
        matching = [target for target in self.targets if wanted(target)]
        return next((target for target in matching if target.converted), matching[0] if matching else None)

    def _by_order(self, spec: str) -> Target | None:
        """An image: its first disk was the first of the machine, whatever the machine called it."""
        match, only = _ORDERED.match(spec), _ONLY.match(spec)
        if match:
            index = ord(match.group(1)) - ord("a") if match.group(1) else int(match.group(3))
            number = int(match.group(2) or match.group(4) or 0)
        elif only and len(self.order) == 1:
            index, number = 0, int(next(filter(None, only.groups()), "0"))
        else:
            return None
        if index >= len(self.order):
            return None
        disk = self.order[index]
        return next((t for t in self.targets if t.disk == disk and t.partition == number), None)

    @staticmethod
    def volatile(spec: str) -> bool:
        """The name may mean another device, or none, on other hardware."""
        return VOLATILE.match(spec) is not None

    def stable(self, spec: str, kernel: bool = False) -> str:
        """A name for the volume of ``spec`` that the VM knows too, or "" if there is none.

        UUID= where only one volume has it; else PARTUUID=, which the copy keeps as well. ``kernel``: the kernel itself must
        understand it, without an initramfs: that is PARTUUID= alone (Linux Documentation/admin-guide/kernel-parameters)."""
        target = self.lookup(spec)
        if target is None or not target.converted:
            return ""
        uuid = target.volume.uuid
        twins = [other for other in self.targets if other.converted and other.volume.uuid == uuid]
        if uuid and len(twins) == 1 and not kernel:
            return f"UUID={uuid}"
        return f"PARTUUID={target.partuuid}" if target.partuuid else ""

    def absent(self, spec: str, mountpoint: str = "") -> str:
        """Why the volume of ``spec`` will not be in the VM; "" if it will be, or if that cannot be told."""
        mounted = next((m for m in self.machine.mounts if m.mountpoint == mountpoint and m.disks), None)
        if mounted is not None and mountpoint:
            left = sorted(set(mounted.disks) - set(self.order))
            return f"it lies on {', '.join(left)}, which is not converted" if left else ""
        target = self.lookup(spec)
        if target is not None:
            if target.converted or not target.disk:
                return ""
            return f"it lies on {target.disk}, which is not converted"
        if self.volatile(spec):
            return "the machine had no such device"
        tagged = spec.partition("=")[0] in TAGS or spec.startswith(tuple(TAGS.values()))
        seen_all = all(holder.volume.uuid for holder in self.machine.holders)
        if tagged and seen_all and self.machine.live and not spec.startswith(("PARTLABEL=", TAGS["PARTLABEL"])):
            return "the machine had no such volume"
        return ""
