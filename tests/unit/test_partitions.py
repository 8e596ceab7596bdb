"""Partition tables against sfdisk, sgdisk and blkid, and against lies."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import struct
import subprocess
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from livep2v.errors import FormatError
from livep2v.formats.partitions import Table, read_table
from livep2v.formats.reading import bytes_reader, file_reader
from livep2v.model import Extent

MIB = 1 << 20

LOGICAL = """label: dos
label-id: 0x1234abcd
start=2048, size=20480, type=83, bootable
size=20480, type=82
start=43008, size=100000, type=5
start=150000, size=8192, type=c
start=45056, size=8192, type=83
size=8192, type=8e
size=4096, type=83
"""
GPT = """label: gpt
size=20480, type=U, name="EFI system"
size=2048, type=21686148-6449-6E6F-744E-656564454649
size=20480, type=L, name="root \u00e9\u4e2d", attrs="LegacyBIOSBootable"
start=90112, size=8192, type=S
"""
TABLES = {
    "mbr": "label: dos\nlabel-id: 0xdeadbeef\nsize=20480, type=83, bootable\ntype=83\n",
    "mbr-logical": LOGICAL,
    "mbr-lba-extended": LOGICAL.replace("type=5", "type=f"),
    "mbr-logical-only": "label: dos\nlabel-id: 0x00000001\nstart=2048, type=5\nsize=4096, type=83\nsize=4096, type=82\n",
    "mbr-gaps": "label: dos\nlabel-id: 0xff\n3 : start=4096, size=4096, type=7\n2 : start=63, size=4000, type=6\n",
    "mbr-empty": "label: dos\nlabel-id: 0xabc\n",
    "gpt": GPT,
    "gpt-numbers": 'label: gpt\n7 : size=4096, type=L\n128 : size=4096, type=L, name="last"\n',
    "gpt-empty": "label: gpt\n",
}


def disk(path: Path, script: str, size: int = 100 * MIB) -> Path:
    path.touch()
    os.truncate(path, size)
    subprocess.run(["sfdisk", "-q", path], input=script, text=True, check=True, capture_output=True)
    return path


def read(path: Path, sector_size: int = 512) -> Table:
    size = path.stat().st_size
    with path.open("rb") as file:
        return read_table(file_reader(file, size), size, sector_size)


def by_sfdisk(path: Path | str) -> dict:  # type: ignore[type-arg]
    done = subprocess.run(["sfdisk", "--json", path], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)["partitiontable"]  # type: ignore[no-any-return]


def assert_same_as_sfdisk(path: Path, sector_size: int = 512, device: str = "") -> Table:
    """``device``: where sfdisk sees the file, if not as a file."""
    table, said = read(path, sector_size), by_sfdisk(device or path)
    assert table.kind == {"dos": "mbr", "gpt": "gpt"}[said["label"]]
    assert table.id == said["id"].lower()
    theirs = {
        int(entry["node"][len(device) + 1 if device else len(str(path)) :]): (
            entry["start"] * sector_size,
            entry["size"] * sector_size,
            entry["type"].lower() if table.kind == "gpt" else "0x" + entry["type"],
            entry.get("name", ""),
            entry.get("bootable", False) or "LegacyBIOSBootable" in entry.get("attrs", ""),
        )
        for entry in said.get("partitions", [])
    }
    assert {one.number: (one.offset, one.length, one.type, one.name, one.bootable) for one in table.entries} == theirs
    if table.kind == "gpt":
        assert [one.uuid for one in table.entries] == [entry["uuid"].lower() for entry in said.get("partitions", [])]
    return table


@pytest.mark.parametrize("name", TABLES)
def test_same_as_sfdisk(tmp_path: Path, name: str) -> None:
    path = disk(tmp_path / "disk", TABLES[name])
    table = assert_same_as_sfdisk(path)
    assert not table.detail
    assert table.boot_code == ""


@pytest.mark.parametrize("name", ["mbr", "mbr-logical", "gpt"])
def test_sectors_of_4096(sparse_disk: Callable[..., Path], loop_device: Callable[..., str], name: str) -> None:
    path = sparse_disk(400 * MIB)
    device = loop_device(path, sector_size=4096)
    script = TABLES[name].replace("start=43008", "start=44032").replace("start=45056", "start=45312").replace("20480", "20224")
    script = re.sub(r"(start|size)=(\d+)", lambda match: f"{match[1]}={int(match[2]) // 256 * 128}", script)
    command = ["sfdisk", "-q", "--no-reread", "--no-tell-kernel", device]
    done = subprocess.run(command, input=script, text=True, check=False, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert len(assert_same_as_sfdisk(path, 4096, device).entries) > 1


@pytest.mark.parametrize("name", [name for name in TABLES if "empty" not in name])
def test_partuuid_is_that_of_the_kernel(tmp_path: Path, name: str) -> None:
    """What partx, with blkid's library, prints as UUID of each partition: udev makes by-partuuid links of it."""
    path = disk(tmp_path / "disk", TABLES[name])
    done = subprocess.run(["partx", "-b", "-g", "-o", "NR,UUID", path], capture_output=True, text=True, check=True)
    theirs = dict(line.split() for line in done.stdout.splitlines())
    assert {str(one.number): one.uuid for one in read(path).entries} == theirs


def test_metadata_is_where_the_tables_are(tmp_path: Path) -> None:
    """The disk has nothing but its table: with everything else zeroed it is still the same."""
    for name in ("mbr-logical", "gpt"):
        path = disk(tmp_path / name, TABLES[name])
        said, table, data = by_sfdisk(path), read(path), path.read_bytes()
        kept = bytearray(len(data))
        for offset, length in table.metadata:
            kept[offset : offset + length] = data[offset : offset + length]
        path.write_bytes(kept)
        assert by_sfdisk(path) == said
        assert sum(extent.length for extent in table.metadata) < 64 * 1024
        assert bytes(kept) == data, "sfdisk wrote nothing elsewhere"


@pytest.mark.skipif(not shutil.which("sgdisk"), reason="needs sgdisk")
def test_gpt_of_sgdisk(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.touch()
    os.truncate(path, 64 * MIB)
    subprocess.run(
        ["sgdisk", "-n", "1:0:+10M", "-t", "1:8300", "-n", "5:0:+10M", "-c", "5:five", path], check=True, capture_output=True
    )
    assert_same_as_sfdisk(path)


def test_hybrid_mbr_is_a_gpt(tmp_path: Path) -> None:
    path = disk(tmp_path / "disk", GPT)
    if not shutil.which("sgdisk"):
        pytest.skip("needs sgdisk")
    subprocess.run(["sgdisk", "-h", "1:3", path], check=True, capture_output=True)
    assert read(path).kind == "gpt"
    assert len(read(path).entries) == 4


@pytest.mark.parametrize("damage", [(512, b"\0" * 8), (512 + 60, b"\xff"), (1024 + 16, b"\xff"), (1024 + 32, b"\xff")])
def test_gpt_falls_back_to_its_copy(tmp_path: Path, damage: tuple[int, bytes]) -> None:
    path = disk(tmp_path / "disk", GPT)
    good = read(path)
    with path.open("r+b") as file:
        file.seek(damage[0])
        file.write(damage[1])
    table = assert_same_as_sfdisk(path)
    assert table.entries == good.entries
    assert "GPT" in table.detail
    with path.open("r+b") as file:
        file.seek(-512, os.SEEK_END)
        file.write(bytes(512))
    with pytest.raises(FormatError, match="GPT"):
        read(path)


def test_gpt_with_a_damaged_copy_says_so(tmp_path: Path) -> None:
    path = disk(tmp_path / "disk", GPT)
    with path.open("r+b") as file:
        file.seek(-512, os.SEEK_END)
        file.write(bytes(512))
    table = read(path)
    assert len(table.entries) == 4
    assert "EFI PART" in table.detail


def test_gpt_of_a_disk_that_has_grown(tmp_path: Path) -> None:
    path = disk(tmp_path / "disk", GPT)
    os.truncate(path, 200 * MIB)
    table = read(path)
    assert len(table.entries) == 4
    assert not table.detail
    assert max(extent.offset for extent in table.metadata) < 100 * MIB


@pytest.mark.parametrize(
    ("command", "size"),
    [
        (["mkfs.vfat"], 4 * MIB),
        (["mkfs.vfat", "-F", "16"], 32 * MIB),
        (["mkfs.vfat", "-F", "32"], 64 * MIB),
        (["mkntfs", "-F", "-Q"], 16 * MIB),
        (["mkfs.exfat"], 16 * MIB),
        (["mke2fs", "-q", "-F"], 16 * MIB),
        (["mkswap"], 4 * MIB),
        (["mkfs.btrfs", "-q"], 128 * MIB),
        (["mkfs.xfs", "-q"], 320 * MIB),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_file_system_on_the_whole_disk(tmp_path: Path, command: list[str], size: int) -> None:
    if not shutil.which(command[0]):
        pytest.skip(f"needs {command[0]}")
    path = tmp_path / "disk"
    path.touch()
    os.truncate(path, size)
    subprocess.run([*command, path], check=True, capture_output=True)
    assert read(path) == Table("none")


def test_boot_code_before_a_file_system_is_no_table(tmp_path: Path) -> None:
    """A boot loader in sector 0 of an ext volume ends in 55aa, with zeros for entries."""
    path = tmp_path / "disk"
    path.touch()
    os.truncate(path, 16 * MIB)
    subprocess.run(["mke2fs", "-q", "-F", path], check=True)
    with path.open("r+b") as file:
        file.write(b"\xeb\x58SYSLINUX".ljust(510, b"\0") + b"\x55\xaa")
    assert read(path) == Table("none", boot_code="SYSLINUX")


def test_boot_code_of_grub(tmp_path: Path) -> None:
    """GRUB's own boot.img."""
    image = Path("/usr/lib/grub/i386-pc/boot.img")
    if not image.exists():
        pytest.skip("needs grub-pc-bin")
    path = disk(tmp_path / "disk", TABLES["mbr"])
    with path.open("r+b") as file:
        file.write(image.read_bytes()[:440])
    assert assert_same_as_sfdisk(path).boot_code == "GRUB"


def test_nothing(tmp_path: Path) -> None:
    for size in (0, 100, 511, 512, 1024, MIB):
        assert read_table(bytes_reader(bytes(size)), size, 512) == Table("none")


def sector_with(*entries: tuple[int, int, int]) -> bytearray:
    sector = bytearray(512)
    sector[510:] = b"\x55\xaa"
    for index, (kind, start, sectors) in enumerate(entries):
        struct.pack_into("<B3sB3sII", sector, 446 + 16 * index, 0, b"", kind, b"", start, sectors)
    return sector


def table_of(data: bytes) -> Table:
    return read_table(bytes_reader(data), len(data), 512)


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([(0x83, 100, 1000), (0x83, 1000, 500)], r"partitions 1 \(51200\+512000\) and 2 \(512000\+256000\) overlap"),
        ([(0x83, 100, 5000)], r"partition 1 goes from byte 51200 to 2611200, the disk ends at 1048576"),
        ([(0x05, 4000, 10)], r"partition 1|extended boot record"),
        ([(0x83, 0xFFFFFFFF, 0xFFFFFFFF)], "the disk ends at"),
    ],
)
def test_mbr_with_lies(entries: list[tuple[int, int, int]], words: str) -> None:
    with pytest.raises(FormatError, match=words):
        table_of(bytes(sector_with(*entries)) + bytes(MIB - 512))


@pytest.mark.parametrize(
    ("link", "words"),
    [((0x05, 0, 10), "loops"), ((0x05, 2000, 10), "outside its container"), ((0x0F, 100, 10), "no signature")],
)
def test_chain_with_lies(link: tuple[int, int, int], words: str) -> None:
    data = bytearray(MIB)
    data[:512] = sector_with((0x05, 100, 1500))
    data[51200:51712] = sector_with((0x83, 2, 10), link)
    with pytest.raises(FormatError, match=words):
        table_of(data)


def test_logical_outside_its_container() -> None:
    data = bytearray(MIB)
    data[:512] = sector_with((0x05, 100, 200))
    data[51200:51712] = sector_with((0x83, 2, 500))
    with pytest.raises(FormatError, match="logical partition 5 at sector 102, 500 sectors"):
        table_of(data)


def test_a_chain_without_end() -> None:
    """Each record a new one: it has to stop at what the kernel can number."""
    data = bytearray(4 * MIB)
    data[:512] = sector_with((0x05, 10, 8000))
    for number in range(600):
        at = (10 + number) * 512
        data[at : at + 512] = sector_with((0, 0, 0), (0x05, number + 1, 1))
    with pytest.raises(FormatError, match="loops after 253"):
        table_of(data)


def test_container_that_nobody_wrote_to() -> None:
    table = table_of(bytes(sector_with((0x05, 100, 200))) + bytes(MIB - 512))
    assert [(one.number, one.is_container) for one in table.entries] == [(1, True)]
    assert table.metadata == (Extent(0, 512),)


@pytest.fixture(scope="module")
def small_gpt(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    script = "label: gpt\nstart=64, size=200, type=L\nsize=300, type=L\n"
    return disk(tmp_path_factory.mktemp("gpt") / "disk", "first-lba: 34\n" + script, MIB).read_bytes()


def with_header(data: bytes, at: int, value: bytes) -> bytes:
    """Both headers changed, their checksums right again (by zlib)."""
    changed = bytearray(data)
    for start in (512, len(data) - 512):
        changed[start + at : start + at + len(value)] = value
        changed[start + 16 : start + 20] = bytes(4)
        struct.pack_into("<I", changed, start + 16, zlib.crc32(changed[start : start + 92]))
    return bytes(changed)


@pytest.mark.parametrize(
    ("at", "value", "words"),
    [
        (80, struct.pack("<I", 1 << 30), "entries of"),
        (84, struct.pack("<I", 0), "entries of"),
        (84, struct.pack("<I", 1 << 20), "entries of"),
        (72, struct.pack("<Q", 1 << 50), "past the end of the disk"),
        (12, struct.pack("<I", 4000), "a header of 4000 bytes"),
        (24, struct.pack("<Q", 77), "stands in sector 77"),
        (88, b"\0\0\0\0", "checksum"),
    ],
)
def test_gpt_with_lies(small_gpt: bytes, at: int, value: bytes, words: str) -> None:
    with pytest.raises(FormatError, match=words):
        table_of(with_header(small_gpt, at, value))


@pytest.mark.parametrize(
    ("first", "last", "words"),
    [(64, 300, "partitions 1 .* and 2 .* overlap"), (300, 64, "from sector 300 to 64"), (64, 1 << 40, "the disk ends")],
)
def test_gpt_entry_with_lies(small_gpt: bytes, first: int, last: int, words: str) -> None:
    data = bytearray(small_gpt)
    for array in (1024, len(data) - 512 - 32 * 512):
        struct.pack_into("<QQ", data, array + 32, first, last)
        checksum = zlib.crc32(data[array : array + 16384])
    with pytest.raises(FormatError, match=words):
        table_of(with_header(bytes(data), 88, struct.pack("<I", checksum)))


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_flipped_byte(small_gpt: bytes, data: st.DataObject) -> None:
    """A table or a FormatError, never anything else, never for long."""
    if data.draw(st.booleans()):
        changed = bytearray(small_gpt)
        where = data.draw(st.one_of(st.integers(440, 2048), st.integers(len(changed) - 512, len(changed) - 1)))
    else:
        changed = bytearray(MIB)
        changed[:512] = sector_with((0x83, 10, 90), (0x05, 100, 1500), (0x83, 1700, 100))
        changed[51200:51712] = sector_with((0x83, 2, 10), (0x05, 50, 100))
        changed[76800:77312] = sector_with((0x83, 2, 10))
        where = data.draw(st.one_of(st.integers(440, 511), st.integers(51200 + 440, 51711), st.integers(76800 + 440, 77311)))
    changed[where] = data.draw(st.integers(0, 255))
    start = time.monotonic()
    try:
        table = table_of(bytes(changed))
    except FormatError:
        table = Table("none")
    assert time.monotonic() - start < 2
    for entry in table.entries:
        assert 0 <= entry.offset < entry.offset + entry.length <= MIB


def test_noise(tmp_path: Path) -> None:
    for seed in range(300):
        data = bytearray(random.Random(seed).randbytes(64 * 1024))
        data[510:512] = b"\x55\xaa"
        if seed % 2:
            for index in range(4):
                data[446 + 16 * index] = 0
        try:
            table_of(bytes(data))
        except FormatError:
            continue
