"""What travels arrives as it was sent, or not at all; and the first error is the one that is told."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from livep2v.errors import DigestMismatch, HostDiskFull, Livep2vError, SourceReadError, TransferError
from livep2v.host.remote import RemoteSource
from livep2v.host.target import Target
from livep2v.model import BLOCK, Action, PlanDisk, Region, SnapshotSpec
from livep2v.source.sender import Sender
from livep2v.wire import codecs
from tests.support import relay
from tests.support.faults import MIB, agents, assert_nothing_left, family, is_frozen, other_ssh, receiving
from tests.support.loopdisk import loop_disk, sqlite_writer


def damaged(folder: Path, monkeypatch: pytest.MonkeyPatch, frame: int) -> Path:
    """``ssh`` leads to this machine over a connection that damages one data frame; which is told in the file."""
    told = folder / "damaged"
    path = other_ssh(folder / "bin", relay=(sys.executable, str(relay.__file__), str(frame), str(told)))
    monkeypatch.setenv("PATH", f"{path}:{os.environ['PATH']}")
    return told


@pytest.mark.skipif(os.geteuid() != 0, reason="freezing needs root")
@pytest.mark.parametrize("compress", ["none", "zstd", "zlib"])
def test_a_block_that_arrives_changed(compress: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = damaged(tmp_path, monkeypatch, 20)
    pids: set[int] = set()
    with loop_disk(tmp_path, 256 * MIB, 60 * MIB, old_data=False) as disk, sqlite_writer(disk.mountpoint) as writer:
        text = b"the quick brown fox jumps over the lazy dog\n" * 25000
        for number in range(60):  # compressible, but no block like the other
            (disk.mountpoint / f"data{number}").write_bytes(os.urandom(3000) + text)
        source = RemoteSource(Target("ssh", "oldbox", "oldbox"))

        def progress(name: str, facts: dict[str, Any]) -> None:
            if not pids:
                pids.update(agents(family(source._process.pid)))

        with receiving(tmp_path, disk.size, disk.name) as (receiver, held, path):
            with contextlib.closing(source), pytest.raises(TransferError) as caught:
                source.copy(disk.spec(compress=compress), receiver, progress)
            assert told.exists(), f"another fault than ours: {caught.value!r}"
            offset, length = map(int, told.read_text().split())
            written = [one for one in range(offset, offset + length, BLOCK) if held.digests.get(one, BLOCK) != bytes(16)]
        assert not written, "nothing of the damaged frame is noted"
        with path.open("rb") as stream:
            stream.seek(offset)
            assert stream.read(length) == bytes(length), "nothing of the damaged frame is written"
        assert writer.poll() is None and not is_frozen(disk.mountpoint)
    assert_nothing_left(pids)
    error = caught.value
    assert error.exit_code == 32 and isinstance(error, DigestMismatch)
    assert error.facts["disk"] == disk.name and offset <= error.facts["offset"] < offset + length
    assert "arrived changed" in str(error)


class Broken:
    """A receiver whose every call fails, each time with another error."""

    def __init__(self) -> None:
        self.calls = 0

    def data(self, *frame: object) -> None:
        self.calls += 1
        raise HostDiskFull(path=f"call {self.calls}", needed=1, free=0)

    zero = data

    def flush(self) -> None:
        self.data()


def test_sender_tells_the_first_error_and_ends_its_threads() -> None:
    before = set(threading.enumerate())
    broken = Broken()
    sender = Sender(broken, "none")
    with pytest.raises(HostDiskFull) as caught:
        for number in range(1000):
            sender.data(0, number * MIB, os.urandom(MIB))
    assert caught.value.facts["path"] == "call 1"
    with pytest.raises(HostDiskFull, match="call 1"):
        sender.flush()
    sender.close()
    assert broken.calls == 1, "nothing is sent after an error"
    assert set(threading.enumerate()) == before


def test_receiver_tells_the_first_error_and_ends_its_threads(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    good, bad = os.urandom(BLOCK), os.urandom(BLOCK)
    with receiving(tmp_path, 64 * MIB) as (receiver, held, path):
        receiver.data(0, 0, BLOCK, codecs.NONE, codecs.digests(good), good)
        receiver.data(0, BLOCK, BLOCK, codecs.NONE, codecs.digests(good), bad)
        with pytest.raises(DigestMismatch) as caught:
            for number in range(2, 1000):
                receiver.data(0, number * BLOCK, BLOCK, codecs.NONE, codecs.digests(bad), good)
        assert caught.value.facts["offset"] == BLOCK
        with pytest.raises(DigestMismatch) as again:
            receiver.flush()
        assert again.value is caught.value
        assert held.digests.get(0, BLOCK) == codecs.digests(good)
        assert held.digests.get(BLOCK, 62 * BLOCK) == bytes(62 * 16), "nothing is written after an error"
    assert set(threading.enumerate()) == before
    with path.open("rb") as stream:
        assert stream.read(3 * BLOCK) == good + bytes(2 * BLOCK)


def test_a_receiver_that_is_full_lets_its_caller_go(tmp_path: Path) -> None:
    """The caller waits for room among 48 MiB in flight; the error has to wake it."""
    block = os.urandom(MIB)
    with receiving(tmp_path, 256 * MIB) as (receiver, held, _):
        def slow(offset: int, data: bytes | memoryview) -> None:
            threading.Event().wait(1.0)
            raise HostDiskFull(path="disk", needed=len(data), free=0)

        held.image.write = slow  # type: ignore[method-assign]
        with pytest.raises(HostDiskFull):
            for number in range(256):
                receiver.data(0, number * MIB, MIB, codecs.NONE, codecs.digests(block), block)


@pytest.mark.parametrize("when", ["in the bulk", "before the first byte"])
def test_a_copy_that_fails_leaves_no_thread(when: str, tmp_path: Path) -> None:
    """Over the wire: an image that ends too early; the error is the source's, not one that follows from it."""
    before = set(threading.enumerate())
    image = tmp_path / "short.img"
    image.write_bytes(os.urandom(40 * MIB) if when == "in the bulk" else b"")
    region = Region(0, 64 * MIB, Action.COPY, "disk")
    disk = PlanDisk(0, "short", str(image), "", 64 * MIB, 512, "d.raw", "raw", "dynamic", (region,), 1, source_format="raw")
    spec = SnapshotSpec("offline", (disk,), 1.0, 5.0)
    source = RemoteSource(Target("image", str(image), path=str(image)))
    pids = agents(family(source._process.pid))
    with (
        receiving(tmp_path, 64 * MIB) as (receiver, _, _),
        contextlib.closing(source),
        pytest.raises(SourceReadError) as caught,
    ):
        source.copy(spec, receiver, lambda name, facts: None)
    assert caught.value.exit_code == 26
    assert caught.value.facts["offset"] == (40 * MIB if when == "in the bulk" else 0)
    assert_nothing_left(pids)
    for thread in set(threading.enumerate()) - before:
        thread.join(3)
    assert set(threading.enumerate()) <= before


def test_errors_of_the_sender_reach_the_caller_of_flush() -> None:
    """An error after the last data() is told by flush(): a copy that is short of its last block never counts as done."""
    sender = Sender(Broken(), "none")
    sender.data(0, 0, os.urandom(BLOCK))
    with pytest.raises(Livep2vError, match="call 1"):
        sender.flush()
    sender.close()
