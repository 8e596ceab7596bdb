"""VHD, the disk image of Virtual PC and Hyper-V: layout, and a reader of fixed and dynamic images.

Layout: Microsoft, "Virtual Hard Disk Image Format Specification", 1.0 (all big-endian). Where real software departs from
it, this follows the software; each such place says so.

    dynamic    | footer | header | BAT .. | bitmap | data 2 MiB | .. | bitmap | data | footer |
    fixed      | data ...                                                             | footer |
"""

import struct
import sys
import time
import uuid
from array import array
from typing import BinaryIO, Iterator, List, NamedTuple, Optional, Tuple, Union

from ..errors import FormatError, SourceReadError
from ..model import Extent

SECTOR = 512
BLOCK_SIZE = 2 << 20  # bytes; what every known writer uses
ABSENT = 0xFFFFFFFF  # in the BAT
MAX_SIZE = 2040 << 30  # bytes; Hyper-V's limit, qemu refuses more as well
MAX_BLOCKS = 1 << 24  # entries that are read of a table: 32 TiB in blocks of 2 MiB
FIXED, DYNAMIC, DIFFERENCING = 2, 3, 4
EPOCH = 946684800  # 2000-01-01 UTC as Unix seconds
NONE = 0xFFFFFFFFFFFFFFFF  # an offset that leads nowhere; the specification's 0xFFFFFFFF is an error, all writers use this
COOKIE, HEADER_COOKIE = b"conectix", b"cxsparse"
VERSION = 0x00010000

# qemu takes the size from the CHS geometry, up to one cylinder too small, unless the creator is one that it knows to mean
# the current size (block/vpc.c); with 'win ' qemu 7.2 gave back 104857600 for 100 MiB, with an id of our own 104761344.
CREATOR = b"win "
CREATOR_VERSION = 0x000A0000  # what Windows 10 writes
CREATOR_OS = b"Wi2k"

# cookie, features, version, data offset, time, creator, its version, its OS, original size, current size, cylinders, heads,
# sectors, type, checksum, UUID, saved state
_FOOTER = struct.Struct(">8sIIQI4sI4sQQHBBII16sB427x")
# cookie, data offset, BAT offset, version, entries, block size, checksum, parent UUID, parent time, reserved, parent name,
# parent locators
_HEADER = struct.Struct(">8sQQIIII16sII512s192s256x")
assert _FOOTER.size == 512 and _HEADER.size == 1024
_FOOTER_SUM, _HEADER_SUM = 64, 36  # offsets of the checksums


class Footer(NamedTuple):
    data_offset: int
    created: int  # Unix seconds
    creator: bytes
    size: int  # bytes of the disk ("current size")
    geometry: Tuple[int, int, int]
    type: int
    uuid: bytes
    saved_state: int = 0


class DynamicHeader(NamedTuple):
    bat_offset: int
    entries: int
    block_size: int


def checksum(data: Union[bytes, bytearray], position: int) -> int:
    """One's complement of the sum of all bytes; the four at ``position`` hold it and do not count."""
    return ~(sum(data) - sum(data[position : position + 4])) & 0xFFFFFFFF


def geometry(sectors: int) -> Tuple[int, int, int]:
    """Cylinders, heads, sectors per track (specification, appendix "CHS Calculation"). Their product is at most ``sectors``."""
    sectors = min(sectors, 65535 * 16 * 255)
    if sectors >= 65535 * 16 * 63:
        per_track, heads = 255, 16
        cylinders_heads = sectors // per_track
    else:
        per_track = 17
        cylinders_heads = sectors // per_track
        heads = max(4, -(-cylinders_heads // 1024))
        if cylinders_heads >= heads * 1024 or heads > 16:
            per_track, heads = 31, 16
            cylinders_heads = sectors // per_track
        if cylinders_heads >= heads * 1024:
            per_track, heads = 63, 16
            cylinders_heads = sectors // per_track
    return cylinders_heads // heads, heads, per_track


def new_footer(size: int, dynamic: bool) -> Footer:
    """The footer of a new disk of ``size`` bytes, a multiple of 512."""
    return Footer(
        data_offset=SECTOR if dynamic else NONE,
        created=int(time.time()),
        creator=CREATOR,
        size=size,
        geometry=geometry(size // SECTOR),
        type=DYNAMIC if dynamic else FIXED,
        uuid=uuid.uuid4().bytes,
    )


def pack_footer(footer: Footer) -> bytes:
    """512 bytes. The time is never below 0 or past the field's end in 2136."""
    created = min(max(0, footer.created - EPOCH), 0xFFFFFFFF)
    raw = bytearray(_FOOTER.pack(
        COOKIE, 2, VERSION, footer.data_offset, created, footer.creator, CREATOR_VERSION, CREATOR_OS,
        footer.size, footer.size, footer.geometry[0], footer.geometry[1], footer.geometry[2],
        footer.type, 0, footer.uuid, footer.saved_state,
    ))  # fmt: skip
    struct.pack_into(">I", raw, _FOOTER_SUM, checksum(raw, _FOOTER_SUM))
    return bytes(raw)


def pack_header(header: DynamicHeader) -> bytes:
    """1024 bytes."""
    raw = bytearray(_HEADER.pack(
        HEADER_COOKIE, NONE, header.bat_offset, VERSION, header.entries, header.block_size, 0,
        bytes(16), 0, 0, bytes(512), bytes(192),
    ))  # fmt: skip
    struct.pack_into(">I", raw, _HEADER_SUM, checksum(raw, _HEADER_SUM))
    return bytes(raw)


def unpack_footer(raw: bytes, offset: int) -> Footer:
    """``offset``: where it was read, for messages. Raises FormatError: no cookie, wrong checksum, unknown version or type."""
    (cookie, _, version, data_offset, created, creator, _, _, _, size, cylinders, heads, sectors, kind, stored, own, saved) = (
        _FOOTER.unpack(raw)
    )
    if cookie != COOKIE:
        raise FormatError(what="VHD footer", offset=offset, reason="no cookie 'conectix'")
    if checksum(raw, _FOOTER_SUM) != stored:
        reason = "its checksum is {:#010x}, not {:#010x}".format(checksum(raw, _FOOTER_SUM), stored)
        raise FormatError(what="VHD footer", offset=offset, reason=reason)
    if version >> 16 != 1 or kind not in (FIXED, DYNAMIC, DIFFERENCING):
        raise FormatError(what="VHD footer", offset=offset, reason="version {:#x}, disk type {}".format(version, kind))
    return Footer(data_offset, created + EPOCH, creator, size, (cylinders, heads, sectors), kind, own, saved)


def unpack_header(raw: bytes, offset: int) -> DynamicHeader:
    """Raises FormatError as :func:`unpack_footer`, and for a block size that is no power of two."""
    cookie, _, table, version, entries, block_size, stored = _HEADER.unpack(raw)[:7]
    reason = ""
    if cookie != HEADER_COOKIE:
        reason = "no cookie 'cxsparse'"
    elif checksum(raw, _HEADER_SUM) != stored:
        reason = "its checksum is {:#010x}, not {:#010x}".format(checksum(raw, _HEADER_SUM), stored)
    elif version >> 16 != 1:
        reason = "version {:#x}".format(version)
    elif not 4096 <= block_size <= 1 << 28 or block_size & block_size - 1:
        reason = "blocks of {} bytes".format(block_size)
    if reason:
        raise FormatError(what="VHD dynamic header", offset=offset, reason=reason)
    return DynamicHeader(table, entries, block_size)


def bitmap_size(block_size: int) -> int:
    """Bytes of the sector bitmap in front of a block: a bit a sector, whole sectors."""
    return -(-block_size // SECTOR // 8 // SECTOR) * SECTOR


def pack_bat(entries: "array[int]") -> bytes:
    """Table entries as they are stored."""
    swapped = array("I", entries)
    if sys.byteorder == "little":
        swapped.byteswap()
    return swapped.tobytes()


def sector_runs(bitmap: bytes, first: int, last: int, present: bool = True) -> Iterator[Tuple[int, int]]:
    """Runs ``low .. high`` of sectors of ``first .. last`` that the bitmap of their block has, or has not."""
    bits = "{:0{}b}".format(int.from_bytes(bitmap, "big"), len(bitmap) * 8)
    one, other = "10" if present else "01"
    low = bits.find(one, first, last)
    while low >= 0:
        high = bits.find(other, low, last)
        high = last if high < 0 else high
        yield low, high
        low = bits.find(one, high, last)


class VhdReader:
    """A fixed or dynamic VHD. ``file`` is seekable; not for several threads at a time.

    Every checksum and every table entry is checked when it is opened. If the footer at the end is damaged or was never
    written, the copy at the start serves, as far as there is one. Raises FormatError, also for differencing disks (which
    need their parent) and disks with a saved machine state (whose file systems are not consistent).

    ``size`` is the current size of the footer. Virtual PC shows up to one cylinder less (see CREATOR).
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.file_size = file.seek(0, 2)
        self.footer, self.footer_bytes = self._find_footer()
        if self.footer.type == DIFFERENCING:
            self._refuse("it is a differencing disk: merge it with its parent first")
        if self.footer.saved_state:
            self._refuse("a machine state was saved with it: start that machine and shut it down first")
        self.size = self.footer.size
        if self.size % SECTOR or not 0 < self.size <= 1 << 50:
            self._refuse("a disk of {} bytes".format(self.size))
        self.header: Optional[DynamicHeader] = None
        self.block_size = 0
        self.bitmap_size = 0
        self.bat: "array[int]" = array("I")  # as far as the disk reaches; sector numbers in the file
        self._bitmap = -1, b""  # the last one that was read
        if self.footer.type == DYNAMIC:
            self._open_dynamic()
        elif self.size + SECTOR - 1 > self.file_size:  # a footer of 511 bytes is legal in old files
            self._refuse("a fixed disk of {} bytes in a file of {}".format(self.size, self.file_size))

    def read(self, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes of the disk. Raises FormatError past the end, SourceReadError."""
        if offset < 0 or length < 0 or offset + length > self.size:
            self._refuse("{} bytes wanted at byte {} of a disk of {}".format(length, offset, self.size))
        if self.footer.type == FIXED:
            return self._at(offset, length)
        parts: List[bytes] = []
        end = offset + length
        while offset < end:
            stop = min(end, offset - offset % self.block_size + self.block_size)
            position = offset
            for start, piece in self._present(offset // self.block_size, offset, stop):
                parts.append(bytes(start - position))
                block, inside = divmod(start, self.block_size)
                parts.append(self._at(self.bat[block] * SECTOR + self.bitmap_size + inside, piece))
                position = start + piece
            parts.append(bytes(stop - position))
            offset = stop
        return b"".join(parts)

    def extents(self) -> Iterator[Extent]:
        """What has a place in the file, in order; everything else reads as zeros. Neighbours are not joined."""
        if self.footer.type == FIXED:
            yield Extent(0, self.size)
            return
        for block, sector in enumerate(self.bat):
            if sector != ABSENT:
                start = block * self.block_size
                for offset, length in self._present(block, start, min(start + self.block_size, self.size)):
                    yield Extent(offset, length)

    def bitmap(self, block: int) -> bytes:
        """The sector bitmap of a present block, most significant bit first."""
        if self._bitmap[0] != block:
            self._bitmap = block, self._at(self.bat[block] * SECTOR, self.bitmap_size)
        return self._bitmap[1]

    def _present(self, block: int, start: int, end: int) -> Iterator[Tuple[int, int]]:
        """(offset, length) of what is in the file of ``start .. end``, which lies in one block."""
        if self.bat[block] == ABSENT or start == end:
            return
        bitmap = self.bitmap(block)
        sectors = self.block_size // SECTOR
        if bitmap.count(b"\xff") * 8 >= sectors:
            yield start, end - start
            return
        base = block * self.block_size
        first, last = (start - base) // SECTOR, -(-(end - base) // SECTOR)
        for low, high in sector_runs(bitmap, first, last):
            low, high = max(start, base + low * SECTOR), min(end, base + high * SECTOR)
            yield low, high - low

    def _find_footer(self) -> Tuple[Footer, bytes]:
        if self.file_size < SECTOR:
            self._refuse("the file has {} bytes only".format(self.file_size))
        end = self.file_size - SECTOR
        problem: Optional[FormatError] = None
        for offset, length in ((end, SECTOR), (end + 1, SECTOR - 1), (0, SECTOR)):  # before Virtual PC 2004: 511 bytes
            raw = self._at(offset, length)
            if problem is not None and raw[:8] != COOKIE:
                continue
            try:
                raw += bytes(SECTOR - length)
                footer = unpack_footer(raw, offset)
            except FormatError as error:
                problem = problem or error
                continue
            if offset or footer.type != FIXED:
                return footer, raw
        raise problem if problem else FormatError(what="VHD footer", offset=end, reason="there is none")

    def _open_dynamic(self) -> None:
        where = self.footer.data_offset
        if where % SECTOR or where + _HEADER.size > self.file_size:
            self._refuse("a header at byte {} in a file of {}".format(where, self.file_size))
        self.header = header = unpack_header(self._at(where, _HEADER.size), where)
        blocks = -(-self.size // header.block_size)
        if blocks > header.entries or blocks > MAX_BLOCKS:
            self._refuse("{} blocks needed, its table has {} entries".format(blocks, header.entries), where)
        if header.bat_offset % SECTOR or header.bat_offset + 4 * blocks > self.file_size:
            self._refuse("a table at byte {} in a file of {}".format(header.bat_offset, self.file_size), where)
        self.block_size = header.block_size
        self.bitmap_size = bitmap_size(header.block_size)
        self.bat = array("I", self._at(header.bat_offset, 4 * blocks))
        if sys.byteorder == "little":
            self.bat.byteswap()
        # a block may lie anywhere but over another one or over the structures in front
        length = (self.bitmap_size + self.block_size) // SECTOR
        taken = [(0, 1), (where // SECTOR, 2), (header.bat_offset // SECTOR, -(-4 * blocks // SECTOR))]
        taken += [(sector, length) for sector in self.bat if sector != ABSENT]
        taken.sort()
        for (sector, count), (following, _) in zip(taken, taken[1:]):
            if sector + count > following:
                self._refuse("two structures at sectors {} and {} of the file overlap".format(sector, following), where)
        if (taken[-1][0] + taken[-1][1]) * SECTOR > self.file_size:
            reason = "a block at byte {} ends outside the file of {} bytes".format(taken[-1][0] * SECTOR, self.file_size)
            self._refuse(reason, header.bat_offset)

    def _at(self, offset: int, length: int) -> bytes:
        try:
            self._file.seek(offset)
            data = self._file.read(length)
        except OSError as error:
            raise SourceReadError(disk="VHD file", offset=offset, length=length, reason=error.strerror or str(error))
        if len(data) != length:
            raise SourceReadError(
                disk="VHD file", offset=offset, length=length, reason="it ended after {} bytes".format(len(data))
            )
        return data

    def _refuse(self, reason: str, offset: int = 0) -> None:
        raise FormatError(what="VHD", offset=offset, reason=reason)
