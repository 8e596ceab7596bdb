"""The one check that every image makes of a range."""

from __future__ import annotations

from pathlib import Path

from ...errors import ImageError


def check(path: Path, size: int, offset: int, length: int) -> None:
    """Raises ImageError for a range that is not inside the disk of ``size`` bytes."""
    if offset < 0 or length < 0 or offset + length > size:
        raise ImageError(path=str(path), reason=f"{length} bytes at byte {offset} of a disk of {size} bytes")
