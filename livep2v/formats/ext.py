"""ext2, ext3 and ext4: which blocks are used, group by group.

Layout: https://docs.kernel.org/filesystems/ext4/globals.html (all little-endian). Only what a block bitmap proves to be free
is left out: a group that contradicts itself in any way counts as used, with the reason in ``Group.doubt``.

The bitmaps are true for a file system that is frozen or was unmounted cleanly. ``Superblock.needs_recovery``: blocks may be
allocated in the journal only, so a caller copies such a volume whole unless it is frozen.
"""

import struct
from array import array
from typing import Dict, Iterator, List, NamedTuple, Set, Tuple

from ..model import Extent
from . import ext_superblock as sb_
from .crc import crc16, crc32c
from .ext_superblock import Superblock, superblock
from .ranges import align_out, merge
from .reading import Read

__all__ = ["Group", "Superblock", "groups", "superblock"]

READ = 1 << 20  # bytes; bitmaps and descriptors that lie side by side are read together up to this
BATCH = 1024  # descriptors held at a time, so that memory does not grow with the volume
BLOCK_UNINIT = 2  # flag of a descriptor: the bitmap was never written, it follows from the layout

# block bitmap, inode bitmap, inode table, free blocks, free inodes, directories, flags, exclude bitmap, checksums of the
# two bitmaps, unused inodes, checksum; with 64bit the upper halves follow in the same order
_LOW = struct.Struct("<IIIHHHHIHHHH")
_HIGH = struct.Struct("<IIIHHHHIHHI")
assert _LOW.size == _HIGH.size == 32
_CHECKSUM = 0x1E  # offset of the checksum in a descriptor

# Checksums of bitmaps seen, by their 64 bit hash. The map is read again while the file systems are frozen: then 4 us a bitmap
# matter, 200 us would be 1.6 s a TiB.
KNOWN = 1 << 16
_known: Dict[int, int] = {}

Blocks = Tuple[int, int]  # first block, one past the last


class Group(NamedTuple):
    """One range of the volume, bytes from its start. The groups come in order and cover the volume without a gap."""

    offset: int
    length: int
    used: Tuple[Extent, ...]  # sorted, merged
    metadata: Tuple[Extent, ...]  # what was read to know it: if a write went there meanwhile, ask again
    doubt: str = ""  # why all of it counts as used although the file system may know better


class _Descriptor(NamedTuple):
    block_bitmap: int
    inode_bitmap: int
    inode_table: int
    free: int  # clusters
    flags: int
    bitmap_checksum: int
    where: Extent  # its block of the descriptor table
    intact: bool  # its checksum is right, or there is none


def groups(read: Read, size: int, verify: bool = True) -> Iterator[Group]:
    """The groups of the ext volume of ``size`` bytes.

    With metadata_csum the checksum of each bitmap is computed too (0.2 ms each) unless ``verify`` is off. What lies past the
    last block of the file system comes as a last group, used. Raises FormatError as :func:`superblock`, SourceReadError.
    """
    sb = superblock(read, size)
    layout = _Layout(sb)
    foreign, shared = _survey(read, layout)
    verify = verify and bool(sb.ro_compat & sb_.RO_METADATA_CSUM)
    batch: List[_Descriptor] = []
    number = 0
    for descriptor in _descriptors(read, layout):
        batch.append(descriptor)
        if len(batch) == BATCH or number + len(batch) == sb.group_count:
            for group in _batch(read, layout, number, batch, foreign, shared, verify):
                yield group
            number += len(batch)
            batch = []
    end = sb.blocks * sb.block_size
    if end < size:
        yield Group(end, size - end, (Extent(end, size - end),), ())


class _Layout:
    """Where things are, by arithmetic on the superblock alone."""

    def __init__(self, sb: Superblock) -> None:
        self.sb = sb
        self.per_block = sb.block_size // sb.desc_size  # descriptors in a block
        self.table_blocks = -(-sb.group_count // self.per_block)
        self.meta_bg = bool(sb.incompat & sb_.INCOMPAT_META_BG)
        self.flex_bg = bool(sb.incompat & sb_.INCOMPAT_FLEX_BG)
        self.checked = bool(sb.ro_compat & (sb_.RO_GDT_CSUM | sb_.RO_METADATA_CSUM))  # descriptors have a checksum
        self.super_block = 1 if sb.block_size == 1024 else 0

    def blocks(self, group: int) -> Blocks:
        start = self.sb.first_data_block + group * self.sb.blocks_per_group
        return start, min(start + self.sb.blocks_per_group, self.sb.blocks)

    def group_of(self, block: int) -> int:
        return (block - self.sb.first_data_block) // self.sb.blocks_per_group

    def has_super(self, group: int) -> bool:
        """As ext2fs_bg_has_super()."""
        if group == 0:
            return True
        if self.sb.compat & sb_.COMPAT_SPARSE_SUPER2:
            return group in self.sb.backup_groups
        if group == 1 or not self.sb.ro_compat & sb_.RO_SPARSE_SUPER:
            return True
        for base in (3, 5, 7):
            power = base
            while power < group:
                power *= base
            if power == group:
                return True
        return False

    def descriptor_block(self, index: int) -> int:
        """Block that holds part ``index`` of the descriptor table (ext2fs_descriptor_block_loc2())."""
        if not self.meta_bg or index < self.sb.first_meta_bg:
            return self.super_block + 1 + index
        group = index * self.per_block
        return (self.blocks(group)[0] if group else self.super_block) + self.has_super(group)

    def base(self, group: int, reserved: bool) -> Blocks:
        """Superblock and descriptors at the start of the group, with or without the blocks reserved for more of these."""
        start = self.blocks(group)[0]
        length = int(self.has_super(group))
        if not self.meta_bg or group < self.sb.first_meta_bg * self.per_block:
            if length:
                length += self.sb.first_meta_bg if self.meta_bg else self.table_blocks
                length += self.sb.reserved_gdt_blocks if reserved and not self.meta_bg else 0
        elif group % self.per_block in (0, 1, self.per_block - 1):
            length += 1
        if length and group == 0:
            length += self.super_block - start  # blocks of 1 KiB in clusters: block 0 comes before the superblock
        return start, start + length

    def own(self, descriptor: _Descriptor) -> Tuple[Blocks, Blocks, Blocks]:
        return (
            (descriptor.block_bitmap, descriptor.block_bitmap + 1),
            (descriptor.inode_bitmap, descriptor.inode_bitmap + 1),
            (descriptor.inode_table, descriptor.inode_table + self.sb.inode_table_blocks),
        )


def _descriptors(read: Read, layout: _Layout, check: bool = True) -> Iterator[_Descriptor]:
    """Every group descriptor, in order; ``check``: compute their checksums."""
    sb = layout.sb
    step = 1 if layout.meta_bg else READ // sb.block_size
    wide, size, block_size = sb.desc_size >= 64, sb.desc_size, sb.block_size
    metadata_csum = sb.ro_compat & sb_.RO_METADATA_CSUM  # it wins where the older gdt_csum is set too
    uuid_crc = crc16(sb.uuid)
    group, index = 0, 0
    while index < layout.table_blocks:
        count = min(step, layout.table_blocks - index)
        start = layout.descriptor_block(index) * block_size
        table = read(start, count * block_size)
        for position in range(0, min(count * layout.per_block, sb.group_count - group) * size, size):
            low = _LOW.unpack_from(table, position)
            high = _HIGH.unpack_from(table, position + 32) if wide else (0,) * 11
            intact = True
            if check and layout.checked:
                head, rest = table[position : position + _CHECKSUM], table[position + 32 : position + size]
                where = struct.pack("<I", group)
                if metadata_csum:
                    crc = crc32c(where + head + b"\0\0" + rest, sb.checksum_seed) & 0xFFFF
                else:
                    crc = crc16(where + head + rest, uuid_crc)
                intact = crc == low[11]
            yield _Descriptor(
                block_bitmap=low[0] | high[0] << 32,
                inode_bitmap=low[1] | high[1] << 32,
                inode_table=low[2] | high[2] << 32,
                free=low[3] | high[3] << 16,
                flags=low[6] if layout.checked else 0,
                bitmap_checksum=low[8] | high[8] << 16,
                where=Extent(start + position - position % block_size, block_size),
                intact=intact,
            )
            group += 1
        index += count


def _survey(read: Read, layout: _Layout) -> Tuple[Dict[int, List[Blocks]], Set[int]]:
    """What one descriptor cannot tell of its own group, where flex_bg lets bitmaps and tables lie in any group: the metadata
    of other groups inside groups whose bitmap was never written, and (without checksums) bitmap blocks that two groups claim.
    """
    foreign: Dict[int, List[Blocks]] = {}
    shared: Set[int] = set()
    if not layout.flex_bg:
        return foreign, shared
    if not layout.checked:
        bitmaps = array("Q", sorted(descriptor.block_bitmap for descriptor in _descriptors(read, layout, check=False)))
        shared.update(block for block, following in zip(bitmaps, bitmaps[1:]) if block == following)
        return foreign, shared
    unwritten = bytearray(descriptor.flags & BLOCK_UNINIT for descriptor in _descriptors(read, layout, check=False))
    if not any(unwritten):
        return foreign, shared
    for number, descriptor in enumerate(_descriptors(read, layout, check=False)):
        for start, end in layout.own(descriptor):
            if not layout.sb.first_data_block <= start < end <= layout.sb.blocks:
                continue
            for group in range(layout.group_of(start), layout.group_of(end - 1) + 1):
                if group != number and unwritten[group]:
                    foreign.setdefault(group, []).append((start, end))
    return foreign, shared


def _batch(
    read: Read,
    layout: _Layout,
    first: int,
    batch: List[_Descriptor],
    foreign: Dict[int, List[Blocks]],
    shared: Set[int],
    verify: bool,
) -> Iterator[Group]:
    """The groups of the descriptors ``batch``, of which the first is that of group ``first``."""
    sb = layout.sb
    size = sb.block_size
    run = b""  # bitmaps read together
    run_start = 0  # block of the first
    for index, descriptor in enumerate(batch):
        number = first + index
        start, end = layout.blocks(number)
        metadata = [Extent(sb_.OFFSET, 1024), descriptor.where]
        doubt = _misplaced(layout, number, descriptor, shared)
        used: List[Blocks] = []
        if not doubt and descriptor.flags & BLOCK_UNINIT:
            used = [layout.base(number, True)] + list(layout.own(descriptor)) + foreign.get(number, [])
            used, doubt = _unwritten(sb, start, end, used, descriptor)
        elif not doubt:
            block = descriptor.block_bitmap
            metadata.append(Extent(block * size, size))
            if not run_start <= block < run_start + len(run) // size:
                run_start, count = block, 1
                for other in batch[index + 1 : index + READ // size]:
                    if other.block_bitmap != block + count or block + count >= sb.blocks:
                        break
                    count += 1
                run = read(block * size, count * size)
            bitmap = run[(block - run_start) * size : (block - run_start + 1) * size]
            used, doubt = _written(layout, number, bitmap, descriptor, verify)
        if doubt:
            used = [(start, end)]
        offset = 0 if number == 0 else start * size  # the boot block of 1 KiB belongs to the first
        extents = [Extent(low * size, (high - low) * size) for low, high in used]
        if number == 0 and start:
            extents = list(merge([Extent(0, start * size)] + extents))
        yield Group(offset, end * size - offset, tuple(extents), tuple(metadata), doubt)


def _misplaced(layout: _Layout, number: int, descriptor: _Descriptor, shared: Set[int]) -> str:
    """What is wrong with the descriptor by itself, or ""."""
    if not descriptor.intact:
        return "the checksum of its descriptor is wrong"
    low, high = (layout.sb.first_data_block, layout.sb.blocks) if layout.flex_bg else layout.blocks(number)
    for name, (start, end) in zip(("block bitmap", "inode bitmap", "inode table"), layout.own(descriptor)):
        if not low <= start < end <= high:
            return "its {} at block {} is outside {}..{}".format(name, start, low, high)
    if descriptor.block_bitmap in shared:
        return "its block bitmap at block {} is that of another group as well".format(descriptor.block_bitmap)
    return ""


def _unwritten(sb: Superblock, start: int, end: int, used: List[Blocks], descriptor: _Descriptor) -> Tuple[List[Blocks], str]:
    """Used blocks of a group whose bitmap was never written: those of the layout; the count of free ones must agree."""
    inside = sorted(Extent(max(a, start), min(b, end) - max(a, start)) for a, b in used if max(a, start) < min(b, end))
    whole = list(align_out(inside, sb.cluster_ratio, end))
    clusters = sum(-(-length // sb.cluster_ratio) for _, length in whole)
    free = -(-(end - start) // sb.cluster_ratio) - clusters
    if free != descriptor.free:
        return [], "its bitmap was never written, its layout leaves {} free, it says {}".format(free, descriptor.free)
    return [(offset, offset + length) for offset, length in whole], ""


def _written(layout: _Layout, number: int, bitmap: bytes, descriptor: _Descriptor, verify: bool) -> Tuple[List[Blocks], str]:
    """Used blocks by the bitmap, if nothing contradicts it."""
    sb = layout.sb
    start, end = layout.blocks(number)
    ratio = sb.cluster_ratio
    count = -(-(end - start) // ratio)  # what follows in the bitmap is padding
    bits = "{:0{}b}".format(int.from_bytes(bitmap[: count + 7 >> 3], "little") & (1 << count) - 1, count)[::-1]
    free = bits.count("0")
    if free != descriptor.free:
        return [], "its bitmap has {} free, its descriptor {}".format(free, descriptor.free)
    for low, high in (layout.base(number, False),) + layout.own(descriptor):
        low, high = max(low, start) - start, min(high, end) - start
        if low < high and "0" in bits[low // ratio : (high - 1) // ratio + 1]:
            return [], "blocks {}..{} are free by its bitmap, but hold its metadata".format(low + start, high + start)
    if verify:
        crc = _bitmap_checksum(sb, bitmap)
        if crc != descriptor.bitmap_checksum:
            return [], "the checksum of its bitmap is {:#x}, not {:#x}".format(crc, descriptor.bitmap_checksum)
    used: List[Blocks] = []
    position = bits.find("1")
    while position >= 0:
        stop = bits.find("0", position)
        if stop < 0:
            stop = count
        used.append((start + position * ratio, min(start + stop * ratio, end)))
        position = bits.find("1", stop)
    return used, ""


def _bitmap_checksum(sb: Superblock, bitmap: bytes) -> int:
    """As ext4_block_bitmap_csum_verify(): 16 bits of it where the descriptor has no room for more."""
    data = bitmap[: sb.blocks_per_group // sb.cluster_ratio // 8]
    key = hash((sb.checksum_seed, data))
    crc = _known.get(key)
    if crc is None:
        if len(_known) >= KNOWN:
            _known.clear()
        crc = _known[key] = crc32c(data, sb.checksum_seed)
    return crc if sb.desc_size >= 64 else crc & 0xFFFF
