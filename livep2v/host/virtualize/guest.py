"""The guest's files: one small Protocol, and the plain directory behind it. ``guestfs_tree.py`` has the other implementation.

Paths are absolute in the guest. Symbolic links are followed inside the guest, never out of it: an absolute link in a guest
must not lead to a file of the host.
"""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import os
import posixpath
import re
import shutil
import stat
from pathlib import Path
from typing import Protocol

from ...errors import RepairError

READ_LIMIT = 64 << 20  # bytes; the largest file that a fix reads whole is a modules.alias.bin of 1.3 MB
LINK_HOPS = 40  # as in the kernel (MAXSYMLINKS)


class Tree(Protocol):
    """Reads raise FileNotFoundError for what is not there."""

    def kind(self, path: str) -> str:
        """ "file", "dir", "link", "other" (of the path itself, a link is not followed), or "" where there is nothing."""

    def exists(self, path: str) -> bool:
        """Whether there is something at the end of all links."""

    def read(self, path: str) -> bytes:
        """The content, at most READ_LIMIT bytes (RepairError)."""

    def readlink(self, path: str) -> str: ...

    def listdir(self, path: str) -> list[str]:
        """Sorted names; empty where there is no directory."""

    def size(self, path: str) -> int: ...

    def digest(self, path: str) -> str:
        """SHA-256 of the content, hexadecimal."""

    def fetch(self, path: str, to: Path) -> None:
        """Copy a file of any size to the host's file ``to``."""

    def write(self, path: str, data: bytes, mode: int | None = None, like: str = "") -> None:
        """Replace or create. What exists keeps its owner, mode and label, unless a ``mode`` is given; what is new belongs to
        root, has ``mode`` (0644) and the SELinux label of ``like``, or of its directory."""

    def splice(self, path: str, offset: int, data: bytes) -> None:
        """Cut an existing file at ``offset`` and put ``data`` there."""

    def symlink(self, target: str, path: str) -> None: ...

    def mkdir_p(self, path: str) -> None: ...

    def remove(self, path: str) -> None:
        """Remove a file or a link."""


def parent(path: str) -> str:
    return posixpath.dirname(path.rstrip("/")) or "/"


def glob(tree: Tree, pattern: str) -> list[str]:
    """Paths that match; ``*`` and ``?`` in any part, hidden names are left out."""
    found = [""]
    for part in pattern.strip("/").split("/"):
        if any(sign in part for sign in "*?["):
            found = [
                f"{base}/{name}"
                for base in found
                for name in tree.listdir(base or "/")
                if fnmatch.fnmatchcase(name, part) and not name.startswith(".")
            ]
        else:
            found = [f"{base}/{part}" for base in found]
    return [path for path in found if tree.kind(path)]


class DirTree:
    """A guest whose root is a directory of the host."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def _locate(self, path: str, follow: bool = True) -> Path:
        """The host's path, each link resolved as the guest would."""
        done: list[str] = []
        left = [part for part in path.split("/") if part not in ("", ".")]
        hops = 0
        while left:
            part = left.pop(0)
            if part == "..":
                done = done[:-1]
                continue
            here = self.root.joinpath(*done, part)
            if here.is_symlink() and (left or follow):
                hops += 1
                if hops > LINK_HOPS:
                    raise FileNotFoundError(path)
                target = str(here.readlink())
                if target.startswith("/"):
                    done = []
                left = [piece for piece in target.split("/") if piece not in ("", ".")] + left
                continue
            done.append(part)
        return self.root.joinpath(*done)

    def kind(self, path: str) -> str:
        try:
            mode = self._locate(path, follow=False).lstat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            return ""
        return kind_of(mode)

    def exists(self, path: str) -> bool:
        try:
            return self._locate(path).exists()
        except FileNotFoundError:
            return False

    def read(self, path: str) -> bytes:
        where = self._locate(path)
        check_size(path, where.stat().st_size)
        return where.read_bytes()

    def readlink(self, path: str) -> str:
        return str(self._locate(path, follow=False).readlink())

    def listdir(self, path: str) -> list[str]:
        try:
            return sorted(item.name for item in self._locate(path).iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []

    def size(self, path: str) -> int:
        return self._locate(path).stat().st_size

    def digest(self, path: str) -> str:
        with self._locate(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def fetch(self, path: str, to: Path) -> None:
        shutil.copyfile(self._locate(path), to)

    def write(self, path: str, data: bytes, mode: int | None = None, like: str = "") -> None:
        where = self._locate(path)
        new = not where.exists()
        where.write_bytes(data)
        if new or mode is not None:
            where.chmod(0o644 if mode is None else mode)
        if new:
            self._label(where, self._locate(like) if like else where.parent)

    def splice(self, path: str, offset: int, data: bytes) -> None:
        with self._locate(path).open("r+b") as file:
            file.truncate(offset)
            file.seek(offset)
            file.write(data)

    def symlink(self, target: str, path: str) -> None:
        self._locate(path, follow=False).symlink_to(target)

    def mkdir_p(self, path: str) -> None:
        self._locate(path).mkdir(parents=True, exist_ok=True)

    def remove(self, path: str) -> None:
        self._locate(path, follow=False).unlink()

    @staticmethod
    def _label(new: Path, like: Path) -> None:
        with contextlib.suppress(OSError):  # no label there, or this host's file system cannot hold one: nothing to copy
            os.setxattr(new, "security.selinux", os.getxattr(like, "security.selinux"))


def kind_of(mode: int) -> str:
    """Name of a file type from st_mode."""
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "dir"
    return "link" if stat.S_ISLNK(mode) else "other"


def check_size(path: str, size: int) -> None:
    if size > READ_LIMIT:
        raise RepairError(what=path, reason=f"{size} bytes, more than the {READ_LIMIT} that a file of this kind may have")


def text_of(data: bytes) -> str:
    """Bytes as text that :func:`bytes_of` turns back into the same bytes, whatever they were."""
    return data.decode("utf-8", "surrogateescape")


def bytes_of(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def printable(text: str) -> str:
    """Without surrogates and control characters: it goes into reports and terminals."""
    return re.sub(r"[^\x20-\x7e\t\n\xa0-\ud7ff\ue000-\U0010ffff]", "?", text)
