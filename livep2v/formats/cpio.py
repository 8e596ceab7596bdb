"""cpio archives in the "newc" format, the only one that a Linux initramfs uses.

Layout: Linux Documentation/driver-api/early-userspace/buffer-format.rst. An entry is a header of 110 ASCII bytes, the name
with its NUL, and the content; name and content are padded with zeros to a multiple of 4 counted from the start of the
archive. The entry ``TRAILER!!!`` ends it. Checksums ("070702") are accepted and not verified, as in the kernel.
"""
import stat
from typing import Iterable, NamedTuple, Tuple

from ..errors import FormatError

MAGIC = b"070701"
MAGIC_CRC = b"070702"
HEADER = 110  # 6 bytes of magic and 13 fields of 8 hexadecimal digits
TRAILER = "TRAILER!!!"
NAME_MAX = 4096  # PATH_MAX: init/initramfs.c skips an entry with a longer name


class Entry(NamedTuple):
    """One file of an archive, without its content."""

    name: str  # as stored, "./" and leading "/" removed
    mode: int  # st_mode, type bits included
    size: int  # bytes of content
    target: str = ""  # of a symbolic link
    nlink: int = 1
    ino: int = 0

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_symlink(self) -> bool:
        return stat.S_ISLNK(self.mode)

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.mode)


class Header(NamedTuple):
    ino: int
    mode: int
    nlink: int
    filesize: int
    namesize: int  # with the NUL


def padding(length: int) -> int:
    """Bytes up to the next multiple of 4."""
    return -length % 4


def clean(name: str) -> str:
    """The name without "./" and "/" in front: the kernel unpacks both into the root."""
    while name.startswith(("./", "/")):
        name = name[2:] if name.startswith("./") else name[1:]
    return name


def parse_header(raw: bytes, offset: int) -> Header:
    """The header in ``raw`` (110 bytes) found at byte ``offset``. Raises FormatError."""
    if len(raw) != HEADER:
        raise FormatError(what="cpio header", offset=offset, reason="cut short: {} of {} bytes".format(len(raw), HEADER))
    if raw[:6] not in (MAGIC, MAGIC_CRC):
        raise FormatError(what="cpio header", offset=offset, reason="magic {!r} is not {!r}".format(raw[:6], MAGIC))
    digits = raw[6:]
    if not all(byte in b"0123456789abcdefABCDEF" for byte in digits):  # int() would take "+1" and "1_0"
        raise FormatError(what="cpio header", offset=offset, reason="a field is not hexadecimal")
    fields = [int(digits[at : at + 8], 16) for at in range(0, 104, 8)]
    header = Header(ino=fields[0], mode=fields[1], nlink=fields[4], filesize=fields[6], namesize=fields[11])
    if not 1 <= header.namesize <= NAME_MAX:
        raise FormatError(what="cpio header", offset=offset, reason="a name of {} bytes".format(header.namesize))
    return header


def _member(ino: int, name: str, mode: int, data: bytes, nlink: int = 1) -> bytes:
    raw = name.encode("utf-8", "surrogateescape") + b"\0"
    fields = (ino, mode, 0, 0, nlink, 0, len(data), 0, 0, 0, 0, len(raw), 0)
    head = MAGIC + b"".join(b"%08X" % field for field in fields) + raw
    return head + b"\0" * padding(len(head)) + data + b"\0" * padding(len(data))


def build(members: Iterable[Tuple[str, int, bytes]]) -> bytes:
    """An archive of ``members`` (name, mode with type bits, content; a symbolic link's content is its target), owned by root,
    dated 1970: the same members always give the same bytes.

    Inode numbers are distinct and each link count is 1: the kernel would take members that share one for hard links."""
    parts = []
    for ino, (name, mode, data) in enumerate(members, 1):
        parts.append(_member(ino, name, mode, data))
    parts.append(_member(0, TRAILER, 0, b""))
    return b"".join(parts)
