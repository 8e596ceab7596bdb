"""Devices that lie on top of others: LVM, md, dm-crypt, multipath, loop ..."""
from typing import Tuple

from ...errors import Livep2vError
from ...formats import probe
from ...model import Holder, Volume
from ..diskio import DiskReader
from . import blocks, mounts
from .tree import Tree

UUID_KINDS = (("LVM-", "lvm"), ("CRYPT-", "crypt"), ("mpath-", "multipath"), ("DMRAID-", "dmraid"))  # prefixes of dm/uuid


def kind(tree: Tree, name: str) -> str:
    base = "/sys/class/block/" + name
    if tree.exists(base + "/dm"):
        uuid = tree.text(base + "/dm/uuid")
        uuid = uuid.partition("-")[2] if uuid.startswith("part") else uuid  # kpartx: "part1-mpath-..."
        return next((found for prefix, found in UUID_KINDS if uuid.startswith(prefix)), "dm")
    if tree.exists(base + "/md"):
        return "md"
    return next((prefix for prefix in ("loop", "bcache", "drbd") if name.startswith(prefix)), "dm")


def holders(tree: Tree) -> Tuple[Holder, ...]:
    """Every such device in use, lower ones (by number) first. Below a loop device is the device that holds its file."""
    looped = mounts.loops(tree, mounts.mountinfo(tree))
    found = []
    for name in tree.names("/sys/block"):
        below = [looped[name]] if looped.get(name) else blocks.slaves(tree, name)
        if not below or tree.number("/sys/block/{}/size".format(name)) == 0:
            continue
        found.append(
            Holder(
                name.replace("!", "/"),
                blocks.path_of(tree, name),
                kind(tree, name),
                tuple(slave.replace("!", "/") for slave in below),
                _volume(tree, name),
            )
        )
    return tuple(found)


def _volume(tree: Tree, name: str) -> Volume:
    path = tree.path(blocks.path_of(tree, name))
    size = tree.number("/sys/block/{}/size".format(name)) * 512
    try:
        with DiskReader(path, path, size) as reader:
            return probe.probe(reader.read, size)
    except Livep2vError as error:
        return Volume("unknown", detail=str(error))
