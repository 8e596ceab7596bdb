"""How a measurement is written down, and how two programs are compared: in pairs, in one run, as a ratio."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple


class Table(NamedTuple):
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    ok: bool = True  # what was measured was also right: the copy identical, the rows all there

    def __str__(self) -> str:
        """Markdown."""
        lines = [f"| {' | '.join(cells)} |" for cells in (self.header, *self.rows)]
        lines[1:1] = ["|" + "---|" * len(self.header)]
        return "\n".join([f"### {self.title}", "", *lines, *([] if self.ok else ["", "NOT RIGHT"])])


def spread(values: Sequence[float], form: str = ".2f") -> str:
    """ "min / median / max"."""
    return " / ".join(format(value, form) for value in (min(values), statistics.median(values), max(values)))


def pairs(ours: Callable[[int], float], theirs: Callable[[int], float], runs: int) -> list[tuple[float, float]]:
    """A B A B ...: what else the machine does meanwhile meets both alike. Each gets the number of the run, gives seconds."""
    return [(ours(number), theirs(number)) for number in range(runs)]


def compared(title: str, name: str, peer: str, found: Sequence[tuple[float, float]], ok: bool) -> Table:
    """The table of a comparison. A ratio below 1: ours is faster."""
    return Table(
        title,
        ("", "min / median / max"),
        (
            (f"{name}, seconds", spread([ours for ours, _ in found])),
            (f"{peer}, seconds", spread([theirs for _, theirs in found])),
            (f"ratio within a pair, {len(found)} pairs", spread([ours / theirs for ours, theirs in found])),
        ),
        ok,
    )


def forget(path: Path) -> None:
    """Drop a file from the page cache, so that every run reads it from the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)
