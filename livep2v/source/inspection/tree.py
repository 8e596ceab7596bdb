"""The files of a machine, read so that no odd file can hurt: bounded, undecodable bytes replaced, nothing changed.

``root`` is "/" for the machine itself, or the folder of a recorded machine.
"""
import errno
import os
import stat
from typing import Dict, List

MAX_FILE = 1 << 20  # bytes; no file that inspection asks for is larger on any machine seen, and /proc files can be endless
MAX_NAMES = 20000  # of one folder


class Tree:
    def __init__(self, root: str = "/") -> None:
        self.root = os.path.abspath(root)
        self.live = self.root == "/"

    def path(self, path: str) -> str:
        """Where ``path`` of the machine is for this process."""
        return path if self.live else self.root + "/" + path.lstrip("/")

    def read(self, path: str, limit: int = MAX_FILE) -> bytes:
        """Up to ``limit`` bytes of a regular file; empty if it is not there or may not be read."""
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY  # a FIFO in its place must not block us
        try:
            try:
                fd = os.open(self.path(path), flags | os.O_NOATIME)
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.EINVAL):  # EPERM: the file is somebody else's and we are not root
                    raise
                fd = os.open(self.path(path), flags)
        except (OSError, ValueError):
            return b""
        parts: List[bytes] = []
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return b""
            while limit > 0:
                piece = os.read(fd, min(limit, 65536))
                if not piece:
                    break
                parts.append(piece)
                limit -= len(piece)
        except OSError:  # sysfs attributes answer EIO, EINVAL or ENODEV as they like
            pass
        finally:
            os.close(fd)
        return b"".join(parts)

    def text(self, path: str, default: str = "") -> str:
        """The file as text without white space and NULs around it; ``default`` if it is empty or not there."""
        return self.read(path).decode("utf-8", "replace").strip(" \t\r\n\0") or default

    def lines(self, path: str) -> List[str]:
        return self.read(path).decode("utf-8", "replace").splitlines()

    def number(self, path: str, default: int = 0) -> int:
        try:
            return int(self.text(path), 0)
        except ValueError:
            return default

    def names(self, path: str) -> List[str]:
        """Sorted names in a folder; none if it is not there."""
        try:
            return sorted(os.listdir(self.path(path)))[:MAX_NAMES]
        except OSError:
            return []

    def exists(self, path: str) -> bool:
        return os.path.exists(self.path(path))

    def is_link(self, path: str) -> bool:
        return os.path.islink(self.path(path))

    def size(self, path: str) -> int:
        """Bytes of a file; 0 if it is not there."""
        try:
            return os.stat(self.path(path)).st_size
        except OSError:
            return 0

    def link(self, path: str) -> str:
        """Target of a symbolic link as written; empty if it is none."""
        try:
            return os.readlink(self.path(path))
        except OSError:
            return ""

    def real(self, path: str) -> str:
        """``path`` with its links followed, as a path of the machine. An absolute link is followed inside the machine."""
        if self.live:
            return os.path.realpath(path)
        for _ in range(40):  # the kernel's own limit of links (MAXSYMLINKS)
            done = ""
            for part in [part for part in path.split("/") if part]:
                step = done + "/" + part
                target = self.link(step)
                if target:
                    rest = path.split("/", step.count("/") + 1)[step.count("/") + 1:]
                    path = os.path.normpath("/".join([os.path.join(done or "/", target)] + rest))
                    break
                done = step
            else:
                return done or "/"
        return path

    def first(self, paths: List[str]) -> str:
        """The first of ``paths`` that exists, or empty."""
        for path in paths:
            if self.exists(path):
                return path
        return ""


def unescape(field: str) -> str:
    """A field of /proc/self/mountinfo or /proc/swaps: \\ooo is a byte in octal (proc(5))."""
    if "\\" not in field:
        return field
    out = bytearray()
    raw = os.fsencode(field)
    at = 0
    while at < len(raw):
        if raw[at:at + 1] == b"\\" and len(raw) >= at + 4 and all(48 <= byte <= 55 for byte in raw[at + 1:at + 4]):
            out.append(int(raw[at + 1:at + 4], 8) & 0xFF)
            at += 4
        else:
            out.append(raw[at])
            at += 1
    return os.fsdecode(bytes(out))


def settings(lines: List[str]) -> Dict[str, str]:
    """``KEY=value`` lines of shell-like files (os-release, /etc/default/*), quotes removed."""
    found: Dict[str, str] = {}
    for line in lines:
        key, sign, value = line.strip().partition("=")
        if sign and not key.startswith("#"):
            value = value.strip()
            if len(value) >= 2 and value[0] == value[-1] and value[0] in "'\"":
                value = value[1:-1]
            found[key.strip()] = value
    return found
