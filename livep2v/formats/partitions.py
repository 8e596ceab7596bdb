"""The partition table of a disk, whichever kind it is."""

from typing import List, NamedTuple, Tuple

from ..errors import FormatError
from ..model import Extent
from . import gpt, mbr, probe
from .ranges import union
from .reading import Read

# What the first 440 bytes contain: the loaders' own words. GRUB 2's and GRUB legacy's boot.img both print "GRUB ".
BOOT_CODE = (
    (b"GRUB", "GRUB"),
    (b"LILO", "LILO"),
    (b"SYSLINUX", "SYSLINUX"),
    (b"EXTLINUX", "SYSLINUX"),
    (b"isolinux", "ISOLINUX"),
    (b"Missing operating system", "Windows"),
    (b"MBRerr", "SYSLINUX"),
)


class Entry(NamedTuple):
    """One partition. The container of logical partitions (MBR types 0x5, 0xf, 0x85) is an entry too: it overlaps them."""

    number: int
    offset: int
    length: int
    type: str  # MBR: "0x83"; GPT: GUID in lower case
    uuid: str  # PARTUUID as blkid prints it; empty where the disk has no signature
    name: str  # GPT only
    bootable: bool

    @property
    def is_container(self) -> bool:
        return self.type in ("0x5", "0xf", "0x85")


class Table(NamedTuple):
    kind: str  # "mbr" "gpt" "none" (a file system on the whole disk, or nothing)
    id: str = ""  # "0x1234abcd" or the disk GUID
    boot_code: str = ""  # what the boot code of sector 0 is, "" if it has none that is known
    entries: Tuple[Entry, ...] = ()  # by number
    metadata: Tuple[Extent, ...] = ()  # where the tables themselves are
    detail: str = ""  # one line for people: a damaged copy of the table


def read_table(read: Read, size: int, sector_size: int) -> Table:
    """The table of a disk of ``size`` bytes with logical sectors of ``sector_size``.

    Raises FormatError: a table that is damaged in both copies, or partitions that overlap or leave the disk.
    """
    if size < sector_size:
        return Table("none")
    sector = read(0, sector_size)
    code = boot_code(sector)
    if not mbr.is_table(sector) or probe.boot_sector(sector, size):
        return Table("none", boot_code=code)
    if any(slot.type == mbr.PROTECTIVE for slot in mbr.slots(sector)):
        return _gpt(read, size, sector_size, code)
    found, tables = mbr.parts(read, size, sector_size, sector)
    if not found and probe.probe(read, size).kind not in ("unknown", "empty"):
        return Table("none", boot_code=code)  # 55aa of a boot loader in front of a file system
    signature = mbr.disk_id(sector)
    entries = []
    for part in sorted(found):
        uuid = "{:08x}-{:02x}".format(signature, part.number) if signature else ""
        kind = "0x{:x}".format(part.type)
        entries.append(Entry(part.number, part.start * sector_size, part.sectors * sector_size, kind, uuid, "", part.bootable))
    _check(entries, size)
    return Table("mbr", "0x{:08x}".format(signature), code, tuple(entries), tuple(union(tables)))


def _gpt(read: Read, size: int, sector_size: int, code: str) -> Table:
    head, parts, areas, detail = gpt.read_gpt(read, size, sector_size)
    entries = []
    for part in parts:
        offset, length = part.start * sector_size, part.sectors * sector_size
        bootable = bool(part.attributes & gpt.LEGACY_BOOTABLE)
        entries.append(Entry(part.number, offset, length, part.type, part.guid, part.name, bootable))
    _check(entries, size)
    return Table("gpt", head.guid, code, tuple(entries), tuple(union(areas, [Extent(0, sector_size)])), detail)


def boot_code(sector: bytes) -> str:
    """Whose code the first 440 bytes hold, or ""."""
    code = sector[: mbr.CODE]
    for words, name in BOOT_CODE:
        if words in code:
            return name
    return ""


def _check(entries: List[Entry], size: int) -> None:
    """Every partition on the disk, none over another; a container may hold logical ones (number 5 and up)."""
    for entry in entries:
        if entry.offset + entry.length > size:
            reason = "partition {} goes from byte {} to {}, the disk ends at {}".format(
                entry.number, entry.offset, entry.offset + entry.length, size
            )
            raise FormatError(what="partition table", offset=0, reason=reason)
    for logical in (False, True):
        level = [entry for entry in entries if (entry.type.startswith("0x") and entry.number > 4) is logical]
        level.sort(key=lambda entry: entry.offset)
        for one, two in zip(level, level[1:]):
            if one.offset + one.length > two.offset:
                reason = "partitions {} ({}+{}) and {} ({}+{}) overlap".format(
                    one.number, one.offset, one.length, two.number, two.offset, two.length
                )
                raise FormatError(what="partition table", offset=0, reason=reason)
