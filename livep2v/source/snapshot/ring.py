"""Decoding the pages of the kernel's trace ring buffer (``per_cpu/cpuN/trace_pipe_raw``).

Layout: Documentation/trace/ring-buffer-design.rst and include/linux/ring_buffer.h. A page is a header (time stamp, commit
count), then events. An event is one 32-bit word (5 bits of type and length, 27 of time), then its data. The offsets of the
page header and of an event's fields differ per kernel, so they are read from ``events/header_page`` and ``.../format``.
"""
import re
import struct
import sys
from typing import Dict, Iterator, NamedTuple, Tuple

from ...errors import TrackingUnavailable

MISSED_EVENTS = 1 << 31  # flag in the commit word: events were lost before this page
COMMIT_MASK = (1 << 20) - 1
PADDING, TIME_EXTEND, TIME_STAMP = 29, 30, 31
_FIELD = re.compile(r"field:[^;]*?(\w+)(?:\[\d*\])?;\s*offset:(\d+);\s*size:(\d+);")


class Completion(NamedTuple):
    """One ``block_rq_complete``: ``dev`` as the kernel packs it (major << 20 | minor), sectors of 512 bytes."""

    dev: int
    sector: int
    sectors: int
    rwbs: bytes


def fields(text: str) -> Dict[str, Tuple[int, int]]:
    """``{field name: (offset, size)}`` of a ``format`` or ``header_page`` file."""
    return {match.group(1): (int(match.group(2)), int(match.group(3))) for match in _FIELD.finditer(text)}


class Decoder:
    """Knows the layout of this kernel's pages and of its block_rq_complete event."""

    def __init__(self, header_page: str, event_format: str) -> None:
        """``header_page``, ``event_format``: text of the two files. Raises TrackingUnavailable where our fields are missing."""
        page, event = fields(header_page), fields(event_format)
        found = re.search(r"^ID:\s*(\d+)", event_format, re.M)
        missing = [name for name in ("dev", "sector", "nr_sector", "rwbs") if name not in event]
        if "commit" not in page or "data" not in page or found is None or missing:
            raise TrackingUnavailable(reason="this kernel's block_rq_complete has another layout (no {})".format(missing))
        self.id = int(found.group(1))
        self._commit = page["commit"][0]
        self._commit_format = "=Q" if page["commit"][1] == 8 else "=I"
        self._data = page["data"][0]
        self._dev, self._sector, self._count = event["dev"][0], event["sector"][0], event["nr_sector"][0]
        self._sector_format = "=Q" if event["sector"][1] == 8 else "=I"
        self._rwbs = (event["rwbs"][0], event["rwbs"][0] + event["rwbs"][1])
        self._little = sys.byteorder == "little"

    def missed(self, page: bytes) -> bool:
        """True where the kernel says that it dropped events before this page."""
        return bool(struct.unpack_from(self._commit_format, page, self._commit)[0] & MISSED_EVENTS)

    def completions(self, page: bytes) -> Iterator[Completion]:
        """The completions of one page, as :func:`os.read` gave it."""
        commit = struct.unpack_from(self._commit_format, page, self._commit)[0] & COMMIT_MASK
        at, end = self._data, min(self._data + commit, len(page))
        word_at, u32 = struct.Struct("=I").unpack_from, struct.Struct("=I").unpack_from
        sector_at = struct.Struct(self._sector_format).unpack_from
        while at + 4 <= end:
            word = word_at(page, at)[0]
            kind, delta = (word & 31, word >> 5) if self._little else (word >> 27, word & 0x7FFFFFF)
            if kind in (TIME_EXTEND, TIME_STAMP):
                at += 8
                continue
            if kind == PADDING and delta == 0:
                break
            if kind in (0, PADDING):
                size = u32(page, at + 4)[0] + 4
                data = at + 8
            else:
                size = kind * 4 + 4
                data = at + 4
            if kind != PADDING and struct.unpack_from("=H", page, data)[0] == self.id and data + self._rwbs[1] <= end:
                yield Completion(
                    u32(page, data + self._dev)[0],
                    sector_at(page, data + self._sector)[0],
                    u32(page, data + self._count)[0],
                    page[data + self._rwbs[0]:data + self._rwbs[1]].split(b"\0", 1)[0],
                )
            at += max(size, 4)
