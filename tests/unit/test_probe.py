"""Volume signatures against blkid."""

from __future__ import annotations

import os
import random
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from livep2v.formats.probe import probe
from livep2v.formats.reading import bytes_reader, file_reader
from livep2v.model import Volume

MIB = 1 << 20


def volume(path: Path) -> Volume:
    size = path.stat().st_size
    with path.open("rb") as file:
        return probe(file_reader(file, size), size)


def blkid(path: Path) -> dict[str, str]:
    done = subprocess.run(["blkid", "-p", "-o", "export", path], capture_output=True, text=True, check=False)
    pairs = (line.split("=", 1) for line in done.stdout.splitlines())
    return {name: value.replace("\\ ", " ") for name, value in pairs}


def sparse(path: Path, size: int) -> Path:
    path.touch()
    os.truncate(path, size)
    return path


def assert_same_as_blkid(path: Path) -> Volume:
    found, said = volume(path), blkid(path)
    assert said["TYPE"] == found.kind
    assert found.uuid == said.get("UUID", "")
    assert found.label == said.get("LABEL", "")
    return found


FAST = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"]
MAKERS: dict[str, tuple[int, list[str]]] = {
    "ext2": (8 * MIB, ["mke2fs", "-q", "-F", "-t", "ext2", "-L", "a label"]),
    "ext3": (16 * MIB, ["mke2fs", "-q", "-F", "-t", "ext3"]),
    "ext4": (16 * MIB, ["mke2fs", "-q", "-F", "-t", "ext4", "-L", "sixteen-letters!"]),
    "ext4-no-journal": (16 * MIB, ["mke2fs", "-q", "-F", "-t", "ext4", "-O", "^has_journal"]),
    "jbd": (16 * MIB, ["mke2fs", "-q", "-F", "-O", "journal_dev"]),
    "xfs": (320 * MIB, ["mkfs.xfs", "-q", "-L", "xlabel"]),
    "xfs-v4": (320 * MIB, ["mkfs.xfs", "-q", "-m", "crc=0"]),
    "btrfs": (128 * MIB, ["mkfs.btrfs", "-q", "-L", "btrfs label"]),
    "swap": (4 * MIB, ["mkswap", "-L", "swap1"]),
    "swap-8k": (4 * MIB, ["mkswap", "-p", "8192"]),
    "fat12": (4 * MIB, ["mkfs.vfat", "-n", "TWELVE"]),
    "fat12-no-label": (4 * MIB, ["mkfs.vfat"]),
    "fat16": (32 * MIB, ["mkfs.vfat", "-F", "16", "-n", "SIXTEEN"]),
    "fat32": (300 * MIB, ["mkfs.vfat", "-F", "32", "-n", "THIRTY TWO"]),
    "fat32-4k": (300 * MIB, ["mkfs.vfat", "-F", "32", "-S", "4096", "-n", "BIG"]),
    "exfat": (64 * MIB, ["mkfs.exfat", "-L", "ex label"]),
    "exfat-no-label": (64 * MIB, ["mkfs.exfat"]),
    "ntfs": (16 * MIB, ["mkntfs", "-F", "-Q", "-L", "Windows System"]),
    "ntfs-64k": (64 * MIB, ["mkntfs", "-F", "-Q", "-c", "65536"]),
    "f2fs": (64 * MIB, ["mkfs.f2fs", "-q", "-l", "f2fs label"]),
    "luks1": (
        20 * MIB,
        ["cryptsetup", "-q", "luksFormat", "--type", "luks1", "--pbkdf-force-iterations", "1000", "--key-file", "KEY"],
    ),
    "luks2": (20 * MIB, ["cryptsetup", "-q", "luksFormat", "--type", "luks2", "--label", "secret", *FAST, "--key-file", "KEY"]),
}


@pytest.mark.parametrize("name", MAKERS)
def test_same_as_blkid(tmp_path: Path, name: str) -> None:
    size, command = MAKERS[name]
    if not shutil.which(command[0]):
        pytest.skip(f"needs {command[0]}")
    path = sparse(tmp_path / "volume", size)
    key = tmp_path / "key"
    key.write_bytes(b"key")
    done = subprocess.run([*(str(key) if part == "KEY" else part for part in command), path], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"{command[0]} does not make it here: {done.stderr.decode().strip()[-200:]}")
    found = assert_same_as_blkid(path)
    assert not found.detail or name.startswith("luks")


def test_squashfs(tmp_path: Path) -> None:
    if not shutil.which("mksquashfs"):
        pytest.skip("needs mksquashfs")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/file").write_text("x")
    subprocess.run(["mksquashfs", tmp_path / "tree", tmp_path / "volume", "-quiet"], check=True, capture_output=True)
    assert_same_as_blkid(tmp_path / "volume")


def test_iso9660(tmp_path: Path) -> None:
    maker = next((name for name in ("xorrisofs", "genisoimage", "mkisofs") if shutil.which(name)), None)
    if maker is None:
        pytest.skip("needs xorrisofs or genisoimage")
    (tmp_path / "tree").mkdir()
    subprocess.run(
        [maker, "-quiet", "-V", "DISC", "-o", tmp_path / "volume", tmp_path / "tree"], check=True, capture_output=True
    )
    assert_same_as_blkid(tmp_path / "volume")


@pytest.mark.parametrize("version", ["0.90", "1.0", "1.1", "1.2"])
def test_md_superblocks(tmp_path: Path, version: str) -> None:
    """Without an md driver mdadm cannot make a member; the layout is linux/raid/md_p.h, and blkid confirms it."""
    path = sparse(tmp_path / "volume", 20 * MIB + 5 * 1024)
    size = path.stat().st_size
    own = bytes(range(1, 17))
    if version == "0.90":
        block = struct.pack(
            "<16I", 0xA92B4EFC, 0, 90, 0, 0, *struct.unpack("<I", own[:4]), 0, 1, 10 * 1024, 2, 2, 0, 0, 5, 6, 7
        )
        at = (size & ~0xFFFF) - 0x10000
    else:
        at = {"1.0": (size - 8192) & ~0xFFF, "1.1": 0, "1.2": 4096}[version]
        block = bytearray(256)
        struct.pack_into("<II", block, 0, 0xA92B4EFC, 1)
        block[16:32] = own
        block[32:64] = b"oldbox:0".ljust(32, b"\0")
        struct.pack_into("<I", block, 128, 2048)
        struct.pack_into("<Q", block, 144, at // 512)
        struct.pack_into("<I", block, 220, 0)
        total = sum(struct.unpack("<64I", bytes(block)))
        struct.pack_into("<I", block, 216, (total & 0xFFFFFFFF) + (total >> 32))  # calc_sb_1_csum()
    with path.open("r+b") as file:
        file.seek(at)
        file.write(block)
    found = assert_same_as_blkid(path)
    assert found.kind == "linux_raid_member"
    assert version in found.detail


def test_a_raid_member_is_not_the_file_system_inside(tmp_path: Path) -> None:
    path = sparse(tmp_path / "volume", 16 * MIB)
    subprocess.run(["mke2fs", "-q", "-F", path, "15M"], check=True)
    at = (16 * MIB - 8192) & ~0xFFF
    block = bytearray(256)
    struct.pack_into("<II", block, 0, 0xA92B4EFC, 1)
    struct.pack_into("<Q", block, 144, at // 512)
    block[16:32] = bytes(range(16))
    with path.open("r+b") as file:
        file.seek(at)
        file.write(block)
    assert volume(path).kind == "linux_raid_member"


def crafted(path: Path, size: int, *pieces: tuple[int, bytes]) -> Path:
    sparse(path, size)
    with path.open("r+b") as file:
        for offset, data in pieces:
            file.seek(offset)
            file.write(data)
    return path


def lvm_crc(data: bytes) -> int:
    """calc_crc() of lvm2 lib/misc/crc.c: the reflected CRC-32 polynomial, register 0xf597a6cf, no inversion."""
    crc = 0xF597A6CF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xEDB88320 if crc & 1 else 0)
    return crc


@pytest.mark.parametrize("sector", [0, 1, 2, 3])
def test_lvm_physical_volume(tmp_path: Path, sector: int) -> None:
    label = bytearray(512)
    label[:8] = b"LABELONE"
    struct.pack_into("<Q", label, 8, sector)
    struct.pack_into("<I", label, 20, 32)
    label[24:32] = b"LVM2 001"
    label[32:64] = b"AbCdEfGhIjKlMnOpQrStUvWxYz012345"
    struct.pack_into("<I", label, 16, lvm_crc(bytes(label[20:])))
    path = crafted(tmp_path / "volume", 8 * MIB, (512 * sector, bytes(label)))
    assert assert_same_as_blkid(path).kind == "LVM2_member"


def test_bitlocker_bcache_and_others(tmp_path: Path) -> None:
    """Kinds that no tool here makes: signatures as published, the name is blkid's."""
    magic = bytes.fromhex("c68573f64e1a45ca8265f57f48ba6d81")
    bcache = bytearray(4096)
    struct.pack_into("<QQQ", bcache, 0, 0, 8, 1)
    bcache[24:40] = magic
    own = bytes(range(16))
    reiserfs = (65536, struct.pack("<I", 2048)), (65536 + 44, b"\0\x10"), (65536 + 52, b"ReIsEr2Fs"), (65536 + 84, own)
    jfs_head = b"JFS1" + struct.pack("<IQII", 1, 0, 4096, 12 | 3 << 16) + struct.pack("<IH", 512, 9)
    uberblocks = [base + 0x20000 + 1024 * slot for base in (0, 0x40000) for slot in range(1, 9)]
    zfs = [(at, struct.pack("<QQQ", 0xBAB10C, 5000, at)) for at in uberblocks]
    cases = {
        "reiserfs": crafted(tmp_path / "r", 8 * MIB, *reiserfs),
        "jfs": crafted(tmp_path / "j", 8 * MIB, (32768, jfs_head), (32768 + 136, own)),
        "zfs_member": crafted(tmp_path / "z", 64 * MIB, *zfs),
    }
    for kind, path in cases.items():
        assert volume(path).kind == kind
        said = blkid(path)
        if said.get("TYPE"):
            assert said["TYPE"] == kind
    assert volume(crafted(tmp_path / "c", 8 * MIB, (4096, bytes(bcache)))).kind == "bcache"
    assert volume(crafted(tmp_path / "b", 8 * MIB, (0, b"\xeb\x58\x90-FVE-FS-\0\2\x08"))).kind == "BitLocker"


@pytest.mark.parametrize("signature", [b"S1SUSPEND\0", b"S2SUSPEND\0", b"ULSUSPEND\0", b"LINHIB0001"])
def test_hibernated_swap_keeps_its_identity(tmp_path: Path, signature: bytes) -> None:
    path = sparse(tmp_path / "volume", 4 * MIB)
    subprocess.run(["mkswap", "-L", "hiber", path], check=True, capture_output=True)
    before = volume(path)
    with path.open("r+b") as file:
        file.seek(4096 - 10)
        file.write(signature)
    found = volume(path)
    assert blkid(path)["TYPE"] == "swsuspend"
    assert found.kind == "swap"
    assert (found.uuid, found.label) == (before.uuid, before.label)
    assert f"hibernation image ({signature.rstrip(bytes(1)).decode()})" in found.detail


def test_bytes_used(tmp_path: Path) -> None:
    path = sparse(tmp_path / "volume", 64 * MIB)
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", path], check=True)
    said = {line.partition(":")[0]: line.partition(":")[2].strip() for line in subprocess.run(
        ["dumpe2fs", "-h", path], capture_output=True, text=True, check=True
    ).stdout.splitlines()}  # fmt: skip
    used = int(said["Block count"]) - int(said["Free blocks"])
    assert volume(path).used == used * int(said["Block size"])


def test_empty_and_unknown() -> None:
    for size in (0, 1, 511, 512, 4096, MIB, 3 * MIB):
        assert probe(bytes_reader(bytes(size)), size) == Volume("empty")
    data = bytearray(3 * MIB)
    data[-1] = 1
    assert probe(bytes_reader(bytes(data)), len(data)) == Volume("unknown")
    data = bytearray(3 * MIB)
    data[MIB - 1] = 1
    assert probe(bytes_reader(bytes(data)), len(data)) == Volume("unknown")


def test_a_damaged_superblock_is_told(tmp_path: Path) -> None:
    """Not "ext4": its map cannot be trusted, so it has to be copied whole; its UUID is still of use."""
    path = sparse(tmp_path / "volume", 16 * MIB)
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", path], check=True)
    own = blkid(path)["UUID"]
    with path.open("r+b") as file:
        file.seek(1024 + 0x20)
        file.write(b"\xff")
    found = volume(path)
    assert found.kind == "unknown"
    assert found.uuid == own
    assert "ext superblock at byte 1024: its checksum is" in found.detail


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_damage_gives_an_answer(victims: list[bytes], data: st.DataObject) -> None:
    image = bytearray(data.draw(st.sampled_from(victims)))
    for _ in range(data.draw(st.integers(1, 4))):
        image[data.draw(st.integers(0, 1536))] = data.draw(st.integers(0, 255))
    found = probe(bytes_reader(bytes(image)), len(image))
    assert found.kind


@pytest.fixture(scope="module")
def victims(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    found = []
    for name in ("fat12", "fat16", "exfat", "ntfs", "ext4", "luks2", "swap"):
        size, command = MAKERS[name]
        if name == "luks2" or not shutil.which(command[0]):
            continue
        path = sparse(tmp_path_factory.mktemp("victims") / name, min(size, 16 * MIB))
        subprocess.run([*command, path], check=True, capture_output=True)
        found.append(path.read_bytes()[: 4 * MIB])
    return found


def test_noise() -> None:
    for seed in range(100):
        data = random.Random(seed).randbytes(256 * 1024)
        assert probe(bytes_reader(data), len(data)).kind == "unknown"
