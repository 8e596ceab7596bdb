"""One contract for every Source: in this process, and the same calls over the wire to an agent."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from livep2v.errors import FormatError, Livep2vError, SourceReadError, UsageError
from livep2v.host.digestmap import DigestMap
from livep2v.host.image import create, open_image
from livep2v.host.receiver import Held, ImageReceiver
from livep2v.host.remote import RemoteSource
from livep2v.host.target import Target
from livep2v.model import Action, Instant, PlanDisk, Region, SnapshotSpec
from livep2v.parties import Source
from livep2v.source.local import LocalSource
from tests.support.loopdisk import loop_disk, sqlite_writer, used_blocks

KINDS = ["in this process", "over the wire"]
MIB = 1 << 20


@contextlib.contextmanager
def opened(kind: str, image: Path | None) -> Iterator[Source]:
    if kind == KINDS[0]:
        source: Source = LocalSource(str(image) if image else None)
    else:
        target = Target("image", str(image), path=str(image)) if image else Target("local", "this machine")
        source = RemoteSource(target)
    with contextlib.closing(source):
        yield source


@contextlib.contextmanager
def receiving(folder: Path, size: int, image_format: str = "raw") -> Iterator[tuple[ImageReceiver, Path]]:
    path = folder / f"replica.{image_format}"
    held = Held("disk", create(path, image_format, "dynamic", size), DigestMap(folder / "digests", size))
    receiver = ImageReceiver([held])
    try:
        yield receiver, path
        receiver.flush()
        held.image.flush()
    finally:
        receiver.close()
        held.image.close()
        held.digests.close()


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MBR disk: a filled ext4 in partition 1, swap full of old pages in 2, old data everywhere else."""
    folder = tmp_path_factory.mktemp("image")
    path, tree = folder / "disk.img", folder / "tree"
    tree.mkdir()
    for number in range(40):
        (tree / f"file{number}").write_bytes(os.urandom(number * 50_000))
    path.write_bytes(os.urandom(MIB) * 256)
    table = "label: dos\nlabel-id: 0x12345678\nstart=2048, size=409600, type=83, bootable\nstart=411648, size=102400, type=82\n"
    subprocess.run(["sfdisk", "-q", str(path)], input=table, text=True, check=True)
    mkfs = ["mkfs.ext4", "-q", "-F", "-E", f"offset={MIB},nodiscard", "-d", str(tree), str(path), "200M"]
    subprocess.run(mkfs, check=True, capture_output=True)
    swap = folder / "swap"
    swap.write_bytes(os.urandom(50 * MIB))
    subprocess.run(["mkswap", "-q", str(swap)], check=True)
    with path.open("r+b") as stream:
        stream.seek(201 * MIB)
        stream.write(swap.read_bytes())
    return path


def spec_of(image: Path) -> SnapshotSpec:
    size = image.stat().st_size
    regions = (
        Region(0, MIB, Action.COPY, "boot"),
        Region(MIB, 200 * MIB, Action.USED, "ext4", "p1"),
        Region(201 * MIB, 50 * MIB, Action.HEADER, "swap", "p2", header_length=4096),
        Region(251 * MIB, size - 251 * MIB, Action.SKIP, "gap"),
    )
    disk = PlanDisk(0, "disk", str(image), "", size, 512, "disk.raw", "raw", "dynamic", regions, 1, source_format="raw")
    return SnapshotSpec("offline", (disk,), 1.0, 5.0)


@pytest.mark.parametrize("kind", KINDS)
def test_inspect_says_what_sfdisk_and_blkid_say(kind: str, image: Path) -> None:
    with opened(kind, image) as source:
        machine = source.inspect()
    assert not machine.live
    (disk,) = machine.disks
    listing = subprocess.run(["sfdisk", "--json", str(image)], capture_output=True, check=True).stdout
    oracle = json.loads(listing)["partitiontable"]
    assert (disk.size, disk.table, disk.table_id) == (256 * MIB, "mbr", oracle["id"])
    assert [(p.offset, p.length) for p in disk.partitions] == [
        (entry["start"] * 512, entry["size"] * 512) for entry in oracle["partitions"]
    ]
    for partition in disk.partitions:
        out = subprocess.run(
            ["blkid", "-p", "-O", str(partition.offset), "-S", str(partition.length), "-o", "export", str(image)],
            capture_output=True, text=True, check=True,
        ).stdout
        facts: dict[str, Any] = dict(line.split("=", 1) for line in out.splitlines() if "=" in line)
        assert (partition.volume.kind, partition.volume.uuid) == (facts["TYPE"], facts["UUID"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("image_format", ["raw", "vhd"])
def test_an_image_arrives(kind: str, image_format: str, image: Path, tmp_path: Path) -> None:
    events: list[str] = []
    with opened(kind, image) as source, receiving(tmp_path, 256 * MIB, image_format) as (receiver, path):
        instant: Instant = source.copy(spec_of(image), receiver, lambda name, facts: events.append(name))
    replica = tmp_path / "as.raw"
    driver = {"vhd": "vpc"}.get(image_format, image_format)
    subprocess.run(["qemu-img", "convert", "-f", driver, "-O", "raw", str(path), str(replica)], check=True)
    assert replica.stat().st_size == 256 * MIB
    part = tmp_path / "part.raw"
    with image.open("rb") as stream:
        stream.seek(MIB)
        part.write_bytes(stream.read(200 * MIB))
    used = used_blocks(part, tmp_path)
    with image.open("rb") as one, replica.open("rb") as two:
        for offset, length in [(0, MIB), (201 * MIB, 4096)] + [(MIB + at, size) for at, size in used]:
            one.seek(offset)
            two.seek(offset)
            assert one.read(length) == two.read(length)
        two.seek(201 * MIB + 65536)
        assert two.read(50 * MIB - 65536) == bytes(50 * MIB - 65536), "swap content stays behind"
        two.seek(251 * MIB)
        assert two.read(4 * MIB) == bytes(4 * MIB), "unpartitioned space stays behind"
    used_bytes = sum(length for _, length in used)
    copy = instant.disks[0]
    assert copy.sent <= 1.10 * (used_bytes + MIB + 4096)
    assert instant.freeze_ms == 0 and instant.passes[0].blocks * 65536 >= copy.sent
    assert "bytes" in events
    copied = open_image(path, image_format)
    assert copied.size == 256 * MIB
    copied.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.skipif(os.geteuid() != 0, reason="freezing needs root")
def test_a_running_disk_arrives(kind: str, tmp_path: Path) -> None:
    with loop_disk(tmp_path, 256 * MIB, 40 * MIB) as disk, sqlite_writer(disk.mountpoint) as writer:
        with opened(kind, None) as source, receiving(tmp_path, disk.size) as (receiver, path):
            instant = source.copy(disk.spec(), receiver, lambda name, facts: None)
        assert writer.poll() is None
    assert instant.freeze_ms < 1000 and instant.thawed_at >= instant.frozen_at > 0
    assert instant.mountpoints == (str(disk.mountpoint),)
    subprocess.run(["e2fsck", "-fn", str(path)], check=True, capture_output=True)


@pytest.mark.parametrize("kind", KINDS)
def test_errors_are_the_same_on_both_sides(kind: str, image: Path, tmp_path: Path) -> None:
    spec = spec_of(image)
    with opened(kind, image) as source, receiving(tmp_path, 256 * MIB) as (receiver, _):
        with pytest.raises(UsageError, match="provider"):
            source.copy(spec._replace(provider="magic"), receiver, lambda name, facts: None)
        gone = spec.disks[0]._replace(path=str(tmp_path / "gone.img"))
        with pytest.raises((SourceReadError, FormatError, Livep2vError), match="gone"):
            source.copy(spec._replace(disks=(gone,)), receiver, lambda name, facts: None)
        short = spec.disks[0]._replace(size=300 * MIB, regions=(Region(0, 300 * MIB, Action.COPY, "boot"),))
        with pytest.raises(Livep2vError):
            source.copy(spec._replace(disks=(short,)), receiver, lambda name, facts: None)


def test_the_agent_runs_under_every_python_here(image: Path, tmp_path: Path) -> None:
    """Every Python 3.6+ of this machine runs the archive and gives the same answer."""
    from livep2v.host import bootstrap

    patterns = ("/usr/bin/python3.[0-9]*", f"{Path.home()}/.pyenv/versions/3.*/bin/python3")
    installed = {path.resolve() for pattern in patterns for path in Path("/").glob(pattern[1:]) if path.name[-1].isdigit()}
    pythons = sorted({str(path) for path in installed if path.name[-1].isdigit()} | {os.path.realpath(sys.executable)})
    archive = tmp_path / "agent.zip"
    archive.write_bytes(bootstrap.archive())
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import json\n"
        "from livep2v.model import to_json\n"
        "from livep2v.source.local import LocalSource\n"
        "import livep2v.source.agent\n"
        "source = LocalSource(sys.argv[2]); print(json.dumps(to_json(source.inspect()), sort_keys=True)); source.close()\n"
    )
    answers = {}
    for python in pythons:
        argv = [python, "-I", "-c", program, str(archive), str(image)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{python}: {done.stderr[-500:]}"
        machine = json.loads(done.stdout)
        machine["abilities"]["python"] = machine["abilities"]["zstd"] = ""
        answers[python] = machine
    print(len(answers), "Pythons:", *answers)
    assert len({json.dumps(answer) for answer in answers.values()}) == 1
