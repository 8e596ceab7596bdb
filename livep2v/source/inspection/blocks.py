"""How block devices lie on top of each other, from /sys. A device is named as the kernel names it ("sda2", "dm-0")."""
import os
from typing import Dict, List, Set

from .tree import Tree

MAX_DEPTH = 16  # of devices on devices: file system on crypt on LVM on md on partition on multipath is 6


def exists(tree: Tree, name: str) -> bool:
    return bool(name) and tree.exists("/sys/class/block/" + name)


def name_of(tree: Tree, path: str) -> str:
    """Kernel name of a device path ("/dev/mapper/vg-root" -> "dm-0"); empty if it is not a block device here."""
    for candidate in (path, tree.real(path)):
        if candidate.startswith("/dev/"):
            name = candidate[len("/dev/"):].replace("/", "!")  # sysfs has "cciss!c0d0" for /dev/cciss/c0d0
            if exists(tree, name):
                return name
    if path.startswith("/dev/mapper/"):
        for name in tree.names("/sys/class/block"):
            if name.startswith("dm-") and tree.text("/sys/class/block/{}/dm/name".format(name)) == path[len("/dev/mapper/"):]:
                return name
    return ""


def path_of(tree: Tree, name: str) -> str:
    """The device path that people use for a kernel name."""
    mapped = tree.text("/sys/class/block/{}/dm/name".format(name))
    return "/dev/mapper/" + mapped if mapped else "/dev/" + name.replace("!", "/")


def by_devno(tree: Tree, devno: str) -> str:
    """Kernel name of "8:1", or empty."""
    target = tree.link("/sys/dev/block/" + devno)
    return os.path.basename(target) if target else ""


def disk_of(tree: Tree, name: str) -> str:
    """The whole disk of a partition; any other device is its own."""
    base = "/sys/class/block/" + name
    if tree.exists(base + "/partition"):
        return os.path.basename(os.path.dirname(tree.real(base)))
    return name


def slaves(tree: Tree, name: str) -> List[str]:
    """Devices directly under ``name``; a loop device has none here, see mounts.py."""
    return tree.names("/sys/class/block/{}/slaves".format(name))


def holders(tree: Tree, name: str) -> List[str]:
    return tree.names("/sys/class/block/{}/holders".format(name))


def physical(tree: Tree, name: str, loops: Dict[str, str]) -> Set[str]:
    """Whole disks under a device. ``loops``: loop device -> device of the file system that holds its file; a loop device
    counts itself as well, since it can be converted like a disk."""
    found: Set[str] = set()
    seen: Set[str] = set()
    level = {name}
    for _ in range(MAX_DEPTH):
        following: Set[str] = set()
        for device in level - seen:
            seen.add(device)
            disk = disk_of(tree, device)
            below = slaves(tree, disk)
            if disk in loops:
                found.add(disk)
                below = [loops[disk]] if loops[disk] else []
            elif not below:
                found.add(disk)
            following.update(below)
        if not following:
            break
        level = following
    return found
