"""A virtual disk file as the receiver writes it and the verification reads it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from ...model import Extent


class Image(Protocol):
    """One virtual disk. Offsets and lengths are bytes of the disk, any alignment; what was never written reads as zeros.

    Not for several threads at once: one call at a time, from any thread. Errors: HostDiskFull if there is no room, ImageError
    for anything else that the file system says, or for a range outside the disk. After an error the file is still closed by
    :meth:`close`. An image that was not closed opens again with what had been written at the last :meth:`flush`.
    """

    @property
    def size(self) -> int:
        """Bytes of the disk."""

    def write(self, offset: int, data: bytes | memoryview) -> None: ...

    def zero(self, offset: int, length: int) -> None:
        """Make the range read as zeros, giving its space back where that is possible."""

    def read(self, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes."""

    def allocated(self) -> Iterator[Extent]:
        """What may hold something else than zeros: in order, without overlap."""

    def flush(self) -> None:
        """Return when everything written is on stable storage and the file is complete."""

    def close(self) -> None:
        """Complete the file and close it. A second call does nothing."""
