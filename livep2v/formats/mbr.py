"""MBR partition tables: four entries in sector 0, logical partitions in a chain of extended boot records.

Layout: https://en.wikipedia.org/wiki/Master_boot_record, behaviour of the Linux kernel's block/partitions/msdos.c.
Sector numbers are in logical sectors of the disk.
"""

import struct
from typing import List, NamedTuple, Set, Tuple

from ..errors import FormatError
from ..model import Extent
from .reading import Read

SIGNATURE = b"\x55\xaa"  # at 510
ENTRIES = 446
CODE = 440  # bytes of boot code; the disk signature follows
EXTENDED = (0x05, 0x0F, 0x85)
PROTECTIVE = 0xEE  # a GPT is here
MAX_LOGICAL = 252  # the kernel has minor numbers for 256 partitions (DISK_MAX_PARTS)

_ENTRY = struct.Struct("<B3sB3sII")  # boot indicator, first CHS, type, last CHS, first sector, sectors
assert _ENTRY.size == 16


class Slot(NamedTuple):
    """One entry; ``start`` counts from what the table it stands in counts from."""

    boot: int
    type: int
    start: int
    sectors: int


class Part(NamedTuple):
    number: int
    bootable: bool
    type: int
    start: int  # first sector of the disk
    sectors: int


def slots(sector: bytes) -> Tuple[Slot, ...]:
    """The four entries of sector 0 or of an extended boot record."""
    found = []
    for index in range(4):
        boot, _, kind, _, start, sectors = _ENTRY.unpack_from(sector, ENTRIES + 16 * index)
        found.append(Slot(boot, kind, start, sectors))
    return tuple(found)


def is_table(sector: bytes) -> bool:
    """Whether sector 0 can be an MBR: the signature is there and every boot indicator is one of the two legal values (the
    test of msdos_partition()). File systems with a boot sector pass it too, at times: ask :mod:`probe` first."""
    return sector[510:512] == SIGNATURE and all(slot.boot in (0, 0x80) for slot in slots(sector))


def disk_id(sector: bytes) -> int:
    """The 32 bit disk signature, 0 if there is none."""
    return int(struct.unpack_from("<I", sector, CODE)[0])


def parts(read: Read, size: int, sector_size: int, sector: bytes) -> Tuple[List[Part], List[Extent]]:
    """The partitions of the MBR ``sector``, containers of logical ones included, and the bytes that tables take up.

    Raises FormatError: a chain that leaves its container, loops or has no end.
    """
    found: List[Part] = []
    tables = [Extent(0, sector_size)]
    containers = []
    for number, slot in enumerate(slots(sector), 1):
        if slot.type and slot.sectors:
            found.append(Part(number, slot.boot == 0x80, slot.type, slot.start, slot.sectors))
            if slot.type in EXTENDED:
                containers.append(found[-1])
    for container in containers:
        _logical(read, size, sector_size, container, found, tables)
    return found, tables


def _logical(read: Read, size: int, sector_size: int, container: Part, found: List[Part], tables: List[Extent]) -> None:
    """Follow one chain. Each record holds a partition, counted from the record, and a link, counted from the container."""
    record = container.start
    seen: Set[int] = set()
    number = max([4] + [part.number for part in found]) + 1
    while True:
        where = record * sector_size
        if where + sector_size > size:
            raise FormatError(what="extended boot record", offset=where, reason="the disk ends at byte {}".format(size))
        if record in seen or len(seen) > MAX_LOGICAL:
            raise FormatError(
                what="extended boot record", offset=where, reason="the chain loops after {} records".format(len(seen))
            )
        seen.add(record)
        sector = read(where, sector_size)
        if sector[510:512] != SIGNATURE:
            if len(seen) == 1:
                return  # a container that nobody has written to yet: as the kernel, no logical partitions
            raise FormatError(what="extended boot record", offset=where, reason="no signature 55aa")
        tables.append(Extent(where, sector_size))
        link = 0
        for slot in slots(sector):
            if not slot.sectors or not slot.type:
                continue
            if slot.type in EXTENDED:
                link = link or container.start + slot.start
                continue
            start = record + slot.start
            if not container.start < start <= start + slot.sectors <= container.start + container.sectors:
                reason = "logical partition {} at sector {}, {} sectors, is outside its container of sectors {}..{}".format(
                    number, start, slot.sectors, container.start, container.start + container.sectors - 1
                )
                raise FormatError(what="extended boot record", offset=where, reason=reason)
            found.append(Part(number, slot.boot == 0x80, slot.type, start, slot.sectors))
            number += 1
        if not link:
            return
        if not container.start <= link < container.start + container.sectors:
            raise FormatError(
                what="extended boot record", offset=where, reason="it points to sector {}, outside its container".format(link)
            )
        record = link
