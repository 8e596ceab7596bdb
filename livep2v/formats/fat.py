"""Boot sectors of FAT, exFAT and NTFS: whether sector 0 is one, and the volume's serial number and label.

Layouts: Microsoft's FAT specification 1.03 and exFAT specification; NTFS as in libblkid/src/superblocks/ntfs.c. The tests for
FAT are those of libblkid/src/superblocks/vfat.c, since a FAT has no magic number that is always there.
"""

import struct
from typing import Iterator, Optional, Tuple

from ..errors import FormatError
from .reading import Read

MAX_ROOT_CLUSTERS = 128  # followed for a label; blkid follows 100
MAX_CLUSTER = 32 << 20  # bytes; the limit of exFAT


def _power_of_two(number: int) -> bool:
    return number > 0 and not number & number - 1


class _Bpb:
    """The BIOS parameter block, as far as it is needed."""

    def __init__(self, sector: bytes) -> None:
        self.sector_size, self.cluster_sectors, self.reserved, self.fats, self.root_entries, total, self.media, length = (
            struct.unpack_from("<HBHBHHBH", sector, 11)
        )
        total32, length32 = struct.unpack_from("<II", sector, 32)
        self.sectors = total or total32
        self.is_fat32 = length == 0 and length32 != 0
        self.fat_sectors = length or length32
        self.root_cluster = struct.unpack_from("<I", sector, 44)[0]
        self.root_start = self.reserved + self.fats * self.fat_sectors  # sector after the FATs


def is_fat(sector: bytes) -> bool:
    named = sector[0x52:0x5A] == b"FAT32   " or sector[0x52:0x57] == b"MSWIN"
    named = named or sector[0x36:0x3E] in (b"FAT16   ", b"FAT12   ", b"FAT     ") or sector[0x36:0x3B] == b"MSDOS"
    if not named and (sector[510:512] != b"\x55\xaa" or sector[0x36:0x3E] in (b"JFS     ", b"HPFS    ")):
        return False
    if not named and sector[0] not in (0xE9, 0xEB) or is_ntfs(sector) or is_exfat(sector):
        return False
    bpb = _Bpb(sector)
    if not bpb.fats or not bpb.reserved or not (bpb.media >= 0xF8 or bpb.media == 0xF0) or not bpb.fat_sectors:
        return False
    if not _power_of_two(bpb.cluster_sectors) or not _power_of_two(bpb.sector_size) or not 512 <= bpb.sector_size <= 4096:
        return False
    root_sectors = -(-bpb.root_entries * 32 // bpb.sector_size)
    clusters = (bpb.sectors - bpb.root_start - root_sectors) // bpb.cluster_sectors
    limit = 0x0FFFFFF6 if bpb.is_fat32 else 0xFFF4
    return bool(0 <= clusters <= limit)


def has_partition(sector: bytes) -> bool:
    """Whether the first MBR entry in this boot sector is one: then a FAT-like sector 0 is an MBR all the same (vfat.c)."""
    return sector[510:512] == b"\x55\xaa" and any(sector[446 + 12 : 446 + 16]) and sector[446] in (0, 0x80)


def is_exfat(sector: bytes) -> bool:
    return sector[3:11] == b"EXFAT   " and 9 <= sector[108] <= 12 and sector[109] <= 25 - sector[108]


def is_ntfs(sector: bytes) -> bool:
    size, cluster = struct.unpack_from("<HB", sector, 11)
    return sector[3:11] == b"NTFS    " and 256 <= size <= 4096 and _power_of_two(size) and cluster != 0


def describe_fat(read: Read, size: int, sector: bytes) -> Tuple[str, str]:
    """Serial number and label; the label is that of the root directory."""
    bpb = _Bpb(sector)
    serial = struct.unpack_from("<I", sector, 0x43 if bpb.is_fat32 else 0x27)[0]
    for entries in _root_fat(read, size, bpb):
        for position in range(0, len(entries), 32):
            entry = entries[position : position + 32]
            if entry[0] == 0:
                return _serial(serial), ""
            # 0x08 volume id, 0x10 directory; 0x0f is part of a long name, 0xe5 was deleted
            if entry[0] != 0xE5 and entry[11] & 0x3F != 0x0F and entry[11] & 0x18 == 0x08 and not any(entry[26:28]):
                name = (b"\xe5" + entry[1:11] if entry[0] == 5 else entry[:11]).decode("cp437").strip()
                return _serial(serial), "" if name == "NO NAME" else name
    return _serial(serial), ""


def _root_fat(read: Read, size: int, bpb: _Bpb) -> Iterator[bytes]:
    """The root directory, piece by piece."""
    if not bpb.is_fat32:
        yield _inside(read, size, bpb.root_start * bpb.sector_size, bpb.root_entries * 32)
        return
    cluster = bpb.root_cluster
    length = bpb.cluster_sectors * bpb.sector_size
    for _ in range(MAX_ROOT_CLUSTERS):
        if cluster < 2 or cluster >= 0x0FFFFFF7:
            return
        yield _inside(read, size, bpb.root_start * bpb.sector_size + (cluster - 2) * length, length)
        entry = _inside(read, size, bpb.reserved * bpb.sector_size + 4 * cluster, 4)
        cluster = struct.unpack("<I", entry)[0] & 0x0FFFFFFF


def describe_exfat(read: Read, size: int, sector: bytes) -> Tuple[str, str]:
    """Serial number and label (directory entry 0x83)."""
    fat, _, heap, _, cluster, serial = struct.unpack_from("<6I", sector, 80)
    unit = 1 << sector[108]
    length = unit << sector[109]
    for _ in range(MAX_ROOT_CLUSTERS):
        if cluster < 2 or cluster >= 0xFFFFFFF7 or length > MAX_CLUSTER:
            break
        entries = _inside(read, size, heap * unit + (cluster - 2) * length, length)
        for position in range(0, length, 32):
            if entries[position] == 0:
                return _serial(serial), ""
            if entries[position] == 0x83:
                label = entries[position + 2 : position + 2 + 2 * min(entries[position + 1], 11)]
                return _serial(serial), label.decode("utf-16-le", "replace")
        cluster = struct.unpack("<I", _inside(read, size, fat * unit + 4 * cluster, 4))[0]
    return _serial(serial), ""


def describe_ntfs(read: Read, size: int, sector: bytes) -> Tuple[str, str]:
    """Serial number and label: attribute 0x60 of the file record 3 ($Volume)."""
    sector_size, per_cluster = struct.unpack_from("<HB", sector, 11)
    cluster = sector_size * per_cluster if per_cluster <= 128 else sector_size << 256 - per_cluster
    mft, _, record_size, _, serial = struct.unpack_from("<QQb3sQ", sector, 0x30)[:5]
    serial = struct.unpack_from("<Q", sector, 0x48)[0]
    length = record_size * cluster if record_size > 0 else 1 << -record_size
    if not 512 <= length <= 65536:
        raise FormatError(what="NTFS boot sector", offset=0x40, reason="file records of {} bytes".format(length))
    record = bytearray(_inside(read, size, mft * cluster + 3 * length, length))
    if record[:4] != b"FILE":
        raise FormatError(what="NTFS file record 3", offset=mft * cluster + 3 * length, reason="no magic 'FILE'")
    label = _ntfs_attribute(record, 0x60)
    return "{:016X}".format(serial), (label or b"").decode("utf-16-le", "replace")


def _ntfs_attribute(record: bytearray, kind: int) -> Optional[bytes]:
    """The resident attribute of that type, with the update sequence put back."""
    start, count = struct.unpack_from("<HH", record, 4)
    for index in range(1, count):
        if start + 2 * index + 2 <= len(record) and 512 * index <= len(record):
            record[512 * index - 2 : 512 * index] = record[start + 2 * index : start + 2 * index + 2]
    position = struct.unpack_from("<H", record, 20)[0]
    while position + 24 <= len(record):
        type_, length, resident = struct.unpack_from("<IIB", record, position)
        if type_ == kind and not resident:
            size, where = struct.unpack_from("<IH", record, position + 16)
            return bytes(record[position + where : position + where + size])
        if type_ == 0xFFFFFFFF or length < 16:
            return None
        position += length
    return None


def _serial(number: int) -> str:
    return "{:04X}-{:04X}".format(number >> 16, number & 0xFFFF)


def _inside(read: Read, size: int, offset: int, length: int) -> bytes:
    if offset + length > size:
        raise FormatError(what="boot sector", offset=0, reason="it points to byte {} of {}".format(offset + length, size))
    return read(offset, length)
