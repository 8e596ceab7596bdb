"""Disks, their partition tables, and what each partition holds."""
import os
import re
from typing import Any, Callable, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

from ...errors import FormatError, Livep2vError
from ...formats import ext, partitions, probe
from ...formats.reading import Read, window
from ...model import Disk, Partition, Volume
from ..diskio import DiskReader
from . import blocks, disk_identity
from .tree import Tree

Warn = Callable[[str], None]
FreeBytes = Callable[[str], Optional[int]]  # device path -> free bytes of the file system mounted from it, None: not mounted

# No disks: memory, floppy and optical drives, and what lies on other devices (volumes.py).
NOT_DISKS = re.compile(r"(ram|zram|fd|sr|scd|dm-|md|bcache|drbd|zd|nullb)\d|nvme\d+c\d+n\d+$|mmcblk\d+(boot\d|rpmb)")
EXT = ("ext2", "ext3", "ext4")


def names(tree: Tree) -> List[str]:
    """Kernel names of the disks: those with a size, no hidden path of a multipath NVMe disk, no unused loop device."""
    found = []
    for name in tree.names("/sys/block"):
        base = "/sys/block/" + name
        if NOT_DISKS.match(name) or tree.text(base + "/hidden") == "1" or tree.number(base + "/size") == 0:
            continue
        if name.startswith("loop") and not tree.exists(base + "/loop"):
            continue
        found.append(name)
    return found


def links(tree: Tree) -> Dict[str, Tuple[str, ...]]:
    """Kernel name -> every /dev/disk/by-*/ name of it."""
    found: Dict[str, List[str]] = {}
    for folder in tree.names("/dev/disk"):
        for name in tree.names("/dev/disk/" + folder):
            path = "/dev/disk/{}/{}".format(folder, name)
            target = os.path.normpath(os.path.join(os.path.dirname(path), tree.link(path)))
            if target.startswith("/dev/"):
                found.setdefault(target[len("/dev/"):].replace("/", "!"), []).append(path)
    return {name: tuple(paths) for name, paths in found.items()}


def disks(tree: Tree, warn: Warn, free: FreeBytes) -> Tuple[Disk, ...]:
    linked = links(tree)
    found = []
    for name in names(tree):
        try:
            found.append(disk(tree, name, linked, warn, free))
        except Livep2vError as error:
            warn("{}: {}".format(name, error))
    return tuple(found)


def disk(tree: Tree, name: str, linked: Dict[str, Tuple[str, ...]], warn: Warn, free: FreeBytes) -> Disk:
    base = "/sys/block/" + name
    path = blocks.path_of(tree, name)
    size = tree.number(base + "/size") * 512  # sysfs counts 512-byte sectors whatever the disk's own
    sector = tree.number(base + "/queue/logical_block_size", 512)
    facts = disk_identity.udev(tree, tree.text(base + "/dev"))
    record = Disk(
        name=name.replace("!", "/"),
        path=path,
        size=size,
        sector_size=sector,
        physical_sector_size=tree.number(base + "/queue/physical_block_size", sector),
        devno=tree.text(base + "/dev"),
        model=disk_identity.model(tree, base),
        serial=disk_identity.serial(tree, base, facts),
        wwn=disk_identity.wwn(tree, base, facts),
        transport=disk_identity.transport(tree, name),
        rotational=tree.text(base + "/queue/rotational") == "1",
        removable=tree.text(base + "/removable") == "1",
        read_only=tree.text(base + "/ro") == "1",
        links=linked.get(name, ()),
        request_based=disk_identity.request_based(tree, base),
    )
    known = _kernel_partitions(tree, name)
    try:
        with DiskReader(path, tree.path(path), size) as reader:
            return with_content(record, reader.read, known, linked, warn, free)
    except Livep2vError as error:  # not root, or a disk that does not answer
        warn("{}: its content could not be read: {}".format(path, error))
        record = record._replace(volume=Volume("unreadable", detail=str(error)))
        return _by_kernel(record, known, linked, lambda part: Volume("unreadable"))


def with_content(
    record: Disk, read: Read, known: "List[KernelPartition]", linked: Dict[str, Tuple[str, ...]], warn: Warn, free: FreeBytes
) -> Disk:
    """``record`` with its table, partitions and volumes. ``known``: partitions as the kernel has them, none for an image."""
    try:
        table = partitions.read_table(read, record.size, record.sector_size)
    except FormatError as error:
        warn("{}: its partition table is damaged: {}".format(record.path, error))
        return _by_kernel(
            record, known, linked, lambda part: volume(read, part.offset, part.length, part.path, warn, free)
        )
    if table.detail:
        warn("{}: {}".format(record.path, table.detail))
    record = record._replace(table=table.kind, table_id=table.id, boot_code=table.boot_code)
    if table.kind == "none" and known:
        warn("{}: a partition table of a kind that is not known here; the disk is copied whole".format(record.path))
        return _by_kernel(
            record, known, linked, lambda part: volume(read, part.offset, part.length, part.path, warn, free)
        )
    if table.kind == "none":
        return record._replace(volume=volume(read, 0, record.size, record.path, warn, free))
    if known and _places(known) != _places(table.entries):
        warn(
            "{}: the kernel has the partitions {}, the table on the disk {}; it may look different after a restart, and is "
            "copied by what is in use now".format(
                record.path, _numbers(part.number for part in known), _numbers(entry.number for entry in table.entries)
            )
        )
        return _by_kernel(
            record, known, linked, lambda part: volume(read, part.offset, part.length, part.path, warn, free)
        )
    found = []
    by_place = {(part.number, part.offset): part for part in known}
    for entry in table.entries:
        kernel = by_place.get((entry.number, entry.offset))
        path = kernel.path if kernel else _partition_path(record, entry.number)
        extended = entry.is_container
        found.append(
            Partition(
                number=entry.number,
                path=path,
                offset=entry.offset,
                length=entry.length,
                type=entry.type,
                uuid=entry.uuid,
                name=entry.name,
                bootable=entry.bootable,
                volume=Volume("extended") if extended else volume(read, entry.offset, entry.length, path, warn, free),
                links=linked.get(kernel.name, ()) if kernel else (),
            )
        )
    return record._replace(partitions=tuple(found))


def _by_kernel(
    record: Disk,
    known: "List[KernelPartition]",
    linked: Dict[str, Tuple[str, ...]],
    content: "Callable[[KernelPartition], Volume]",
) -> Disk:
    """``record`` with the partitions that the kernel knows, where the table cannot be read."""
    return record._replace(
        table="unknown",
        partitions=tuple(
            Partition(part.number, part.path, part.offset, part.length, "", volume=content(part),
                      links=linked.get(part.name, ()))
            for part in known
        ),
    )  # fmt: skip


def volume(read: Read, offset: int, length: int, path: str, warn: Warn, free: FreeBytes) -> Volume:
    """What lies at ``offset``, with the bytes in use where a used-block map can say them."""
    inside = window(read, offset, length, path)
    try:
        found = probe.probe(inside, length)
    except Livep2vError as error:
        warn("{}: what it holds could not be read: {}".format(path, error))
        return Volume("unknown", detail=str(error))
    if found.kind not in EXT:
        return found
    try:
        block = ext.superblock(inside, length)
    except Livep2vError as error:
        warn("{}: {}".format(path, error))
        return found._replace(detail=str(error))
    # A mounted ext4 writes its free count to the superblock only now and then; the kernel knows it.
    mounted = free(path)
    unused = block.free_blocks * block.block_size if mounted is None else mounted
    return found._replace(
        used=min(max(block.blocks * block.block_size - unused, 0), length),
        needs_recovery=block.needs_recovery and mounted is None,
    )


class KernelPartition(NamedTuple):
    number: int
    name: str
    path: str
    offset: int
    length: int


def _kernel_partitions(tree: Tree, disk: str) -> List[KernelPartition]:
    found = []
    for name in tree.names("/sys/block/" + disk):
        base = "/sys/block/{}/{}".format(disk, name)
        if tree.exists(base + "/partition"):
            found.append(
                KernelPartition(
                    tree.number(base + "/partition"),
                    name,
                    blocks.path_of(tree, name),
                    tree.number(base + "/start") * 512,
                    tree.number(base + "/size") * 512,
                )
            )
    # The kernel shows an extended partition with a size of 2 sectors, so that nobody writes over the logical ones.
    return sorted(found)


def _places(partitions: "Sequence[Any]") -> "List[Tuple[int, int, int]]":
    """Number, offset and length of each; the kernel gives an extended partition a length of its own (1 KiB), so 0 there."""
    return [
        (part.number, part.offset, 0 if getattr(part, "is_container", part.length <= 1024) else part.length)
        for part in partitions
    ]


def _numbers(numbers: Iterable[int]) -> str:
    return ",".join(str(number) for number in numbers) or "none"


def _partition_path(record: Disk, number: int) -> str:
    if record.format != "block":
        return "{}#{}".format(record.path, number)
    return "{}{}{}".format(record.path, "p" if record.path[-1:].isdigit() else "", number)
