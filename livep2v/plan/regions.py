"""What is copied of a disk: regions that cover it from the first byte to the last, in order, without gap or overlap.

::

    |boot area|  partition 1  |gap|  partition 2 ... |tail|
     COPY      USED/HEADER/COPY  COPY or its edges    COPY: GPT backup

Regions are byte exact; whoever reads rounds outward to blocks. Volumes with a used-block map travel by it, swap
by its header alone, everything else whole. Unpartitioned space is left out except its edges, where boot loaders (core.img
behind the MBR), RAID superblocks and copies of tables live.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..model import Action, Disk, Partition, Region, Volume
from ..source import usedmap

MIB = 1 << 20
BOOT_AREA = 64 * MIB  # in front of the first partition: GRUB's core.img, U-Boot, vendors' data; up to here all of it
SMALL_GAP = 2 * MIB  # partitions are aligned to 1 MiB, so ordinary gaps are below; copied whole
EDGE = MIB  # of a larger gap: longer than the GPT's 33 sectors, md 1.x superblocks and LVM labels
SWAP_HEADER = 64 * 1024  # the signature ends the first page, and the largest page of Linux is 64 KiB
SWAP_KINDS = ("swap", "swsuspend")
EXTENDED = "extended"  # container of logical partitions

REASONS = {
    "empty": "empty at both ends; blocks of zeros are not sent",
    "unknown": "not recognised",
    "vfat": "small; holds boot files",
    "LVM2_member": "LVM: its free space is not told apart",
    "crypto_LUKS": "encrypted: used and free blocks look alike",
    "linux_raid_member": "RAID member: copied as it lies",
}


def regions(disk: Disk) -> tuple[Region, ...]:
    """The regions of ``disk``. A table that contradicts itself (overlap, past the end) or could not be read: one region, the
    whole disk."""
    parts = sorted((part for part in disk.partitions if part.volume.kind != EXTENDED), key=lambda part: part.offset)
    if disk.table == "unknown":
        return (_whole(disk, "its partition table could not be read"),)
    if disk.table == "none":
        return tuple(_volume(0, disk.size, disk.volume or Volume("unknown"), disk.path))
    at = 0
    found: list[Region] = []
    containers = [part for part in disk.partitions if part.volume.kind == EXTENDED]
    for part in parts:
        if part.offset < at or part.length <= 0 or part.offset + part.length > disk.size:
            return (_whole(disk, f"partition {part.number} overlaps another or the end of the disk"),)
        found += _gap(at, part.offset, "gap" if at else "boot", containers)
        found += _volume(part.offset, part.length, part.volume, part.path)
        at = part.offset + part.length
    found += _gap(at, disk.size, "tail" if at else "boot", containers)
    return tuple(found)


def region_bytes(region: Region, volume: Volume | None) -> int:
    """Bytes that would be read of it."""
    if region.action is Action.COPY:
        return region.length
    if region.action is Action.HEADER:
        return region.header_length
    if region.action is Action.USED and volume is not None and volume.used is not None:
        return min(volume.used, region.length)
    return 0 if region.action is Action.SKIP else region.length


def volume_at(disk: Disk, region: Region) -> Volume | None:
    """The volume that a region is, if it is one."""
    if disk.table == "none":
        return disk.volume
    return next((part.volume for part in disk.partitions if _is(part, region)), None)


def _is(part: Partition, region: Region) -> bool:
    return part.offset == region.offset and part.length == region.length and part.volume.kind != EXTENDED


def _whole(disk: Disk, reason: str) -> Region:
    return Region(0, disk.size, Action.COPY, "disk", disk.path, reason)


def _volume(offset: int, length: int, volume: Volume, path: str) -> Iterator[Region]:
    if volume.kind in SWAP_KINDS:
        header = min(SWAP_HEADER, length)
        yield Region(offset, length, Action.HEADER, "swap", path, "swap: only its label and UUID travel", header)
    elif usedmap.supported(volume.kind) and volume.used is not None and not volume.needs_recovery:
        yield Region(offset, length, Action.USED, volume.kind, path, "the blocks that its file system uses")
    else:
        yield Region(offset, length, Action.COPY, volume.kind, path, whole_reason(volume))


def whole_reason(volume: Volume) -> str:
    """Why a volume is copied whole."""
    if usedmap.supported(volume.kind):
        if volume.needs_recovery:
            return "its journal is not replayed, so its map of used blocks may be wrong"
        return volume.detail or "its superblock could not be read"
    if volume.kind == "unknown" and volume.detail:  # known by its magic number, but damaged: say what is wrong with it
        return volume.detail
    return REASONS.get(volume.kind, "no used-block map for this kind yet")


def _gap(start: int, end: int, kind: str, containers: list[Partition]) -> Iterator[Region]:
    """Unpartitioned space. Inside an extended partition all of it is copied: the tables of the logical partitions (EBRs) lie
    anywhere there, chained by pointers."""
    for container in containers:
        low, high = max(start, container.offset), min(end, container.offset + container.length)
        if low < high:
            yield from _gap(start, low, kind, [])
            yield Region(low, high - low, Action.COPY, EXTENDED, "", "tables of the logical partitions")
            yield from _gap(high, end, kind, containers)
            return
    limit = BOOT_AREA if kind == "boot" else SMALL_GAP
    reason = {"boot": "boot record and boot loader", "tail": "end of the disk: backup of the GPT"}.get(kind, "")
    if end <= start:
        return
    if end - start <= limit:
        yield Region(start, end - start, Action.COPY, kind, "", reason)
        return
    yield Region(start, EDGE, Action.COPY, kind, "", reason)
    yield Region(start + EDGE, end - start - 2 * EDGE, Action.SKIP, "free", "", "unpartitioned")
    yield Region(end - EDGE, EDGE, Action.COPY, kind, "", reason)
