"""Which bytes of a volume are used, by its own allocation maps: one module per file system behind one table."""

from typing import Callable, Dict, Iterator

from ...errors import FormatError
from ...formats import ext
from ...formats.ext import Group
from ...formats.reading import Read

__all__ = ["Group", "groups", "supported"]

_READERS: Dict[str, Callable[[Read, int], Iterator[Group]]] = {"ext2": ext.groups, "ext3": ext.groups, "ext4": ext.groups}


def supported(kind: str) -> bool:
    """``kind``: as ``Volume.kind``. Volumes of another kind are copied whole."""
    return kind in _READERS


def groups(kind: str, read: Read, size: int) -> Iterator[Group]:
    """The volume of ``size`` bytes as ranges, in order and without a gap, each with its used parts. Raises FormatError for
    another kind, or for a volume whose structures contradict each other."""
    if kind not in _READERS:
        raise FormatError(what="used-block map", offset=0, reason="there is none for {}".format(kind))
    return _READERS[kind](read, size)
