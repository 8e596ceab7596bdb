"""The tracker loses events: no error, but everything is compared by digest, and the copy still equals the frozen device."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from livep2v.errors import TrackingUnavailable
from livep2v.model import BLOCK, Instant
from livep2v.source.local import LocalSource
from livep2v.source.snapshot import freezer, tracked, tracker
from tests.support.faults import MIB, instances, is_frozen, receiving
from tests.support.loopdisk import LoopDisk, loop_disk, used_blocks

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="freezing needs root")
BLIND = 3600.0  # s between two looks into the ring: only what asks for a drain drains it


def overwrite(disk: LoopDisk, count: int = 40) -> None:
    """Direct writes of 4 KiB into files that exist: blocks that were copied already change in their place."""
    for number in range(count):
        target = disk.mountpoint / f"data{number}"
        subprocess.run(
            ["dd", "if=/dev/urandom", f"of={target}", "bs=4k", "count=100", "oflag=direct", "conv=notrunc", "status=none"],
            check=True,
        )


@pytest.mark.parametrize("blind", [True, False], ids=["nobody looks", "a ring of one page"])
def test_lost_events_cost_a_comparison_and_nothing_else(
    blind: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if blind:
        monkeypatch.setattr(tracker, "POLL", BLIND)
    frozen = tmp_path / "frozen.raw"
    phases: list[str] = []
    warnings: list[str] = []
    real = freezer.Freezer.thaw

    def thaw(self: freezer.Freezer, quiet: bool = False) -> None:
        if self._armed:  # the last time it is the instant: the oracle is the device as it is then
            argv = ["dd", f"if={disk.path}", f"of={frozen}", "bs=4M", "iflag=direct", "status=none"]
            subprocess.run(argv, check=True, timeout=60)
        real(self, quiet)

    monkeypatch.setattr(freezer.Freezer, "thaw", thaw)
    with loop_disk(tmp_path, 192 * MIB, 110 * MIB) as disk:

        def progress(name: str, facts: dict[str, Any]) -> None:
            if name == "warning":
                warnings.append(str(facts["text"]))
            if name != "bytes":
                return
            phases.append(str(facts["phase"]))
            if phases[-1] == "copying used blocks" and int(str(facts["done"])) > 50 * MIB and not overwritten:
                overwritten.append(True)
                overwrite(disk)

        overwritten: list[bool] = []
        source = LocalSource()
        with contextlib.closing(source), receiving(tmp_path, disk.size, disk.name) as (receiver, held, replica):
            spec = disk.spec(tracker_buffer_kib=4, hard_limit=60.0, limit_rate=60 << 20, compress="none")
            instant: Instant = source.copy(spec, receiver, progress)
            receiver.flush()
            held.image.flush()
    assert overwritten, "the disk was written in the middle of the bulk"
    if blind:
        assert instant.overruns >= 1
    if instant.overruns:
        assert any("compared by digest" in text for text in warnings)
        assert any("comparing" in phase for phase in phases)
    used = used_blocks(frozen, tmp_path)
    with frozen.open("rb") as one, replica.open("rb") as two:
        for offset, length in used:
            one.seek(offset)
            two.seek(offset)
            assert one.read(length) == two.read(length), f"they differ in the {length} bytes at {offset}"
    assert sum(length for _, length in used) > 100 * MIB, "the oracle sees the files"
    assert instant.disks[0].resent >= 40 * BLOCK, "what was overwritten came again"
    subprocess.run(["e2fsck", "-fn", str(replica)], check=True, capture_output=True)


BUSY = """
import os, sys
fds = [os.open(path, os.O_WRONLY | os.O_DSYNC) for path in sys.argv[1:]]
data, number = os.urandom(4096), 0
while True:
    os.pwrite(fds[number % len(fds)], data, number // len(fds) % 250 * 4096)
    number += 1
    if number == 100:
        print("busy", flush=True)
"""


@contextlib.contextmanager
def never_still(disk: LoopDisk) -> Iterator[None]:
    """Synchronous writes of 4 KiB all the time, all over the files, by two processes."""
    files = sorted(str(path) for path in disk.mountpoint.glob("data*"))
    with contextlib.ExitStack() as stack:
        for half in (files[::2], files[1::2]):
            process = stack.enter_context(subprocess.Popen([sys.executable, "-c", BUSY, *half], stdout=subprocess.PIPE))
            stack.callback(process.kill)
            assert process.stdout is not None and process.stdout.readline() == b"busy\n"
        yield


def test_a_machine_that_always_outruns_the_tracker_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each comparison loses events again: that has to end, with a reason, and the source left alone."""
    monkeypatch.setattr(tracker, "POLL", BLIND)
    monkeypatch.setattr(tracked, "MAX_RESCANS", 2)
    before = instances()
    with loop_disk(tmp_path, 256 * MIB, 180 * MIB) as disk:
        source = LocalSource()
        started = time.monotonic()
        with (
            never_still(disk),
            receiving(tmp_path, disk.size, disk.name) as (receiver, _, _),
            contextlib.closing(source),
            pytest.raises(TrackingUnavailable, match="quieter") as caught,
        ):
            source.copy(disk.spec(tracker_buffer_kib=4), receiver, lambda name, facts: None)
        assert caught.value.exit_code == 21
        assert time.monotonic() - started < 60
        assert not is_frozen(disk.mountpoint)
    assert not {name for name in instances() - before if name == f"livep2v-{os.getpid()}"}
