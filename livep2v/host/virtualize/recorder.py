"""Writes to the guest, each recorded as a ``model.Change`` with a diff and, for edited files, a copy of the old content.

Copies go to /var/lib/livep2v/backup, not beside the file: directories such as /etc/default/grub.d or /etc/apt are read whole by
the programs that own them. What already has the wanted content is left alone and not recorded, which makes every fix
repeatable.
"""

from __future__ import annotations

import difflib
import posixpath

from ...model import Change
from .guest import LINK_HOPS, Tree, glob, parent, printable, text_of

BACKUP = "/var/lib/livep2v/backup"
DIFF_LINES = 400  # more of one file is not read by anybody; the backup has it all


class Recorder:
    """``fix`` is the name under which changes are recorded at the moment."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.fix = ""
        self.changes: list[Change] = []

    # -- reading

    def text(self, path: str) -> str:
        """The content as text; "" where there is no file."""
        try:
            return text_of(self.tree.read(path))
        except FileNotFoundError:
            return ""

    def glob(self, pattern: str) -> list[str]:
        return glob(self.tree, pattern)

    # -- writing

    def _record(self, path: str, action: str, why: str, diff: str, backup: str = "") -> None:
        self.changes.append(Change(self.fix, path, action, why, diff, backup))

    def _final(self, path: str) -> str:
        for _ in range(LINK_HOPS):
            if self.tree.kind(path) != "link":
                break
            path = posixpath.normpath(posixpath.join(parent(path), self.tree.readlink(path)))
        return path

    def _backup(self, path: str, old: bytes) -> str:
        where = BACKUP + posixpath.normpath(path)
        if not self.tree.exists(where):  # the first copy is the machine's own; later ones would be our work
            self.tree.mkdir_p(parent(where))
            self.tree.write(where, old, 0o600)
        return where

    def put(self, path: str, data: bytes, why: str, mode: int | None = None, like: str = "") -> bool:
        """Write ``data`` to ``path``, new or existing; false if it is there already. The record names the file itself where
        ``path`` is a link to it (GRUB legacy: menu.lst -> grub.conf)."""
        path = self._final(path)
        try:
            old = self.tree.read(path)
        except FileNotFoundError:
            self.tree.mkdir_p(parent(path))
            self.tree.write(path, data, mode, like)
            self._record(path, "created", why, _diff(path, "", text_of(data)))
            return True
        if old == data:
            return False
        backup = self._backup(path, old)
        self.tree.write(path, data, mode)
        self._record(path, "edited", why, _diff(path, text_of(old), text_of(data)), backup)
        return True

    def link(self, path: str, target: str, why: str) -> bool:
        """Make ``path`` a symbolic link to ``target``. A file in the way is moved to the backup."""
        kind = self.tree.kind(path)
        if kind == "link":
            if self.tree.readlink(path) == target:
                return False
            self.tree.remove(path)
        elif kind:
            self._backup(path, self.tree.read(path))
            self.tree.remove(path)
        self.tree.mkdir_p(parent(path))
        self.tree.symlink(target, path)
        self._record(path, "linked", why, f"-> {target}")
        return True

    def remove(self, path: str, why: str) -> bool:
        """Remove a file (it is kept in the backup) or a link."""
        kind = self.tree.kind(path)
        if not kind:
            return False
        if kind == "link":
            fact, backup = f"was a link to {self.tree.readlink(path)}", ""
        else:
            old = self.tree.read(path)
            fact, backup = _diff(path, text_of(old), ""), self._backup(path, old)
        self.tree.remove(path)
        self._record(path, "removed", why, fact, backup)
        return True

    def splice(self, path: str, offset: int, data: bytes, why: str, fact: str) -> None:
        """Put ``data`` behind the first ``offset`` bytes. To undo: cut the file to that length."""
        self.tree.splice(path, offset, data)
        self._record(path, "appended", why, fact, f"the first {offset} bytes are the old file")


def _diff(path: str, old: str, new: str) -> str:
    if "\0" in old + new:
        return f"{len(old)} bytes became {len(new)} bytes"
    lines = list(difflib.unified_diff(old.splitlines(), new.splitlines(), "a" + path, "b" + path, lineterm="", n=1))
    if len(lines) > DIFF_LINES:
        lines[DIFF_LINES:] = [f"... {len(lines) - DIFF_LINES} more lines"]
    return printable("\n".join(lines))
