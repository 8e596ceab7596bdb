"""The superblock of ext2, ext3 and ext4, every number of it checked against the others.

Layout: https://docs.kernel.org/filesystems/ext4/globals.html#super-block (all little-endian).
"""

import struct
from typing import Any, Dict, NamedTuple, NoReturn, Tuple

from ..errors import FormatError
from .crc import crc32c
from .reading import Read

OFFSET = 1024  # of the superblock, whatever the block size
MAGIC = 0xEF53

COMPAT_HAS_JOURNAL, COMPAT_SPARSE_SUPER2 = 0x4, 0x200
INCOMPAT_RECOVER, INCOMPAT_JOURNAL_DEV, INCOMPAT_META_BG = 0x4, 0x8, 0x10
INCOMPAT_64BIT, INCOMPAT_FLEX_BG, INCOMPAT_CSUM_SEED = 0x80, 0x200, 0x2000
RO_SPARSE_SUPER, RO_GDT_CSUM, RO_BIGALLOC, RO_METADATA_CSUM = 0x1, 0x10, 0x200, 0x400

# Features whose meaning for the block bitmaps is known: none but those above has any. An unknown bit may change it, as
# bigalloc, a mere ro_compat feature, once did; so such a volume is refused here and copied whole.
KNOWN_INCOMPAT = 0x2 | 0x4 | 0x10 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x1000 | 0x2000 | 0x4000 | 0x8000 | 0x10000 | 0x20000
KNOWN_RO = 0x1 | 0x2 | 0x4 | 0x8 | 0x10 | 0x20 | 0x40 | 0x100 | 0x200 | 0x400 | 0x1000 | 0x2000 | 0x4000 | 0x8000 | 0x10000
EXT2_INCOMPAT, EXT3_INCOMPAT, EXT3_RO = 0x2 | 0x10, 0x2 | 0x4 | 0x10, 0x1 | 0x2 | 0x4

_FIELDS = (
    ("inodes_count", "I"), ("blocks_lo", "I"), ("reserved_lo", "I"), ("free_blocks_lo", "I"), ("free_inodes", "I"),
    ("first_data_block", "I"), ("log_block_size", "I"), ("log_cluster_size", "I"),
    ("blocks_per_group", "I"), ("clusters_per_group", "I"), ("inodes_per_group", "I"),
    ("times", "8s"), ("mount_counts", "4s"), ("magic", "H"), ("state", "H"), ("errors", "H"), ("minor_rev", "H"),
    ("check_times", "8s"), ("creator_os", "I"), ("rev_level", "I"), ("reserved_ids", "4s"), ("first_ino", "I"),
    ("inode_size", "H"), ("block_group", "H"), ("compat", "I"), ("incompat", "I"), ("ro_compat", "I"),
    ("uuid", "16s"), ("label", "16s"), ("last_mounted", "64s"), ("algorithms", "4s"), ("prealloc", "2s"),
    ("reserved_gdt_blocks", "H"), ("journal", "28s"), ("hash_seed", "16s"), ("hash", "2s"), ("desc_size", "H"),
    ("mount_options", "I"), ("first_meta_bg", "I"), ("mkfs_time", "I"), ("journal_blocks", "68s"),
    ("blocks_hi", "I"), ("reserved_hi", "I"), ("free_blocks_hi", "I"), ("extra_isize", "4s"), ("flags", "I"),
    ("raid_mmp", "16s"), ("log_groups_per_flex", "B"), ("checksum_type", "B"), ("counters", "214s"),
    ("backup_group_0", "I"), ("backup_group_1", "I"), ("encryption", "28s"), ("checksum_seed", "I"),
    ("reserved", "392s"), ("checksum", "I"),
)  # fmt: skip
_LAYOUT = struct.Struct("<" + "".join(code for _, code in _FIELDS))
assert _LAYOUT.size == 1024


class Superblock(NamedTuple):
    """What the rest needs of it; blocks are counted from the start of the volume."""

    kind: str  # "ext2" "ext3" "ext4", as blkid tells them apart
    uuid: bytes
    label: bytes  # as stored, without the padding
    block_size: int  # bytes
    blocks: int
    free_blocks: int  # as the superblock has it: stale while mounted
    first_data_block: int
    cluster_ratio: int  # blocks per bit of a bitmap; more than 1 only with bigalloc
    blocks_per_group: int
    inodes_per_group: int
    inode_table_blocks: int  # per group
    desc_size: int  # bytes of a group descriptor
    reserved_gdt_blocks: int
    first_meta_bg: int
    backup_groups: Tuple[int, int]  # sparse_super2
    compat: int
    incompat: int
    ro_compat: int
    checksum_seed: int  # start value of metadata checksums
    needs_recovery: bool  # the journal has to be replayed
    clean: bool  # unmounted cleanly and no error recorded

    @property
    def group_count(self) -> int:
        return -(-(self.blocks - self.first_data_block) // self.blocks_per_group)


def superblock(read: Read, size: int) -> Superblock:
    """The superblock of the volume of ``size`` bytes, every number checked against the others.

    Raises FormatError: not ext2/3/4, damaged, a field that contradicts the volume, or an unknown feature.
    """
    if size < OFFSET + _LAYOUT.size:
        raise FormatError(what="ext superblock", offset=OFFSET, reason="the volume has {} bytes only".format(size))
    raw = read(0, OFFSET + _LAYOUT.size)[OFFSET:]
    field: Dict[str, Any] = dict(zip((name for name, _ in _FIELDS), _LAYOUT.unpack(raw)))
    if field["magic"] != MAGIC:
        _refuse("no magic number 0xef53 but {:#x}".format(field["magic"]))
    compat, incompat, ro_compat = (field[name] if field["rev_level"] else 0 for name in ("compat", "incompat", "ro_compat"))
    if incompat & INCOMPAT_JOURNAL_DEV:
        _refuse("it is the external journal of another volume")
    if incompat & ~KNOWN_INCOMPAT or ro_compat & ~KNOWN_RO:
        _refuse("unknown features: incompat {:#x}, ro_compat {:#x}".format(incompat & ~KNOWN_INCOMPAT, ro_compat & ~KNOWN_RO))
    if ro_compat & RO_METADATA_CSUM:
        if field["checksum_type"] != 1:
            _refuse("unknown checksum type {}".format(field["checksum_type"]))
        if crc32c(raw[:-4]) != field["checksum"]:
            _refuse("its checksum is {:#010x}, not {:#010x}".format(crc32c(raw[:-4]), field["checksum"]))

    if field["log_block_size"] > 6:
        _refuse("block size 2^{}".format(10 + field["log_block_size"]))
    block_size = 1024 << field["log_block_size"]
    wide = incompat & INCOMPAT_64BIT
    blocks = field["blocks_lo"] | (field["blocks_hi"] << 32 if wide else 0)
    ratio = 1
    if ro_compat & RO_BIGALLOC:
        if not field["log_block_size"] <= field["log_cluster_size"] <= 20:
            _refuse("cluster size 2^{}".format(10 + field["log_cluster_size"]))
        ratio = 1 << field["log_cluster_size"] - field["log_block_size"]
    desc_size = field["desc_size"] if wide else 32
    if not wide and field["desc_size"] not in (0, 32):  # one lost feature bit would pair each bitmap with a wrong group
        _refuse("group descriptors of {} bytes without the feature 64bit".format(field["desc_size"]))
    if wide and (not 64 <= desc_size <= min(block_size, 1024) or desc_size & desc_size - 1):
        _refuse("group descriptors of {} bytes".format(desc_size))
    first = field["first_data_block"]
    # ext2fs_open2(): block 0 is the boot block of 1 KiB, and belongs to no group, unless clusters are larger than it
    if first > 1 or first != (1 if block_size == 1024 and ratio == 1 else 0):
        _refuse("first data block {} with blocks of {} bytes".format(first, block_size))
    if blocks <= first or blocks * block_size > size:
        _refuse("{} blocks of {} bytes in a volume of {} bytes".format(blocks, block_size, size))
    per_group = field["blocks_per_group"]
    clusters = per_group // ratio
    # mke2fs(8) -g: a multiple of 8, at least 256, and one bitmap block has to hold the bits of a group
    if per_group % ratio or clusters % 8 or not 256 <= clusters <= 8 * block_size:
        _refuse("{} blocks per group, {} a cluster".format(per_group, ratio))
    if ro_compat & RO_BIGALLOC and clusters != field["clusters_per_group"]:
        _refuse("{} blocks but {} clusters per group".format(per_group, field["clusters_per_group"]))
    inode_size = field["inode_size"] if field["rev_level"] else 128
    if inode_size < 128 or inode_size > block_size or inode_size & inode_size - 1:
        _refuse("inodes of {} bytes".format(inode_size))
    inodes = field["inodes_per_group"]
    if inodes == 0 or inodes > 8 * block_size:
        _refuse("{} inodes per group".format(inodes))
    groups = -(-(blocks - first) // per_group)
    if groups * inodes != field["inodes_count"]:
        _refuse("{} inodes in {} groups of {}".format(field["inodes_count"], groups, inodes))
    if field["reserved_gdt_blocks"] > block_size // 4:
        _refuse("{} reserved descriptor blocks".format(field["reserved_gdt_blocks"]))
    if incompat & INCOMPAT_META_BG and field["first_meta_bg"] > -(-groups * desc_size // block_size):
        _refuse("first meta block group {} of {} groups".format(field["first_meta_bg"], groups))

    return Superblock(
        kind=_kind(compat, incompat, ro_compat),
        uuid=field["uuid"],
        label=field["label"].split(b"\0")[0],
        block_size=block_size,
        blocks=blocks,
        free_blocks=field["free_blocks_lo"] | (field["free_blocks_hi"] << 32 if wide else 0),
        first_data_block=first,
        cluster_ratio=ratio,
        blocks_per_group=per_group,
        inodes_per_group=inodes,
        inode_table_blocks=-(-inodes * inode_size // block_size),
        desc_size=desc_size,
        reserved_gdt_blocks=field["reserved_gdt_blocks"],
        first_meta_bg=field["first_meta_bg"],
        backup_groups=(field["backup_group_0"], field["backup_group_1"]),
        compat=compat,
        incompat=incompat,
        ro_compat=ro_compat,
        checksum_seed=field["checksum_seed"] if incompat & INCOMPAT_CSUM_SEED else crc32c(field["uuid"]),
        needs_recovery=bool(incompat & INCOMPAT_RECOVER),
        clean=field["state"] & 3 == 1,
    )


def _kind(compat: int, incompat: int, ro_compat: int) -> str:
    """As libblkid/src/superblocks/ext.c: ext2 has no journal, ext3 has one and nothing that ext3 did not know."""
    if not compat & COMPAT_HAS_JOURNAL and not incompat & ~EXT2_INCOMPAT and not ro_compat & ~EXT3_RO:
        return "ext2"
    if compat & COMPAT_HAS_JOURNAL and not incompat & ~EXT3_INCOMPAT and not ro_compat & ~EXT3_RO:
        return "ext3"
    return "ext4"


def _refuse(reason: str) -> NoReturn:
    raise FormatError(what="ext superblock", offset=OFFSET, reason=reason)
