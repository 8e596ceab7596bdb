"""File systems in use: mounts with the disks under them, swap areas, loop devices."""
from typing import Dict, List, NamedTuple, Tuple

from ...model import Mount, Swap
from . import blocks
from .tree import Tree, unescape


class Line(NamedTuple):
    """One line of /proc/self/mountinfo, escapes resolved (proc(5))."""

    devno: str
    root: str
    mountpoint: str
    options: str
    fstype: str
    source: str
    order: int


def mountinfo(tree: Tree, process: str = "self") -> List[Line]:
    found = []
    for order, line in enumerate(tree.lines("/proc/{}/mountinfo".format(process))):
        fields = line.split(" ")
        try:
            dash = fields.index("-", 6)  # optional fields end with a lone dash
            fstype, source, flags = fields[dash + 1], fields[dash + 2], fields[dash + 3] if len(fields) > dash + 3 else ""
        except (ValueError, IndexError):
            continue
        options = ",".join(dict.fromkeys(part for part in (fields[5] + "," + flags).split(",") if part))
        found.append(
            Line(fields[2], unescape(fields[3]), unescape(fields[4]), options, fstype, unescape(source), order)
        )
    return found


def device(tree: Tree, line: Line) -> str:
    """Kernel name of the device of a mount; empty for what is on none (proc, tmpfs, NFS, ZFS).

    btrfs has an anonymous number of major 0 in mountinfo: the device is the one it names as its source."""
    if not line.devno.startswith("0:"):
        return blocks.by_devno(tree, line.devno) or blocks.name_of(tree, line.source)
    return blocks.name_of(tree, line.source) if line.fstype == "btrfs" else ""


def loops(tree: Tree, lines: List[Line]) -> Dict[str, str]:
    """Loop device in use -> device of the file system on which its file lies (empty: tmpfs, NFS, deleted)."""
    found = {}
    for name in tree.names("/sys/class/block"):
        if name.startswith("loop") and tree.exists("/sys/class/block/{}/loop".format(name)):
            found[name] = _device_of_file(tree, backing_file(tree, name), lines)
    return found


def backing_file(tree: Tree, loop: str) -> str:
    return tree.text("/sys/class/block/{}/loop/backing_file".format(loop)).replace(" (deleted)", "")


def _device_of_file(tree: Tree, path: str, lines: List[Line]) -> str:
    best = None
    for line in lines:  # the longest mount point wins, of equal ones the later: it hides the earlier
        inside = path == line.mountpoint or path.startswith(line.mountpoint.rstrip("/") + "/")
        if inside and (best is None or len(line.mountpoint) >= len(best.mountpoint)):
            best = line
    return device(tree, best) if best is not None else ""


def btrfs_devices(tree: Tree, name: str) -> List[str]:
    """All devices of the btrfs file system that has ``name`` as one."""
    base = "/sys/fs/btrfs"
    for uuid in tree.names(base):
        members = tree.names("{}/{}/devices".format(base, uuid))
        if name in members:
            return members
    return [name]


def mounts(tree: Tree) -> Tuple[Mount, ...]:
    lines = mountinfo(tree)
    looped = loops(tree, lines)
    found = []
    for line in lines:
        name = device(tree, line)
        if not name:
            continue
        members = btrfs_devices(tree, name) if line.fstype == "btrfs" else [name]
        disks = sorted(set().union(*(blocks.physical(tree, member, looped) for member in members)))
        found.append(
            Mount(
                mountpoint=line.mountpoint,
                device=blocks.path_of(tree, name),
                devno=tree.text("/sys/class/block/{}/dev".format(name)) or line.devno,
                fstype=line.fstype,
                options=line.options,
                order=line.order,
                root=line.root,
                disks=tuple(disk.replace("!", "/") for disk in disks),
            )
        )
    return tuple(found)


def hidden(tree: Tree) -> List[str]:
    """File systems on disks that only other mount namespaces see (containers): nobody outside can freeze them by path.

    One line each, with a process that has it. Namespaces share most mounts, so devices are compared, not mounts."""
    visible = {line.devno for line in mountinfo(tree)}
    seen = {tree.link("/proc/self/ns/mnt")}
    found: Dict[str, str] = {}
    for process in tree.names("/proc"):
        namespace = tree.link("/proc/{}/ns/mnt".format(process)) if process.isdigit() else ""
        if not namespace or namespace in seen:
            continue
        seen.add(namespace)
        for line in mountinfo(tree, process):
            name = device(tree, line)
            if name and line.devno not in visible:
                found[line.devno] = "{} ({}) is mounted on {} by process {} only, where it cannot be frozen".format(
                    blocks.path_of(tree, name), line.fstype, line.mountpoint, process
                )
    return sorted(found.values())


def swaps(tree: Tree) -> Tuple[Swap, ...]:
    found = []
    for line in tree.lines("/proc/swaps")[1:]:
        fields = line.split()
        if len(fields) >= 3 and fields[2].isdigit():
            path = unescape(fields[0])
            if not path.startswith("/dev/zram"):  # swap in memory, not on a disk
                found.append(Swap(path, fields[1], int(fields[2]) * 1024))
    return tuple(found)
