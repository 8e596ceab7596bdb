"""Disks that lie, and disks that fail."""

from __future__ import annotations

import contextlib
import os
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from livep2v.convert import convert
from livep2v.errors import SourceReadError
from livep2v.host.local import LocalHost
from livep2v.host.remote import RemoteSource
from livep2v.host.target import Target, parse
from livep2v.model import Options, Plan
from livep2v.plan import plan as decide
from tests.support.faults import MIB, agents, assert_nothing_left, disk_image, family, is_frozen, receiving
from tests.support.loopdisk import loop_disk

AT = MIB + 1024  # of the superblock in the image


def copied(image: Path, output: Path) -> tuple[Plan, list[str], Path]:
    """The conversation up to the verified replica, as convert.convert() holds it: plan, warnings, replica."""
    warnings: list[str] = []

    def progress(name: str, facts: dict[str, Any]) -> None:
        if name == "warning":
            warnings.append(str(facts["text"]))

    options = Options(str(image), output=str(output), name="box", format="raw")
    with contextlib.closing(LocalHost(options)) as host:
        with contextlib.closing(RemoteSource(parse(options.source))) as source:
            machine = source.inspect()
            plan = decide(machine, host.describe(), options)
            host.create_job(plan).close()  # its log
            for disk in plan.snapshot.disks:
                host.attach(host.create_disk(disk))
            source.copy(plan.snapshot, host.receiver(), progress)
        assert host.verify(progress).ok
    return plan, [*machine.warnings, *plan.warnings, *warnings], output / "box" / plan.snapshot.disks[0].file


def field(offset: int, layout: str, value: int) -> Callable[[bytearray], None]:
    def lie(superblock: bytearray) -> None:
        struct.pack_into(layout, superblock, offset, value)

    return lie


# Offsets: docs.kernel.org/filesystems/ext4/globals.html#super-block
LIES = {
    "more blocks than the disk has": (field(0x4, "<I", 1 << 30), "1073741824 blocks"),
    "no blocks": (field(0x4, "<I", 0), "0 blocks"),
    "block size of 2^40": (field(0x18, "<I", 30), "block size 2^40"),
    "no blocks per group": (field(0x20, "<I", 0), "0 blocks per group"),
    "one block per group": (field(0x20, "<I", 1), "1 blocks per group"),
    "inodes that do not add up": (field(0x0, "<I", 12345), "12345 inodes"),
    "no inodes per group": (field(0x28, "<I", 0), "0 inodes per group"),
    "descriptors of 7 bytes": (field(0xFE, "<H", 7), "group descriptors of 7 bytes"),
    "descriptors of 32 KiB": (field(0xFE, "<H", 32768), "group descriptors of 32768 bytes"),
    "inodes of 3 bytes": (field(0x58, "<H", 3), "inodes of 3 bytes"),
    "first data block": (field(0x14, "<I", 99), "first data block 99"),
    "unknown feature": (field(0x60, "<I", 0x80000000 | 0x2C2), "feature"),
    "reserved descriptor blocks": (field(0xCE, "<H", 60000), "60000 reserved descriptor blocks"),
}


def crc32c(data: bytes) -> int:
    """Bit by bit from the definition (RFC 3720 B.4), as ext4 stores it: seed all ones, not inverted at the end."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Free space is full of old data, so that "copied whole" can be told from "by a map"."""
    folder = tmp_path_factory.mktemp("image")
    path = disk_image(folder, data=12, size=40)
    raw = bytearray(path.read_bytes())
    for at in range(0, len(raw), MIB):
        if not any(raw[at : at + MIB]):
            raw[at : at + MIB] = os.urandom(MIB)
    path.write_bytes(raw)
    return path


def damaged(image: Path, folder: Path, lie: Callable[[bytearray], None], seal: bool) -> Path:
    """A copy of the image with a lie in its superblock; with ``seal`` the checksum agrees with it."""
    path = folder / "liar.img"
    raw = bytearray(image.read_bytes())
    superblock = raw[AT : AT + 1024]
    lie(superblock)
    if seal:
        struct.pack_into("<I", superblock, 0x3FC, crc32c(bytes(superblock[:0x3FC])))
    raw[AT : AT + 1024] = superblock
    path.write_bytes(raw)
    return path


def test_the_seal_is_that_of_e2fsprogs(image: Path) -> None:
    """What the lies below are sealed with is right: an unchanged superblock keeps its checksum, and has the feature."""
    with image.open("rb") as stream:
        stream.seek(AT)
        superblock = stream.read(1024)
    assert superblock[0x3FC:] == struct.pack("<I", crc32c(superblock[:0x3FC]))
    assert struct.unpack_from("<I", superblock, 0x64)[0] & 0x400, "metadata_csum"


def test_the_honest_image_travels_by_its_map(image: Path, tmp_path: Path) -> None:
    plan, _, replica = copied(image, tmp_path)
    assert "used" in {region.action.value for region in plan.snapshot.disks[0].regions}
    assert subprocess.run(["cmp", "-s", str(image), str(replica)], check=False).returncode == 1, "free space stayed behind"


@pytest.mark.parametrize("name", LIES)
def test_a_superblock_with_lies_in_it(name: str, image: Path, tmp_path: Path) -> None:
    lie, words = LIES[name]
    liar = damaged(image, tmp_path, lie, seal=True)
    _, warnings, replica = copied(liar, tmp_path / "out")
    subprocess.run(["cmp", str(liar), str(replica)], check=True)
    mine = [text for text in warnings if words in text]
    assert mine and "copied whole" in mine[0] and "#1" in mine[0], warnings


def test_a_superblock_whose_checksum_is_wrong(image: Path, tmp_path: Path) -> None:
    liar = damaged(image, tmp_path, field(0x78, "<I", 0x41414141), seal=False)  # a byte of the label flipped, say
    _, warnings, replica = copied(liar, tmp_path / "out")
    subprocess.run(["cmp", str(liar), str(replica)], check=True)
    assert any("checksum" in text and "copied whole" in text for text in warnings), warnings


def test_a_superblock_that_begins_to_lie_after_the_plan(image: Path, tmp_path: Path) -> None:
    """The plan trusted it; the map is read later, from the disk as it is then."""
    liar = damaged(image, tmp_path, field(0x20, "<I", 1), seal=True)
    warnings: list[str] = []
    options = Options(str(image), output=str(tmp_path), name="box", format="raw")
    with contextlib.closing(LocalHost(options)) as host, contextlib.closing(RemoteSource(parse(str(liar)))) as source:
        with contextlib.closing(RemoteSource(parse(str(image)))) as honest:
            plan = decide(honest.inspect(), host.describe(), options)
        host.create_job(plan).close()
        disk = plan.snapshot.disks[0]._replace(path=str(liar))
        host.attach(host.create_disk(disk))
        source.copy(
            plan.snapshot._replace(disks=(disk,)), host.receiver(),
            lambda name, facts: warnings.append(str(facts["text"])) if name == "warning" else None,
        )
        host.verify(lambda name, facts: None)
    subprocess.run(["cmp", str(liar), str(tmp_path / "box" / disk.file)], check=True)
    assert any("copied whole" in text and "1 blocks per group" in text for text in warnings), warnings


def test_an_image_cut_short_while_it_is_read(tmp_path: Path) -> None:
    image = disk_image(tmp_path)
    pids: set[int] = set()

    def progress(name: str, facts: dict[str, Any]) -> None:
        if name == "bytes" and facts["sent"] > 5 * MIB and not pids:
            pids.update(agents(family(os.getpid())) - {os.getpid()})
            os.truncate(image, 50 * MIB)

    options = Options(str(image), output=str(tmp_path), name="box", limit_rate=5 << 20, compress="none")
    with pytest.raises(SourceReadError, match="byte 52428800") as caught:
        convert(options, progress)
    assert caught.value.exit_code == 26
    assert caught.value.facts["offset"] == 50 * MIB
    assert_nothing_left(pids)
    assert "SourceReadError" in (tmp_path / "box/FAILED.txt").read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="freezing needs root")
def test_a_running_disk_that_cannot_be_read(tmp_path: Path) -> None:
    """The file under the loop device loses its end: the kernel answers reads there with EIO, as a worn disk does."""
    pids: set[int] = set()
    with loop_disk(tmp_path, 256 * MIB, 120 * MIB) as disk:
        source = RemoteSource(Target("local", "this machine"))
        whole = disk.file.stat().st_size

        def progress(name: str, facts: dict[str, Any]) -> None:
            if name == "bytes" and facts["sent"] > 5 * MIB and not pids:
                pids.update(agents(family(source._process.pid)))
                os.truncate(disk.file, 60 * MIB)

        try:
            with (
                receiving(tmp_path, disk.size, disk.name) as (receiver, _, _),
                contextlib.closing(source),
                pytest.raises(SourceReadError) as caught,
            ):
                source.copy(disk.spec(limit_rate=5 << 20, compress="none"), receiver, progress)
        finally:
            os.truncate(disk.file, whole)
        assert not is_frozen(disk.mountpoint)
    assert len(pids) == 2
    assert_nothing_left(pids)
    assert caught.value.exit_code == 26
    assert caught.value.facts["disk"] == disk.name
    assert caught.value.facts["offset"] >= 60 * MIB  # how far the reader is ahead of the wire differs
    assert "Input/output error" in str(caught.value)
