"""How sizes and lists read in sentences."""

from __future__ import annotations

from collections.abc import Iterable


def size(count: int) -> str:
    """ "4.0 GiB", "512 B"."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def names(words: Iterable[str]) -> str:
    return ", ".join(words)
