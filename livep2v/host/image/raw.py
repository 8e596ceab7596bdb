"""A raw image: the bytes of the disk, sparse."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ...model import Extent
from .bounds import check
from .hostfile import HostFile


class RawImage:
    def __init__(self, file: HostFile, size: int) -> None:
        self._file = file
        self.size = size

    @classmethod
    def create(cls, path: Path, size: int) -> RawImage:
        file = HostFile(path, create=True)
        file.truncate(size)
        return cls(file, size)

    @classmethod
    def open(cls, path: Path, writable: bool) -> RawImage:
        file = HostFile(path, writable)
        return cls(file, file.size())

    def write(self, offset: int, data: bytes | memoryview) -> None:
        check(self._file.path, self.size, offset, len(data))
        self._file.write(offset, data)

    def zero(self, offset: int, length: int) -> None:
        check(self._file.path, self.size, offset, length)
        self._file.punch(offset, length)

    def read(self, offset: int, length: int) -> bytes:
        check(self._file.path, self.size, offset, length)
        return self._file.read(offset, length)

    def allocated(self) -> Iterator[Extent]:
        return self._file.data(0, self.size)

    def flush(self) -> None:
        self._file.sync()

    def close(self) -> None:
        self._file.close()
