"""Kernel module indexes: modules.dep, modules.alias, modules.builtin as text, and the binary tries that libkmod reads.

Text: modules.dep(5), depmod(8). Binary: kmod, libkmod/libkmod-index.h: big-endian; magic, version, root; a reference to a
node is its offset with flags in the top bits; a node is ``[prefix NUL] [first, last, reference x (last - first + 1)]
[count, (priority, value NUL) x count]``. libkmod reads only the binary files, busybox modprobe only the text.
"""
import posixpath
import re
import struct
from typing import Dict, Iterable, List, NamedTuple, Set, Tuple

from ..errors import FormatError

MAGIC = 0xB007F457
VERSION = 0x00020001  # major 2, minor 1
_PREFIX, _VALUES, _CHILDREN, _OFFSET = 0x80000000, 0x40000000, 0x20000000, 0x0FFFFFFF
_DEPTH = 1024  # no module alias is longer; bounds the walk over a hostile file
_NODES = 2000000


class Value(NamedTuple):
    """One line of an index: an order and a text. Lower priorities are tried first."""

    key: str
    priority: int
    text: str


def name_of(path: str) -> str:
    """Module name of a file: "kernel/drivers/block/virtio-blk.ko.xz" -> "virtio_blk"."""
    return re.sub(r"\.ko(\.(xz|zst|gz))?$", "", posixpath.basename(path)).replace("-", "_")


def parse_builtin(text: str) -> Set[str]:
    """Names in modules.builtin."""
    return {name_of(line.strip()) for line in text.splitlines() if line.strip()}


def parse_dep(text: str) -> Dict[str, Tuple[str, Tuple[str, ...]]]:
    """modules.dep: name -> (path, paths of all that it needs; those needed first come last). Paths are relative to the
    module folder."""
    found = {}
    for line in text.splitlines():
        path, colon, rest = line.partition(":")
        if colon and path.strip():
            found[name_of(path.strip())] = (path.strip(), tuple(rest.split()))
    return found


def parse_alias(text: str) -> List[Tuple[str, str]]:
    """modules.alias: [(pattern, module)] in the order of the file, which is the order of preference."""
    found = []
    for line in text.splitlines():
        words = line.split()
        if len(words) == 3 and words[0] == "alias":
            found.append((words[1], words[2]))
    return found


def normal(alias: str) -> str:
    """An alias as the binary index has it: "-" is "_", but not inside a character class (kmod, alias_normalize())."""
    parts = re.split(r"(\[[^\]]*\])", alias)
    return "".join(part if part.startswith("[") else part.replace("-", "_") for part in parts)


def closure(dep: Dict[str, Tuple[str, Tuple[str, ...]]], names: Iterable[str]) -> List[str]:
    """Names of ``names`` and of everything they need, needed ones first. Raises KeyError for a name that is not in ``dep``."""
    ordered: List[str] = []
    for name in names:
        path, needs = dep[name]
        for item in tuple(reversed(needs)) + (path,):
            if name_of(item) not in ordered:
                ordered.append(name_of(item))
    return ordered


def read_index(data: bytes) -> List[Value]:
    """All lines of a binary index. Raises FormatError."""
    if len(data) < 12:
        raise FormatError(what="module index", offset=0, reason="{} bytes".format(len(data)))
    magic, version, root = struct.unpack_from(">III", data)
    if magic != MAGIC or version >> 16 != VERSION >> 16:
        raise FormatError(what="module index", offset=0, reason="magic {:#x} version {:#x}".format(magic, version))
    found: List[Value] = []
    stack = [(root, b"")]
    nodes = 0
    try:
        while stack:
            reference, key = stack.pop()
            nodes += 1
            at = reference & _OFFSET
            if at == 0:
                continue
            if nodes > _NODES or len(key) > _DEPTH:
                raise FormatError(what="module index", offset=at, reason="it has no end")
            if reference & _PREFIX:
                end = data.index(b"\0", at)
                key += data[at:end]
                at = end + 1
            if reference & _CHILDREN:
                first, last = struct.unpack_from("BB", data, at)
                if last < first:
                    raise FormatError(what="module index", offset=at, reason="children {}..{}".format(first, last))
                children = struct.unpack_from(">{}I".format(last - first + 1), data, at + 2)
                at += 2 + 4 * len(children)
                stack.extend((child, key + bytes([first + n])) for n, child in enumerate(children) if child & _OFFSET)
            if reference & _VALUES:
                (count,) = struct.unpack_from(">I", data, at)
                at += 4
                for _ in range(count):
                    (priority,) = struct.unpack_from(">I", data, at)
                    end = data.index(b"\0", at + 4)
                    found.append(Value(key.decode("latin-1"), priority, data[at + 4 : end].decode("latin-1")))
                    at = end + 1
    except (struct.error, ValueError) as error:
        raise FormatError(what="module index", offset=at, reason="cut short ({})".format(error))
    return sorted(found)


class _Node:
    __slots__ = ("children", "values")

    def __init__(self) -> None:
        self.children: Dict[int, _Node] = {}
        self.values: List[Tuple[int, bytes]] = []


def write_index(values: Iterable[Value]) -> bytes:
    """A binary index of ``values``. Keys must be ASCII without NUL (ValueError): a node has room for 128 children."""
    root = _Node()
    for value in values:
        raw = value.key.encode("ascii")
        if b"\0" in raw:
            raise ValueError("a NUL in the key {!r}".format(value.key))
        node = root
        for byte in raw:
            node = node.children.setdefault(byte, _Node())
        node.values.append((value.priority, value.text.encode("latin-1")))
    out = bytearray(struct.pack(">III", MAGIC, VERSION, 0))
    struct.pack_into(">I", out, 8, _write(root, out))
    return bytes(out)


def _write(node: _Node, out: bytearray) -> int:
    """Write ``node`` behind its children; the reference to it. A chain of single children becomes a prefix."""
    prefix = bytearray()
    while len(node.children) == 1 and not node.values:
        ((byte, child),) = node.children.items()
        prefix.append(byte)
        node = child
    references = {byte: _write(child, out) for byte, child in sorted(node.children.items())}
    reference = len(out)
    if prefix:
        reference |= _PREFIX
        out += prefix + b"\0"
    if references:
        reference |= _CHILDREN
        first, last = min(references), max(references)
        out += struct.pack("BB", first, last)
        for byte in range(first, last + 1):
            out += struct.pack(">I", references.get(byte, 0))
    if node.values:
        reference |= _VALUES
        out += struct.pack(">I", len(node.values))
        for priority, text in sorted(node.values):
            out += struct.pack(">I", priority) + text + b"\0"
    return reference
