"""VHD images, fixed and dynamic, written so that Hyper-V, qemu and libvhdi read the source's size to the byte.

    dynamic   | footer copy | header | BAT     | .. bitmap | data 2 MiB | .. bitmap | data 2 MiB | footer |
              0             512      4096                  ^ 4 KiB aligned                       ^ last

A new dynamic file has its front part first and blocks are added behind, their table entries after them: a file whose writer
was killed opens by the footer copy. Data begins on 4 KiB, its bitmap in the 512 bytes before: the layout of Windows 10.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from pathlib import Path

from ...errors import ImageError
from ...formats import vhd
from ...formats.ranges import merge, shift, split
from ...formats.vhd import ABSENT, BLOCK_SIZE, SECTOR, DynamicHeader, VhdReader
from ...model import Extent
from .bounds import check
from .hostfile import HostFile

ALIGN = 4096
BAT_OFFSET = 4096  # behind the header, and on a page of its own so that it can be rewritten without its neighbours
GROW = 16  # blocks that the file is lengthened by at a time
PER_SECTOR = SECTOR // 4  # entries of the table
STALE = 32  # blocks (64 MiB) that may be in the file and not yet in its table


def create(path: Path, size: int, dynamic: bool) -> DynamicVhd | FixedVhd:
    """An empty image of ``size`` bytes, rounded up to whole sectors. Raises ImageError above 2040 GiB, HostDiskFull."""
    size += -size % SECTOR
    if size > vhd.MAX_SIZE:
        reason = f"a disk of {size} bytes is larger than a VHD may be ({vhd.MAX_SIZE} bytes, 2040 GiB); use --format raw"
        raise ImageError(path=str(path), reason=reason)
    if size == 0:
        raise ImageError(path=str(path), reason="a disk of 0 bytes")
    file = HostFile(path, create=True)
    footer = vhd.pack_footer(vhd.new_footer(size, dynamic))
    try:
        if not dynamic:
            file.reserve(size + SECTOR)
            return FixedVhd(file, footer, size, changed=True)
        entries = -(-size // BLOCK_SIZE)
        header = vhd.DynamicHeader(BAT_OFFSET, entries, BLOCK_SIZE)
        table = array("I", [ABSENT]) * entries
        padding = array("I", [ABSENT]) * (-entries % PER_SECTOR)
        file.write(BAT_OFFSET, vhd.pack_bat(table), vhd.pack_bat(padding))
        file.write(0, footer, vhd.pack_header(header))
        return DynamicVhd(file, footer, size, header, table, changed=True)
    except BaseException:
        file.close()
        path.unlink()
        raise


def open_vhd(path: Path, writable: bool) -> DynamicVhd | FixedVhd:
    """An image that exists. Raises FormatError if it is damaged, ImageError."""
    file = HostFile(path, writable)
    try:
        with os.fdopen(os.dup(file.fd), "rb") as stream:
            reader = VhdReader(stream)
        if reader.header is None:
            return FixedVhd(file, reader.footer_bytes, reader.size)
        if writable and file.read(0, SECTOR) != reader.footer_bytes:
            file.write(0, reader.footer_bytes)  # while blocks are added this copy is the only one
        return DynamicVhd(file, reader.footer_bytes, reader.size, reader.header, reader.bat)
    except BaseException:
        file.close()
        raise


class FixedVhd:
    """The bytes of the disk, then the footer. All room is reserved when it is created."""

    def __init__(self, file: HostFile, footer: bytes, size: int, changed: bool = False) -> None:
        self._file = file
        self._footer = footer
        self._changed = changed  # the footer has to be written
        self.size = size

    def write(self, offset: int, data: bytes | memoryview) -> None:
        check(self._file.path, self.size, offset, len(data))
        self._file.write(offset, data)

    def zero(self, offset: int, length: int) -> None:
        check(self._file.path, self.size, offset, length)
        for extent in list(self._file.data(offset, offset + length)):
            self._file.zero_range(extent.offset, extent.length)

    def read(self, offset: int, length: int) -> bytes:
        check(self._file.path, self.size, offset, length)
        return self._file.read(offset, length)

    def allocated(self) -> Iterator[Extent]:
        return self._file.data(0, self.size)

    def flush(self) -> None:
        self._complete()
        self._file.sync()

    def close(self) -> None:
        try:
            if not self._file.closed:
                self._complete()
        finally:
            self._file.close()

    def _complete(self) -> None:
        if self._changed:
            self._file.write(self.size, self._footer)
            self._changed = False


class DynamicVhd:
    """Blocks get their place in the file when something is first written to them, and keep it."""

    def __init__(
        self, file: HostFile, footer: bytes, size: int, header: DynamicHeader, bat: array[int], changed: bool = False
    ) -> None:
        self._file = file
        self._footer = footer
        self._bat_offset = header.bat_offset
        self._bat = bat
        self._block_size = header.block_size
        self._bitmap = b"\xff" * vhd.bitmap_size(header.block_size)
        self._full = bytearray(len(bat))  # 1: its bitmap is known to be all ones
        length = len(self._bitmap) + header.block_size
        ends = [sector * SECTOR + length for sector in bat if sector != ABSENT]
        table_end = header.bat_offset + -(-len(bat) // PER_SECTOR) * SECTOR
        self._end = max([*ends, table_end, 512 + 1024])  # of what is in use in the file
        self._length: int | None = None  # of the file; None: what lies past _end has to be cut off first
        self._stale: set[int] = set()  # sectors of the table that differ from the file's
        self._fresh = 0  # blocks that the file's table lacks
        self._changed = changed  # the footer at the end is missing
        self.size = size

    def write(self, offset: int, data: bytes | memoryview) -> None:
        check(self._file.path, self.size, offset, len(data))
        view = memoryview(data)
        while view:
            block, inside = divmod(offset, self._block_size)
            piece = view[: self._block_size - inside]
            if self._bat[block] == ABSENT:
                self._allocate(block, inside, piece)
            else:
                self._settle(block)
                self._file.write(self._data(block) + inside, piece)
            offset += len(piece)
            view = view[len(piece) :]

    def zero(self, offset: int, length: int) -> None:
        check(self._file.path, self.size, offset, length)
        for piece in split(Extent(offset, length), self._block_size):
            block, inside = divmod(piece.offset, self._block_size)
            if self._bat[block] != ABSENT:
                self._settle(block)
                self._file.punch(self._data(block) + inside, piece.length)

    def read(self, offset: int, length: int) -> bytes:
        check(self._file.path, self.size, offset, length)
        parts = []
        for piece in split(Extent(offset, length), self._block_size):
            block, inside = divmod(piece.offset, self._block_size)
            if self._bat[block] == ABSENT:
                parts.append(bytes(piece.length))
                continue
            data = self._file.read(self._data(block) + inside, piece.length)
            for low, high in self._holes(block):
                low, high = max(low - inside, 0), min(high - inside, piece.length)
                if low < high:
                    data = data[:low] + bytes(high - low) + data[high:]
            parts.append(data)
        return b"".join(parts)

    def allocated(self) -> Iterator[Extent]:
        return merge(self._allocated())

    def _allocated(self) -> Iterator[Extent]:
        for block, sector in enumerate(self._bat):
            if sector != ABSENT:
                start, data = block * self._block_size, self._data(block)
                length = min(self._block_size, self.size - start)
                yield from shift(self._file.data(data, data + length), start - data)

    def flush(self) -> None:
        if self._changed:
            self._file.sync()  # blocks before the table that leads to them
        self._complete()
        self._file.sync()

    def close(self) -> None:
        try:
            if not self._file.closed:
                self._complete()
        finally:
            self._file.close()

    def _data(self, block: int) -> int:
        return self._bat[block] * SECTOR + len(self._bitmap)

    def _allocate(self, block: int, inside: int, data: memoryview) -> None:
        """Give the block its place, with ``data`` at ``inside``; the rest of it reads as zeros."""
        at = self._end + len(self._bitmap)
        at += -at % ALIGN
        end = at + self._block_size
        if self._length is None:  # what a killed writer left behind there would shine through
            self._file.truncate(self._end)
            self._length = self._end
        self._changed = True
        try:
            if end > self._length:
                self._length = end + (GROW - 1) * (self._block_size + ALIGN)
                self._file.truncate(self._length)
            start = at - len(self._bitmap)
            if inside:
                self._file.write(start, self._bitmap)
                self._file.write(at + inside, data)
            else:
                self._file.write(start, self._bitmap, data)
        except BaseException:
            self._length = None
            raise
        self._end = end
        self._bat[block] = start // SECTOR
        self._full[block] = 1
        self._stale.add(block // PER_SECTOR)
        self._fresh += 1
        if self._fresh >= STALE:
            self._write_table()

    def _settle(self, block: int) -> None:
        """Make the bitmap of a block that was there before all ones, its absent sectors zeros."""
        if self._full[block]:
            return
        holes = self._holes(block)
        for low, high in holes:
            self._file.punch(self._data(block) + low, high - low)
        if holes:
            self._file.write(self._bat[block] * SECTOR, self._bitmap)
        self._full[block] = 1

    def _holes(self, block: int) -> list[tuple[int, int]]:
        """The parts of a present block, in bytes, that its bitmap says are not there."""
        if self._full[block]:
            return []
        bitmap = self._file.read(self._bat[block] * SECTOR, len(self._bitmap))
        runs = vhd.sector_runs(bitmap, 0, self._block_size // SECTOR, present=False)
        holes = [(low * SECTOR, high * SECTOR) for low, high in runs]
        self._full[block] = not holes
        return holes

    def _write_table(self) -> None:
        for sector in sorted(self._stale):
            entries = self._bat[sector * PER_SECTOR : (sector + 1) * PER_SECTOR]
            self._file.write(self._bat_offset + sector * SECTOR, vhd.pack_bat(entries))
        self._stale.clear()
        self._fresh = 0

    def _complete(self) -> None:
        if self._changed:
            self._write_table()
            self._file.truncate(self._end)
            self._file.write(self._end, self._footer)
            self._length = self._end + SECTOR
            self._changed = False
