"""What an initramfs holds: every segment, every entry, the content of the few files that are asked for.

An initramfs is ``("\\0"* | cpio | compressed("\\0"* | cpio)*)*`` (Linux buffer-format.rst; the rules of init/initramfs.c).
Early microcode, modules that are stored uncompressed and the main archive are separate segments, so all have to be read.
Content is unpacked as a stream: memory holds the names and the wanted files, never the unpacked image.
"""
import bz2
import lzma
import posixpath
import re
import zlib
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Set, Tuple

from .. import model
from ..errors import FormatError
from . import cpio, lz4, zstd

MAGICS = (
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x5d\x00\x00", "lzma"),
    (b"\x89LZO\x00\r\n\x1a\n", "lzo"),
    (lz4.MAGIC, "lz4"),
    (zstd.MAGIC, "zstd"),
)
# Where the content itself is another file system image, its modules cannot be seen (dracut's squash and erofs modules).
HIDDEN = re.compile(r"(^|/)(squash-root|squashfs-root|erofs-root)\.img$")
MODULE = re.compile(r"^((?:usr/)?lib/modules/[^/]+)/(?:.*/)?([^/]+)\.ko(?:\.(?:xz|zst|gz))?$")
KINDS = (  # files that only this generator puts in
    ("initramfs-tools", re.compile(r"^(conf/initramfs\.conf|scripts/functions)$")),
    ("dracut", re.compile(r"^(usr/)?lib/(dracut/|initrd-release|dracut-lib\.sh)|^etc/initrd-release$")),
    ("mkinitcpio", re.compile(r"^(buildconfig|init_functions|usr/lib/initcpio/)")),
    ("mkinitfs", re.compile(r"^((usr/)?s?bin/nlplug-findfs|usr/bin/nlplug-findfs)$")),
)
# Drivers of disk controllers: those of real machines and those that a hypervisor can emulate.
STORAGE = frozenset(
    (
        "virtio_blk", "virtio_scsi", "virtio_pci", "ahci", "ata_piix", "nvme", "sd_mod", "megaraid_sas", "mptsas",
        "mptspi", "mpt2sas", "mpt3sas", "vmw_pvscsi", "sym53c8xx", "hv_storvsc", "xen_blkfront", "hpsa", "cciss",
        "smartpqi", "aacraid", "isci", "usb_storage", "uas", "sata_nv", "sata_sil", "sata_via", "pata_acpi",
    )
)
_STEP = 1 << 20  # compressed bytes fed at a time
_PIECE = 1 << 20  # unpacked bytes taken at a time


class Limits(NamedTuple):
    """Bounds on what a hostile image may cost. The largest real ones: Ubuntu 24.04 with all firmware unpacks to about 0.5 GiB
    in 5,000 entries."""

    unpacked: int = 4 << 30
    entries: int = 500000
    wanted: int = 64 << 20  # of one wanted file


class Segment(NamedTuple):
    offset: int  # bytes from the start of the file
    length: int  # to the end of the archive, without zeros behind it
    compression: str  # "none" "gzip" "bzip2" "xz" "lzma" "lz4" "zstd" "lzo"
    unpacked: int  # bytes
    entries: int


class Image(NamedTuple):
    size: int
    segments: Tuple[Segment, ...]
    entries: Dict[str, cpio.Entry]  # the last segment wins, as in the kernel
    files: Dict[str, bytes]  # content of the wanted files
    problem: str = ""  # why not everything could be read, or ""

    @property
    def compression(self) -> str:
        """Compression of the main archive: the segment with the most entries, "none" if there is no segment."""
        main = self.main
        return main.compression if main else "none"

    @property
    def main(self) -> Optional[Segment]:
        return max(self.segments, key=lambda segment: segment.entries) if self.segments else None

    @property
    def kind(self) -> str:
        """Which program made it, from files that only that program puts in."""
        for kind, mark in KINDS:
            if any(mark.match(name) for name in self.entries):
                return kind
        return "unknown"

    @property
    def hidden(self) -> bool:
        """Its content lies in a file system image inside."""
        return any(HIDDEN.search(name) for name in self.entries)

    def modules(self) -> Dict[str, str]:
        """Kernel modules inside: name with "-" as "_" -> path."""
        found = {}
        for name, entry in self.entries.items():
            match = MODULE.match(name)
            if match and not entry.is_directory:
                found[match.group(2).replace("-", "_")] = name
        return found

    def module_folders(self) -> List[str]:
        """Folders that hold modules or their indexes: ["usr/lib/modules/6.1.0-13-amd64"]."""
        folders: Set[str] = set()
        for name in self.entries:
            match = re.match(r"^(?:usr/)?lib/modules/[^/]+(?=/)", name)
            if match:
                folders.add(match.group(0))
        return sorted(folders)

    def resolve(self, path: str) -> str:
        """``path`` with the symbolic links of the image followed in its folders (not in its last part)."""
        done = ""
        left = [part for part in cpio.clean(path).split("/") if part]
        hops = 0
        while left:
            part = left.pop(0)
            here = posixpath.normpath(posixpath.join(done, part)).lstrip("/")
            here = "" if here in (".", "..") or here.startswith("../") else here
            entry = self.entries.get(here)
            if left and entry is not None and entry.is_symlink and hops < 40:
                hops += 1
                if entry.target.startswith("/"):
                    done = ""
                left = [piece for piece in entry.target.split("/") if piece] + left
                continue
            done = here
        return done


class _Gzip:
    """``zlib.decompressobj`` with the interface of the other decompressors."""

    def __init__(self) -> None:
        self._object = zlib.decompressobj(31)
        self._tail = b""

    def decompress(self, data: bytes, max_length: int) -> bytes:
        out = self._object.decompress(self._tail + data, max_length)
        self._tail = self._object.unconsumed_tail
        self._full = len(out) == max_length
        return out

    @property
    def needs_input(self) -> bool:
        return not self._tail and not self._full

    @property
    def eof(self) -> bool:
        return self._object.eof

    @property
    def unused_data(self) -> bytes:
        return self._object.unused_data


def _decompressor(compression: str, offset: int) -> Any:
    if compression == "gzip":
        return _Gzip()
    if compression == "bzip2":
        return bz2.BZ2Decompressor()
    if compression == "xz":
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=256 << 20)
    if compression == "lzma":
        return lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=256 << 20)
    if compression == "zstd" and zstd.available():
        return zstd.Decompressor()
    raise FormatError(what="initramfs", offset=offset, reason="no decoder for {} here".format(compression))


def unpack(data: Any, start: int, compression: str, consumed: List[int]) -> Iterator[bytes]:
    """The content of the compressed stream at byte ``start`` of ``data``, in pieces of about 1 MiB; ``consumed`` then receives
    the offset behind it. Raises FormatError."""
    if compression == "lz4":
        for block in lz4.stream(data, start, None, consumed):
            yield block
        return
    decoder = _decompressor(compression, start)
    at, end = start, len(data)
    try:
        while not decoder.eof:
            feed = bytes(data[at : at + _STEP])
            at += len(feed)
            out = decoder.decompress(feed, _PIECE)
            while True:
                if out:
                    yield out
                if decoder.eof or decoder.needs_input:
                    break
                out = decoder.decompress(b"", _PIECE)
            if at >= end and not decoder.eof:
                raise FormatError(what="initramfs", offset=at, reason="{} stream cut short".format(compression))
    except (zlib.error, lzma.LZMAError, OSError, EOFError, MemoryError) as error:
        raise FormatError(what="initramfs", offset=at, reason="{} stream: {}".format(compression, error))
    consumed.append(at - len(decoder.unused_data))


class _Reader:
    """Sequential reads over pieces."""

    def __init__(self, pieces: Iterator[bytes], limit: int) -> None:
        self._pieces = pieces
        self._buffer = b""
        self._at = 0
        self._limit = limit
        self.position = 0

    def _more(self) -> bool:
        for piece in self._pieces:
            self._buffer = piece if self._at >= len(self._buffer) else self._buffer[self._at :] + piece
            self._at = 0
            if self.position > self._limit:
                raise FormatError(what="initramfs", offset=self.position, reason="unpacks to more than its limit")
            return True
        return False

    def read(self, length: int) -> bytes:
        """Up to ``length`` bytes, fewer only at the end."""
        parts = []
        while length > 0:
            if self._at >= len(self._buffer) and not self._more():
                break
            part = self._buffer[self._at : self._at + length]
            self._at += len(part)
            self.position += len(part)
            length -= len(part)
            parts.append(part)
        return b"".join(parts)

    def skip(self, length: int) -> None:
        """Pass over ``length`` bytes without keeping them. Raises FormatError at the end."""
        while length > 0:
            if self._at >= len(self._buffer) and not self._more():
                raise FormatError(what="cpio entry", offset=self.position, reason="cut short by {} bytes".format(length))
            step = min(length, len(self._buffer) - self._at)
            self._at += step
            self.position += step
            length -= step

    def skip_zeros(self) -> bool:
        """Pass over zero bytes; false at the end."""
        while True:
            if self._at >= len(self._buffer) and not self._more():
                return False
            rest = len(self._buffer) - self._at
            left = len(self._buffer[self._at :].lstrip(b"\0"))
            self._at += rest - left
            self.position += rest - left
            if left:
                return True


class _Collector:
    """Reads archives and keeps what they say. An entry replaces the older one of its name."""

    def __init__(self, wanted: Callable[[str], bool], limits: Limits) -> None:
        self.wanted = wanted
        self.limits = limits
        self.entries: Dict[str, cpio.Entry] = {}
        self.files: Dict[str, bytes] = {}
        self.links: Dict[int, List[str]] = {}
        self.total = 0

    def archive(self, reader: _Reader) -> int:
        """Read one cpio archive up to its trailer; the number of entries in it. Raises FormatError."""
        count = 0
        self.links = {}
        base = reader.position  # names and content are padded from here
        while True:
            at = reader.position
            header = cpio.parse_header(reader.read(cpio.HEADER), at)
            raw = reader.read(header.namesize)
            if len(raw) != header.namesize:
                raise FormatError(what="cpio name", offset=at, reason="cut short")
            reader.skip(cpio.padding(reader.position - base))
            name = cpio.clean(raw.rstrip(b"\0").decode("utf-8", "surrogateescape"))
            if name == cpio.TRAILER:
                return count
            self.total += 1
            count += 1
            if self.total > self.limits.entries:
                raise FormatError(what="initramfs", offset=at, reason="more than {} entries".format(self.limits.entries))
            self._entry(reader, name, header, base)

    def _entry(self, reader: _Reader, name: str, header: cpio.Header, base: int) -> None:
        entry = cpio.Entry(name, header.mode, header.filesize, "", header.nlink, header.ino)
        content: Optional[bytes] = None
        at = reader.position
        keep = entry.is_file and self.wanted(name)
        if keep or entry.is_symlink:
            limit = self.limits.wanted if keep else cpio.NAME_MAX
            if header.filesize > limit:
                raise FormatError(what="cpio entry " + name, offset=at, reason="{} bytes".format(header.filesize))
            content = reader.read(header.filesize)
            if len(content) != header.filesize:
                raise FormatError(what="cpio entry " + name, offset=at, reason="cut short")
        else:
            reader.skip(header.filesize)
        padding = cpio.padding(reader.position - base)
        reader.skip(padding)
        self.files.pop(name, None)
        if entry.is_symlink and content is not None:
            entry = entry._replace(target=content.rstrip(b"\0").decode("utf-8", "surrogateescape"))
        elif keep and content is not None:
            self.files[name] = content
        self.entries[name] = entry
        if entry.is_file and header.nlink > 1:  # of hard links only the last carries the content
            names = self.links.setdefault(header.ino, [])
            names.append(name)
            if content:
                for other in names:
                    if self.wanted(other):
                        self.files[other] = content


def read(data: Any, wanted: Optional[Callable[[str], bool]] = None, limits: Limits = Limits()) -> Image:
    """Read the image ``data`` (bytes, or a read-only mapping of the file); keep the content of files for which
    ``wanted(name)`` is true.

    Damage does not raise: the image says in ``problem`` up to where it could be read and why not further."""
    collector = _Collector(wanted or (lambda name: False), limits)
    segments: List[Segment] = []
    problem = ""
    at, end = 0, len(data)
    try:
        while True:
            at = _skip_zeros(data, at)
            if at >= end:
                break
            head = bytes(data[at : at + 16])
            if head.startswith((cpio.MAGIC, cpio.MAGIC_CRC)):
                if at % 4:  # the kernel: "Initramfs unpacking failed: invalid magic at start of compressed archive"
                    raise FormatError(what="initramfs", offset=at, reason="an archive that is not aligned to 4 bytes")
                reader = _Reader(_slices(data, at), limits.unpacked)
                count = collector.archive(reader)
                segments.append(Segment(at, reader.position, "none", reader.position, count))
                at += reader.position
                continue
            compression = next((name for magic, name in MAGICS if head.startswith(magic)), "")
            if not compression:
                raise FormatError(what="initramfs", offset=at, reason="unknown bytes {!r}".format(head[:6]))
            consumed: List[int] = []
            reader = _Reader(unpack(data, at, compression, consumed), limits.unpacked)
            count = 0
            while reader.skip_zeros():
                if reader.position % 4:
                    raise FormatError(what="initramfs", offset=reader.position, reason="an archive not aligned to 4 bytes")
                count += collector.archive(reader)
            segments.append(Segment(at, consumed[0] - at, compression, reader.position, count))
            at = consumed[0]
    except FormatError as error:
        problem = str(error)
    return Image(end, tuple(segments), collector.entries, collector.files, problem)


def _skip_zeros(data: Any, at: int) -> int:
    end = len(data)
    while at < end:
        piece = bytes(data[at : at + _STEP])
        left = len(piece.lstrip(b"\0"))
        at += len(piece) - left
        if left:
            break
    return at


def _slices(data: Any, at: int) -> Iterator[bytes]:
    end = len(data)
    while at < end:
        piece = bytes(data[at : at + _STEP])
        at += len(piece)
        yield piece


def has_virtio(image: Image, builtin: Set[str]) -> Optional[bool]:
    """A disk on virtio-blk can be reached: both drivers are inside or in ``builtin`` (names with "_"). None if that cannot be
    told, because not everything could be read."""
    there = set(image.modules()) | builtin
    if {"virtio_blk", "virtio_pci"} <= there:
        return True
    return None if image.problem or image.hidden else False


def describe(path: str, image: Image, builtin: Set[str]) -> model.Initramfs:
    """The record of an image for reports."""
    there = set(image.modules()) | builtin
    return model.Initramfs(
        path=path,
        kind=image.kind,
        compression=image.compression,
        size=image.size,
        has_virtio=has_virtio(image, builtin),
        modules=tuple(sorted(there & STORAGE)),
    )


def behind(image: Image, archive: bytes) -> Tuple[int, bytes]:
    """Where in the file, and as what bytes, another cpio archive has to be written so that it is unpacked after all others.

    lib/decompress_unlz4.c eats to the end of the file, so behind a lz4 stream only more of the same is read, and alignment
    counts in what it unpacks (tried: a plain archive there ends in "Decoding failed"); zeros behind the stream would end it, so
    the new part takes their place. Behind anything else comes a plain archive at a multiple of 4. The image must have been
    read to its end (no ``problem``)."""
    last = image.segments[-1] if image.segments else None
    if last is not None and last.compression == "lz4":
        return last.offset + last.length, lz4.pack(b"\0" * cpio.padding(last.unpacked) + archive)
    return image.size, b"\0" * cpio.padding(image.size) + archive
