"""Repair of the copy so that it boots on virtual hardware. ``repair.py`` is the flow; each fix is one module in ``boot/`` or
``linux/``."""

from .repair import GuestDisk, virtualize

__all__ = ["GuestDisk", "virtualize"]
