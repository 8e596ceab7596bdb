"""Virtual disk files: one Protocol (:mod:`base`), one module per format."""

from __future__ import annotations

from pathlib import Path

from ...errors import UsageError
from . import vhd
from .base import Image
from .raw import RawImage

__all__ = ["Image", "create", "open_image"]


def create(path: Path, format: str, subformat: str, size: int) -> Image:
    """A new, empty image of ``size`` bytes; a VHD has whole sectors, so its size is rounded up to 512.

    ``format`` "vhd" with ``subformat`` "dynamic" or "fixed", or "raw" (always sparse). Raises ImageError where the name is
    taken or the size is past the format's limit, HostDiskFull, UsageError for another format.
    """
    if format == "raw":
        return RawImage.create(path, size)
    if format == "vhd" and subformat in ("dynamic", "fixed"):
        return vhd.create(path, size, subformat == "dynamic")
    raise UsageError(reason=f"{format}, {subformat}: choose --format vhd with --subformat dynamic or fixed, or --format raw")


def open_image(path: Path, format: str, writable: bool = False) -> Image:
    """An image that :func:`create` or another program made. Raises FormatError if it is damaged, ImageError."""
    if format == "raw":
        return RawImage.open(path, writable)
    if format == "vhd":
        return vhd.open_vhd(path, writable)
    raise UsageError(reason=f"{format}: choose --format vhd or raw")
