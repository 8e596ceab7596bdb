"""What a volume holds, by its own superblock, under the names that blkid uses.

Signatures and their places follow util-linux, libblkid/src/superblocks/*.c. What lies below a file system (RAID member,
LVM, LUKS) is asked first: such a volume may show the file system inside it as well.
"""

import struct
import uuid as uuid_
from typing import Callable, List, NamedTuple, Optional, Tuple

from ..errors import FormatError
from ..model import Volume
from . import ext_superblock, fat
from .reading import Read

EDGE = 1 << 20  # bytes read at either end: holds every signature, and must be zeros for "empty"
PAGE_SIZES = (4096, 8192, 16384, 32768, 65536)  # the swap signature ends the first page
HIBERNATED = (b"S1SUSPEND", b"S2SUSPEND", b"ULSUSPEND", b"LINHIB0001", b"\xed\xc3\x02\xe9\x98\x56\xe5\x0c")


class Edges(NamedTuple):
    """Both ends of a volume; the two overlap where it is short."""

    read: Read
    size: int
    head: bytes
    tail: bytes

    def at(self, offset: int, length: int) -> bytes:
        """Those bytes, or zeros as far as they are not in either end."""
        if offset >= 0 and offset + length <= len(self.head):
            return self.head[offset : offset + length]
        start = offset - (self.size - len(self.tail))
        if start >= 0 and start + length <= len(self.tail):
            return self.tail[start : start + length]
        return bytes(length)


def probe(read: Read, size: int) -> Volume:
    """The volume of ``size`` bytes. ``kind`` is "empty" if the first and last MiB are zeros, "unknown" if nothing known is
    found or a superblock contradicts itself (``detail`` says how). Raises SourceReadError only."""
    edges = Edges(read, size, read(0, min(size, EDGE)), read(max(0, size - EDGE), min(size, EDGE)))
    damaged: Optional[Volume] = None
    for detector in DETECTORS:
        try:
            volume = detector(edges)
        except FormatError as error:
            damaged = damaged or Volume("unknown", detail=str(error))
            continue
        if volume is not None and volume.kind != "unknown":
            return volume
        damaged = damaged or volume
    if damaged is not None:
        return damaged
    if not edges.head.strip(b"\0") and not edges.tail.strip(b"\0"):
        return Volume("empty")
    return Volume("unknown")


def boot_sector(sector: bytes, size: int) -> bool:
    """Whether sector 0 of a disk is the boot sector of a file system: FAT, NTFS and exFAT end theirs in 55aa too."""
    return fat.is_ntfs(sector) or fat.is_exfat(sector) or (fat.is_fat(sector) and not fat.has_partition(sector))


def text(raw: bytes) -> str:
    """A label: up to the first NUL, without blanks around it."""
    return raw.split(b"\0")[0].decode("utf-8", "replace").strip()


def dashed(raw: bytes) -> str:
    """A UUID in the order of its bytes; "" for none."""
    return str(uuid_.UUID(bytes=raw)) if any(raw) else ""


class Signature(NamedTuple):
    """A fixed place and fixed bytes. Offsets are absolute; ``uuid`` is 16 bytes, ``label`` (offset, length)."""

    kind: str
    offset: int
    magic: bytes
    uuid: Optional[int] = None
    label: Optional[Tuple[int, int]] = None


BEFORE = (
    Signature("BitLocker", 3, b"-FVE-FS-"),
    Signature("bcache", 4096 + 24, bytes.fromhex("c68573f64e1a45ca8265f57f48ba6d81"), 4096 + 40, (4096 + 72, 32)),
    Signature("bcachefs", 4096 + 24, bytes.fromhex("c68573f666ce90a9d96a60cf803df7ef"), 4096 + 56, (4096 + 72, 32)),
    Signature("ceph_bluestore", 0, b"bluestore block device"),
)
AFTER = (
    Signature("btrfs", 65536 + 0x40, b"_BHRfS_M", 65536 + 0x20, (65536 + 0x12B, 256)),
    Signature("jfs", 32768, b"JFS1", 32768 + 136, (32768 + 152, 16)),
    Signature("reiserfs", 65536 + 52, b"ReIsErFs"),
    Signature("reiserfs", 65536 + 52, b"ReIsEr2Fs", 65536 + 84, (65536 + 100, 16)),
    Signature("reiserfs", 65536 + 52, b"ReIsEr3Fs", 65536 + 84, (65536 + 100, 16)),
    Signature("erofs", 1024, b"\xe2\xe1\xf5\xe0", 1024 + 48, (1024 + 64, 16)),
    Signature("nilfs2", 1024 + 6, b"\x34\x34", 1024 + 152, (1024 + 168, 80)),
    Signature("hfsplus", 1024, b"H+\x00\x04"),
    Signature("hfsplus", 1024, b"HX\x00\x05"),
    Signature("udf", 32769, b"BEA01"),
)


def _by_signature(table: Tuple[Signature, ...]) -> Callable[[Edges], Optional[Volume]]:
    def detect(edges: Edges) -> Optional[Volume]:
        for one in table:
            if edges.at(one.offset, len(one.magic)) == one.magic:
                own = dashed(edges.at(one.uuid, 16)) if one.uuid is not None else ""
                return Volume(one.kind, own, text(edges.at(*one.label)) if one.label else "")
        return None

    return detect


def _raid(edges: Edges) -> Optional[Volume]:
    """Linux md. 1.x: the superblock says where it stands; 0.90: in the last whole 64 KiB but one."""
    for version, offset in (("1.1", 0), ("1.2", 4096), ("1.0", (edges.size - 8192) & ~0xFFF)):
        raw = edges.at(offset, 256)
        magic, major = struct.unpack_from("<II", raw)
        if magic == 0xA92B4EFC and major == 1 and struct.unpack_from("<Q", raw, 144)[0] * 512 == offset:
            return Volume("linux_raid_member", dashed(raw[16:32]), text(raw[32:64]), detail="md {}".format(version))
    offset = (edges.size & ~0xFFFF) - 0x10000
    for order in "<>":
        words = struct.unpack(order + "16I", edges.at(offset, 64))
        if words[0] == 0xA92B4EFC and words[1] == 0:
            own = struct.pack(">4I", words[5], *words[13:16])
            return Volume("linux_raid_member", dashed(own), detail="md 0.90")
    if edges.at(edges.size - 1024, 24) == b"Intel Raid ISM Cfg Sig. ":
        return Volume("isw_raid_member")
    return None


def _lvm(edges: Edges) -> Optional[Volume]:
    for sector in range(4):
        label = edges.at(512 * sector, 512)
        if label[:8] == b"LABELONE" and label[24:32] == b"LVM2 001":
            start = struct.unpack_from("<I", label, 20)[0]
            raw = label[start : start + 32].decode("ascii", "replace")
            cuts = (0, 6, 10, 14, 18, 22, 26, 32)
            return Volume("LVM2_member", "-".join(raw[a:b] for a, b in zip(cuts, cuts[1:])))
    return None


def _luks(edges: Edges) -> Optional[Volume]:
    if edges.at(0, 6) != b"LUKS\xba\xbe":
        return None
    version = struct.unpack(">H", edges.at(6, 2))[0]
    label = text(edges.at(24, 48)) if version == 2 else ""
    return Volume("crypto_LUKS", text(edges.at(168, 40)), label, detail="LUKS{}".format(version))


def _zfs(edges: Edges) -> Optional[Volume]:
    """Four labels of 256 KiB, two at either end, each with 128 KiB of uberblocks; blkid wants four of these as well."""
    end = edges.size & ~0x3FFFF
    for start in (0, 0x40000, end - 0x80000, end - 0x40000):
        ring = edges.at(start + 0x20000, 0x20000)
        for magic in (b"\x0c\xb1\xba\x00\x00\x00\x00\x00", b"\x00\x00\x00\x00\x00\xba\xb1\x0c"):
            if sum(ring[slot : slot + 8] == magic for slot in range(0, 0x20000, 1024)) >= 4:
                pairs = edges.at(start + 0x4000, 0x1C000)
                key = b"\0\0\0\x09pool_guid\0\0\0\0\0\0\x08\0\0\0\x01"  # XDR: length, name, type uint64, one element
                found = pairs.find(key)
                own = str(struct.unpack_from(">Q", pairs, found + len(key))[0]) if found >= 0 else ""
                return Volume("zfs_member", own)
    return None


def _ext(edges: Edges) -> Optional[Volume]:
    if edges.at(1024 + 0x38, 2) != b"\x53\xef":
        return None
    own, label = dashed(edges.at(1024 + 0x68, 16)), text(edges.at(1024 + 0x78, 16))
    if struct.unpack("<I", edges.at(1024 + 0x60, 4))[0] & ext_superblock.INCOMPAT_JOURNAL_DEV:
        return Volume("jbd", own, label)
    try:
        sb = ext_superblock.superblock(edges.read, edges.size)
    except FormatError as error:
        return Volume("unknown", own, label, detail=str(error))
    return Volume(sb.kind, own, label, max(0, sb.blocks - sb.free_blocks) * sb.block_size)


def _swap(edges: Edges) -> Optional[Volume]:
    for page in PAGE_SIZES:
        magic = edges.at(page - 10, 10)
        kept = dashed(edges.at(0x40C, 16)), text(edges.at(0x41C, 16))
        if magic == b"SWAPSPACE2":
            return Volume("swap", *kept)
        if magic == b"SWAP-SPACE":
            return Volume("swap", detail="version 0")
        for signature in HIBERNATED:
            if magic.startswith(signature):
                name = signature.decode("ascii") if signature.isalnum() else "TuxOnIce"
                return Volume("swap", kept[0], kept[1], detail="holds a hibernation image ({})".format(name))
    return None


def _xfs(edges: Edges) -> Optional[Volume]:
    head = edges.at(0, 272)
    if head[:4] != b"XFSB":
        return None
    block, blocks = struct.unpack_from(">IQ", head, 4)
    version, sector = struct.unpack_from(">HH", head, 100)
    free = struct.unpack_from(">Q", head, 144)[0]
    if not 512 <= block <= 65536 or block & block - 1 or not 512 <= sector <= 32768 or not 1 <= version & 15 <= 5:
        raise FormatError(what="xfs superblock", offset=0, reason="blocks of {} bytes, sectors of {}".format(block, sector))
    if blocks * block > edges.size:
        reason = "{} blocks of {} bytes in a volume of {} bytes".format(blocks, block, edges.size)
        raise FormatError(what="xfs superblock", offset=0, reason=reason)
    return Volume("xfs", dashed(head[32:48]), text(head[108:120]), max(0, blocks - free) * block)


def _f2fs(edges: Edges) -> Optional[Volume]:
    if edges.at(1024, 4) != b"\x10\x20\xf5\xf2":
        return None
    label = edges.at(1024 + 124, 1024).decode("utf-16-le", "replace").split("\0")[0]
    return Volume("f2fs", dashed(edges.at(1024 + 108, 16)), label)


def _squashfs(edges: Edges) -> Optional[Volume]:
    if edges.at(0, 4) not in (b"hsqs", b"sqsh"):
        return None
    major = struct.unpack("<H" if edges.at(0, 4) == b"hsqs" else ">H", edges.at(28, 2))[0]
    return Volume("squashfs" if major >= 4 else "squashfs3")


def _iso9660(edges: Edges) -> Optional[Volume]:
    """ECMA-119 8.4: the primary volume descriptor; blkid makes a UUID of its dates (modification, else creation)."""
    if edges.at(32769, 5) != b"CD001":
        return None
    own = ""
    for offset in (32768 + 830, 32768 + 813):
        date = edges.at(offset, 16)
        if date.isdigit() and date.strip(b"0"):
            cuts = (0, 4, 6, 8, 10, 12, 14, 16)
            own = "-".join(date[a:b].decode("ascii") for a, b in zip(cuts, cuts[1:]))
            break
    return Volume("iso9660", own, text(edges.at(32768 + 40, 32)))


def _fat(edges: Edges) -> Optional[Volume]:
    sector = edges.at(0, 512)
    for is_it, kind, describe in (
        (fat.is_ntfs, "ntfs", fat.describe_ntfs),
        (fat.is_exfat, "exfat", fat.describe_exfat),
        (fat.is_fat, "vfat", fat.describe_fat),
    ):
        if is_it(sector):
            own, label = describe(edges.read, edges.size, sector)
            return Volume(kind, own, label)
    return None


DETECTORS: List[Callable[[Edges], Optional[Volume]]] = [
    _raid, _lvm, _luks, _by_signature(BEFORE), _zfs, _xfs, _fat, _ext, _swap, _f2fs, _squashfs, _by_signature(AFTER), _iso9660
]  # fmt: skip
