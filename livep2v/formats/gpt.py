"""GUID partition tables: a header in sector 1, its array of entries, and a copy of both at the end of the disk.

Layout: UEFI Specification 2.10, section 5.3 (little-endian, GUIDs with the first three parts in that order).
"""

import struct
import uuid
import zlib
from typing import List, NamedTuple, NoReturn, Tuple

from ..errors import FormatError
from ..model import Extent
from .reading import Read

MAGIC = b"EFI PART"
MAX_ARRAY = 4 << 20  # bytes; 128 entries take 16 KiB
LEGACY_BOOTABLE = 1 << 2  # attribute bit 2, UEFI table 5.8

# magic, revision, header size, checksum, reserved, own sector, sector of the other header, first and last usable sector,
# disk GUID, first sector of the array, number of entries, size of one, checksum of the array
_HEADER = struct.Struct("<8sIIIIQQQQ16sQIII")
_ENTRY = struct.Struct("<16s16sQQQ72s")  # type, GUID, first sector, last sector (inclusive), attributes, name in UTF-16
assert _HEADER.size == 92 and _ENTRY.size == 128


class Header(NamedTuple):
    sector: int  # where it was read
    other: int  # where the other header is
    first_usable: int
    last_usable: int
    guid: str
    array: int  # sector
    entries: int
    entry_size: int
    array_checksum: int


class Part(NamedTuple):
    number: int
    type: str  # GUID in lower case
    guid: str
    start: int  # first sector
    sectors: int
    attributes: int
    name: str


def guid(raw: bytes) -> str:
    return str(uuid.UUID(bytes_le=raw))


def header(read: Read, size: int, sector_size: int, sector: int) -> Header:
    """The header in ``sector``. Raises FormatError: no magic, wrong checksum, or numbers that do not fit the disk."""
    where = sector * sector_size
    if where + sector_size > size:
        raise FormatError(what="GPT header", offset=where, reason="the disk ends at byte {}".format(size))
    raw = read(where, sector_size)
    (magic, revision, length, checksum, _, own, other, first, last, disk, array, count, entry_size, array_checksum) = (
        _HEADER.unpack_from(raw)
    )
    if magic != MAGIC:
        _refuse(where, "no magic 'EFI PART'")
    if not _HEADER.size <= length <= sector_size:
        _refuse(where, "a header of {} bytes in a sector of {}".format(length, sector_size))
    actual = zlib.crc32(raw[:16] + b"\0\0\0\0" + raw[20:length]) & 0xFFFFFFFF
    if actual != checksum:
        _refuse(where, "its checksum is {:#010x}, not {:#010x}".format(actual, checksum))
    if own != sector:
        _refuse(where, "it says that it stands in sector {}".format(own))
    if entry_size < _ENTRY.size or entry_size % 8 or not 0 < count * entry_size <= MAX_ARRAY:
        _refuse(where, "{} entries of {} bytes".format(count, entry_size))
    if array * sector_size + count * entry_size > size:
        _refuse(where, "its array at sector {} goes past the end of the disk, byte {}".format(array, size))
    return Header(sector, other, first, last, guid(disk), array, count, entry_size, array_checksum)


def parts(read: Read, sector_size: int, head: Header) -> List[Part]:
    """The entries in use. Raises FormatError: the checksum of the array is wrong, or a partition ends before it starts."""
    where = head.array * sector_size
    raw = read(where, head.entries * head.entry_size)
    actual = zlib.crc32(raw) & 0xFFFFFFFF
    if actual != head.array_checksum:
        reason = "its checksum is {:#010x}, not {:#010x}".format(actual, head.array_checksum)
        raise FormatError(what="GPT array", offset=where, reason=reason)
    found = []
    for index in range(head.entries):
        kind, own, first, last, attributes, name = _ENTRY.unpack_from(raw, index * head.entry_size)
        if not any(kind):
            continue
        if last < first:
            reason = "partition {} goes from sector {} to {}".format(index + 1, first, last)
            raise FormatError(what="GPT array", offset=where, reason=reason)
        text = name.decode("utf-16-le", "replace").split("\0")[0]
        found.append(Part(index + 1, guid(kind), guid(own), first, last - first + 1, attributes, text))
    return found


def areas(size: int, sector_size: int, head: Header) -> List[Extent]:
    """The bytes that a header and its array take up, as far as they lie on the disk."""
    array = -(-head.entries * head.entry_size // sector_size) * sector_size
    wanted = [(head.sector * sector_size, sector_size), (head.array * sector_size, array)]
    return [Extent(offset, min(length, size - offset)) for offset, length in wanted if offset < size]


def read_gpt(read: Read, size: int, sector_size: int) -> Tuple[Header, List[Part], List[Extent], str]:
    """Header, partitions, the bytes of both copies, and what is wrong with one of the copies ("" if both are good).

    The copy at the end of the disk (or where the first header says it is) serves if the first is damaged. Raises
    FormatError if neither is good.
    """
    good: List[Tuple[Header, List[Part]]] = []
    wrong: List[FormatError] = []
    last = size // sector_size - 1
    sector = 1
    for _ in range(2):
        try:
            head = header(read, size, sector_size, sector)
            good.append((head, parts(read, sector_size, head)))
        except FormatError as error:
            wrong.append(error)
        # a disk that has grown since keeps its second copy where the first says
        sector = good[0][0].other if good and 1 < good[0][0].other < last else last
    if not good:
        raise wrong[0]
    extents = [extent for head, _ in good for extent in areas(size, sector_size, head)]
    return good[0][0], good[0][1], extents, "; ".join(str(error) for error in wrong)


def _refuse(where: int, reason: str) -> NoReturn:
    raise FormatError(what="GPT header", offset=where, reason=reason)
