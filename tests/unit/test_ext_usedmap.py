"""The used-block map of ext2/3/4 against dumpe2fs, partclone and e2fsck, and against lies."""

from __future__ import annotations

import hashlib
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from livep2v.errors import FormatError
from livep2v.formats.ext import Group, groups, superblock
from livep2v.formats.reading import Read, bytes_reader, file_reader
from livep2v.model import Extent
from livep2v.source import usedmap

MIB = 1 << 20
VARIANTS = {
    "ext2-1k": "-t ext2 -b 1024",
    "ext2-4k": "-t ext2 -b 4096",
    "ext2-old": "-t ext2 -r 0 -b 1024",
    "ext3": "-t ext3 -b 1024",
    "ext4": "-t ext4 -b 4096",
    "ext4-1k": "-t ext4 -b 1024",
    "ext4-2k": "-t ext4 -b 2048",
    "ext4-64k": "-t ext4 -b 65536",
    "64bit": "-t ext4 -O 64bit -b 1024",
    "32bit": "-t ext4 -O ^64bit -b 1024",
    "uninit": "-t ext4 -O ^metadata_csum,uninit_bg -b 1024",
    "uninit-32bit": "-t ext4 -O ^metadata_csum,uninit_bg,^64bit -b 1024",
    "no-checksums": "-t ext4 -O ^metadata_csum,^uninit_bg -b 1024",
    "meta_bg": "-t ext4 -O meta_bg,^resize_inode -b 1024 -g 512",
    "meta_bg-uninit": "-t ext4 -O meta_bg,^resize_inode,^metadata_csum,uninit_bg,^flex_bg -b 1024 -g 256",
    "bigalloc": "-t ext4 -O bigalloc -b 4096 -C 65536",
    "bigalloc-1k": "-t ext4 -O bigalloc -b 1024 -C 16384",
    "all-super": "-t ext4 -O ^sparse_super,^resize_inode -b 1024",
    "sparse_super2": "-t ext4 -O sparse_super2,^resize_inode -b 1024",
    "no-flex": "-t ext4 -O ^flex_bg -b 1024",
    "flex-64": "-t ext4 -G 64 -b 1024 -g 256",
    "packed": "-t ext4 -E packed_meta_blocks=1 -b 1024",
    "small-groups": "-t ext4 -b 1024 -g 256 -O ^resize_inode",
    "csum_seed": "-t ext4 -O metadata_csum_seed -b 1024",
}
SIZES = {"meta_bg": 64 * MIB + 3000, "ext2-old": 40 * MIB + 1, "bigalloc-1k": 50 * MIB + 5 * 1024, "uninit": 61 * MIB + 777}


def make(path: Path, options: str, size: int, source: Path | None = None) -> None:
    path.touch()
    os.truncate(path, size)
    fill = ["-d", str(source)] if source else []
    command = ["mke2fs", "-q", "-F", *options.split(), *fill, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of many sizes, one sparse, one in a deep folder."""
    top = tmp_path_factory.mktemp("tree")
    dice = random.Random(1)
    for number in range(80):
        folder = top / f"d{number % 7}"
        folder.mkdir(exist_ok=True)
        (folder / f"f{number}").write_bytes(dice.randbytes(dice.choice([0, 10, 1000, 5000, 70000, 400000])))
    with (top / "sparse").open("wb") as file:
        file.seek(3 * MIB)
        file.write(b"end" * 1000)
    return top


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory, tree: Path) -> Iterator[dict[str, Path]]:
    """Every variant, filled by mke2fs -d."""
    folder = tmp_path_factory.mktemp("images")
    made = {}
    for name, options in VARIANTS.items():
        made[name] = folder / f"{name}.img"
        size = SIZES.get(name, 200 * MIB if "64k" in name or "bigalloc" in name else 48 * MIB)
        make(made[name], options, size, None if name == "ext2-old" else tree)
    yield made
    shutil.rmtree(folder)


def used_by(path: Path) -> tuple[list[Group], int]:
    size = path.stat().st_size
    with path.open("rb") as file:
        return list(groups(file_reader(file, size), size)), size


def mask_of(extents: Iterable[Extent], size: int) -> bytearray:
    """A byte for each 512 bytes, 1 where the extents are; every extent has to be whole sectors, but for the end."""
    mask = bytearray(-(-size // 512))
    for offset, length in extents:
        assert offset % 512 == 0
        assert length % 512 == 0 or offset + length == size
        mask[offset // 512 : -(-(offset + length) // 512)] = b"\1" * -(-length // 512)
    return mask


def dumpe2fs(path: Path) -> str:
    return subprocess.run(["dumpe2fs", path], capture_output=True, text=True, check=True).stdout


def free_by_dumpe2fs(path: Path, size: int) -> bytearray:
    """A byte for each 512 bytes, 1 where dumpe2fs lists a free block."""
    text = dumpe2fs(path)
    block = int(re.findall(r"^Block size: +(\d+)", text, re.MULTILINE)[0])
    cluster = re.findall(r"^Cluster size: +(\d+)", text, re.MULTILINE)
    more = int(cluster[0]) // block - 1 if cluster else 0  # with bigalloc a range ends with the first block of its last cluster
    blocks = int(re.findall(r"^Block count: +(\d+)", text, re.MULTILINE)[0])
    mask = bytearray(-(-size // 512))
    for line in re.findall(r"^ +Free blocks: (.*)$", text, re.MULTILINE):
        for part in filter(None, line.strip().split(", ")):
            low, _, high = part.partition("-")
            stop = min(int(high or low) + more + 1, blocks)
            mask[int(low) * block // 512 : stop * block // 512] = b"\1" * ((stop - int(low)) * block // 512)
    return mask


def assert_covers(found: list[Group], size: int) -> None:
    """The groups follow each other from 0 to the end, their used parts lie sorted and merged inside them."""
    position = 0
    for group in found:
        assert group.offset == position
        assert group.length > 0
        end = group.offset
        for index, extent in enumerate(group.used):
            assert extent.length > 0
            assert extent.offset >= end + (1 if index else 0)
            end = extent.offset + extent.length
        assert end <= group.offset + group.length
        for extent in group.metadata:
            assert 0 <= extent.offset < extent.offset + extent.length <= size
        position += group.length
    assert position == size


def inverse(mask: bytearray) -> bytes:
    return bytes(mask).translate(bytes([1, 0]) + bytes(254))


def assert_same_as_dumpe2fs(path: Path) -> None:
    found, size = used_by(path)
    assert_covers(found, size)
    assert [group.doubt for group in found if group.doubt] == []
    ours = mask_of((extent for group in found for extent in group.used), size)
    assert bytes(ours) == inverse(free_by_dumpe2fs(path, size))


@pytest.mark.parametrize("name", VARIANTS)
def test_same_as_dumpe2fs(images: dict[str, Path], name: str) -> None:
    assert_same_as_dumpe2fs(images[name])


PARTCLONE = ["ext2-1k", "ext3", "ext4-1k", "64bit", "uninit", "meta_bg", "sparse_super2"]  # it sleeps 2 s each time


@pytest.mark.parametrize("name", PARTCLONE)
def test_same_as_partclone(images: dict[str, Path], name: str, tmp_path: Path) -> None:
    """partclone.extfs -D writes the map of used ranges that it would copy."""
    path = images[name]
    domain = tmp_path / "domain"
    command = ["partclone.extfs", "-D", "-s", path, "-O", domain, "-L", tmp_path / "log", "-q"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("partclone cannot read it: " + (done.stderr.strip().splitlines() or ["no reason given"])[-1])
    found, size = used_by(path)
    theirs = bytearray(-(-size // 512))
    for line in domain.read_text().splitlines():
        start, length, status = (line.split() + ["", "", ""])[:3]
        if status == "+":
            first, last = int(start, 16) // 512, -(-(int(start, 16) + int(length, 16)) // 512)
            theirs[first:last] = b"\1" * (last - first)
    sb = superblock_of(path)
    end = sb.blocks * sb.block_size // 512
    ours = mask_of((extent for group in found for extent in group.used), size)
    boot = sb.first_data_block * sb.block_size // 512  # partclone leaves the boot block to others
    assert bytes(ours[boot:end]) == bytes(theirs[boot:end])


def superblock_of(path: Path):  # type: ignore[no-untyped-def]
    size = path.stat().st_size
    with path.open("rb") as file:
        return superblock(file_reader(file, size), size)


@pytest.mark.parametrize("name", VARIANTS)
def test_superblock_is_that_of_dumpe2fs(images: dict[str, Path], name: str) -> None:
    text = dumpe2fs(images[name])
    sb = superblock_of(images[name])

    def said(field: str) -> str:
        return re.findall(rf"^{field}: +(.*)$", text, re.MULTILINE)[0].strip()

    assert sb.block_size == int(said("Block size"))
    assert sb.blocks == int(said("Block count"))
    assert sb.free_blocks == int(said("Free blocks"))
    assert sb.blocks_per_group == int(said("Blocks per group"))
    assert sb.first_data_block == int(said("First block"))
    assert sb.inodes_per_group == int(said("Inodes per group"))
    assert sb.inode_table_blocks == int(said("Inode blocks per group"))
    assert sb.uuid.hex() == said("Filesystem UUID").replace("-", "").replace("<none>", "0" * 32)
    assert sb.clean is (said("Filesystem state") == "clean")
    assert sb.needs_recovery is ("needs_recovery" in said("Filesystem features"))
    kind = subprocess.run(
        ["blkid", "-p", "-o", "value", "-s", "TYPE", images[name]], capture_output=True, text=True, check=True
    )
    assert sb.kind == kind.stdout.strip()


def tree_digest(top: Path) -> dict[str, str]:
    return {
        str(path.relative_to(top)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(top.rglob("*"))
        if path.is_file()
    }


def only_used(path: Path, copy: Path) -> None:
    """A copy that has zeros wherever our map says free."""
    found, size = used_by(path)
    with path.open("rb") as source, copy.open("wb") as target:
        target.truncate(size)
        for group in found:
            for offset, length in group.used:
                source.seek(offset)
                target.seek(offset)
                target.write(source.read(length))


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "ext2-old"])
def test_a_copy_of_the_used_blocks_is_whole(images: dict[str, Path], name: str, tree: Path, tmp_path: Path) -> None:
    copy, out = tmp_path / "copy.img", tmp_path / "out"
    only_used(images[name], copy)
    checked = subprocess.run(["e2fsck", "-fn", copy], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
    out.mkdir()
    subprocess.run(["debugfs", "-R", f"rdump / {out}", copy], capture_output=True, check=True)
    shutil.rmtree(out / "lost+found", ignore_errors=True)
    assert tree_digest(out) == tree_digest(tree)


AGED = ["ext2-1k", "ext3", "ext4", "ext4-1k", "uninit", "no-checksums", "meta_bg", "bigalloc", "flex-64", "32bit", "no-flex"]


@pytest.mark.parametrize("name", AGED)
def test_aged_by_the_kernel(name: str, tmp_path: Path) -> None:
    """Files made and deleted through a real mount: the bitmaps are the kernel's, not mke2fs's."""
    path, mount = tmp_path / "aged.img", tmp_path / "mnt"
    size = SIZES.get(name, 256 * MIB if name == "bigalloc" else 96 * MIB)
    make(path, VARIANTS[name], size)
    with path.open("r+b") as file:  # old data in the free space: zeroing must show if a used block is taken for free
        found, _ = used_by(path)
        for group in found[1:-1:2]:
            end = group.offset
            for extent in [*group.used, Extent(group.offset + group.length, 0)]:
                if extent.offset > end:
                    file.seek(end)
                    file.write(b"\xa5" * min(extent.offset - end, 4096))
                end = extent.offset + extent.length
    mount.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-o", "loop", path, mount], capture_output=True, check=False).returncode:
        pytest.skip("cannot mount a loop device here")
    try:
        dice = random.Random(name)
        kept = []
        for number in range(400):
            target = mount / f"d{number % 9}" / f"f{number}"
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(dice.randbytes(dice.choice([50, 3000, 20000, 150000])))
            kept.append(target)
            if dice.random() < 0.5:
                kept.pop(dice.randrange(len(kept))).unlink()
        if "ext2" not in name and name != "ext3":
            with (mount / "reserved").open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, 3 * MIB)
        expected = tree_digest(mount)
    finally:
        subprocess.run(["umount", mount], check=True)
    wait_for_detach(path)
    assert_same_as_dumpe2fs(path)
    copy, out = tmp_path / "copy.img", tmp_path / "out"
    only_used(path, copy)
    checked = subprocess.run(["e2fsck", "-fn", copy], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
    out.mkdir()
    subprocess.run(["debugfs", "-R", f"rdump / {out}", copy], capture_output=True, check=True)
    assert tree_digest(out) == expected


def wait_for_detach(path: Path) -> None:
    for _ in range(100):
        if not subprocess.run(["losetup", "-j", path], capture_output=True, text=True, check=True).stdout:
            return
        time.sleep(0.1)


def test_tiny_volumes(tmp_path: Path) -> None:
    for kib in (64, 100, 257, 1025, 8193, 8194, 8300):
        path = tmp_path / f"{kib}.img"
        make(path, "-t ext2 -b 1024 -N 16", kib * 1024 + 511)
        assert_same_as_dumpe2fs(path)


def test_a_full_volume(tmp_path: Path) -> None:
    """Bitmaps without a free block, and next to them some with one."""
    path, big = tmp_path / "full.img", tmp_path / "big"
    make(path, "-t ext2 -b 1024 -m 0", 32 * MIB)
    big.write_bytes(bytes([1]) * 40 * MIB)  # more than there is room for
    subprocess.run(["debugfs", "-w", "-R", f"write {big} big", path], capture_output=True, check=False)
    subprocess.run(["e2fsck", "-fy", path], capture_output=True, check=False)
    assert re.search(r"^Free blocks: +0$", dumpe2fs(path), re.MULTILINE)
    assert_same_as_dumpe2fs(path)


def group_facts(path: Path, number: int, words: str) -> int:
    return int(re.findall(rf"Group {number}:.*?{words}", dumpe2fs(path), re.DOTALL)[0])


def test_a_bitmap_that_frees_its_own_metadata_is_doubted(tmp_path: Path) -> None:
    """debugfs frees the block of the bitmap itself, and the count of free blocks is made to agree."""
    path = tmp_path / "bad.img"
    make(path, "-t ext2 -b 1024", 32 * MIB)
    bitmap, free = group_facts(path, 1, r"Block bitmap at (\d+)"), group_facts(path, 1, r"(\d+) free blocks")
    subprocess.run(["debugfs", "-w", "-R", f"freeb {bitmap}", path], capture_output=True, check=True)
    for command, words in (("", "free, its descriptor"), (f"set_bg 1 free_blocks_count {free + 1}", "hold its metadata")):
        subprocess.run(["debugfs", "-w", "-R", command, path], capture_output=True, check=True)
        found, _ = used_by(path)
        assert words in found[1].doubt
        assert found[1].used == (Extent(found[1].offset, found[1].length),)
        assert [group.doubt for group in found if group.doubt] == [found[1].doubt]


def patched(path: Path, changes: dict[int, bytes]) -> tuple[Read, int]:
    data = bytearray(path.read_bytes())
    for offset, value in changes.items():
        data[offset : offset + len(value)] = value
    return bytes_reader(bytes(data)), len(data)


@pytest.mark.parametrize(
    ("offset", "value", "words"),
    [
        (0x38, b"\0\0", "magic"),
        (0x4, b"\xff\xff\xff\x0f", "blocks of 1024 bytes in a volume"),
        (0x4, b"\0\0\0\0", "blocks of"),
        (0x14, b"\x02", "first data block"),
        (0x18, b"\x09", "block size"),
        (0x20, b"\0\0\0\0", "blocks per group"),
        (0x20, b"\xff\xff\xff\xff", "blocks per group"),
        (0x28, b"\0\0\0\0", "inodes"),
        (0x58, b"\0\0", "inodes of"),
        (0x60, b"\0\0\0\x80", "unknown features"),
        (0x60, b"\x08\0\0\0", "journal of another"),
        (0x64, b"\0\0\0\x80", "unknown features"),
    ],
)
def test_superblock_with_lies(images: dict[str, Path], offset: int, value: bytes, words: str) -> None:
    read, size = patched(images["ext2-1k"], {1024 + offset: value})
    with pytest.raises(FormatError, match=words):
        list(groups(read, size))


def test_checksum_of_the_superblock(images: dict[str, Path]) -> None:
    read, size = patched(images["ext4-1k"], {1024 + 0x2C: b"\x55\x44"})
    with pytest.raises(FormatError, match="checksum"):
        superblock(read, size)


def test_the_feature_64bit_lost(images: dict[str, Path]) -> None:
    """Without checksums nothing else tells that every second descriptor would be half of one."""
    read, size = patched(images["no-checksums"], {1024 + 0x60: b"\x42"})
    with pytest.raises(FormatError, match="64 bytes without the feature 64bit"):
        list(groups(read, size))


def test_a_volume_too_short(images: dict[str, Path]) -> None:
    data = images["ext2-1k"].read_bytes()
    for size in (0, 1024, 2047, 2048, 4096, len(data) // 2):
        with pytest.raises(FormatError):
            list(groups(bytes_reader(data[:size]), size))


HOSTILE = ["ext2-1k", "ext4-1k", "uninit-32bit", "no-checksums", "meta_bg-uninit", "bigalloc-1k", "ext4"]


@pytest.fixture(scope="session")
def victims(images: dict[str, Path]) -> dict[str, tuple[bytes, bytes]]:
    """name -> (image, mask of the used sectors by dumpe2fs)."""
    found = {}
    for name in HOSTILE:
        data = images[name].read_bytes()
        found[name] = data, inverse(free_by_dumpe2fs(images[name], len(data)))
    return found


def overlay(data: bytes, where: int, value: int) -> Read:
    """Reads ``data`` with one byte changed, without a copy of it."""
    inner = bytes_reader(data)

    def read(offset: int, length: int) -> bytes:
        piece = inner(offset, length)
        if offset <= where < offset + length:
            at = where - offset
            return piece[:at] + bytes([value]) + piece[at + 1 :]
        return piece

    return read


@pytest.mark.parametrize("name", HOSTILE)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_flipped_byte_never_frees_a_used_block(
    victims: dict[str, tuple[bytes, bytes]], name: str, data: st.DataObject
) -> None:
    """One byte of superblock or descriptors changed: FormatError, or at least all that is used, in bounded time."""
    image, truth = victims[name]
    block = max(2048, 1024 << image[1024 + 0x18])
    where = data.draw(st.one_of(st.integers(1024, 2047), st.integers(block, block + 2047)))
    value = data.draw(st.integers(0, 255))
    start = time.monotonic()
    try:
        found = list(groups(overlay(image, where, value), len(image)))
    except FormatError:
        return
    assert time.monotonic() - start < 5
    assert_covers(found, len(image))
    ours = bytes(mask_of((extent for group in found for extent in group.used), len(image)))
    missing = int.from_bytes(truth, "little") & ~int.from_bytes(ours, "little")
    assert not missing, f"byte {where} = {value}: a used block counts as free"


@settings(max_examples=100, deadline=None)
@given(where=st.integers(0, 4095), value=st.integers(0, 255), group=st.integers(0, 5))
def test_a_damaged_bitmap_counts_as_used(victims: dict[str, tuple[bytes, bytes]], where: int, value: int, group: int) -> None:
    """With metadata_csum any change of a bitmap is seen, even one that keeps the number of free blocks."""
    image, truth = victims["ext4-1k"]
    read = bytes_reader(image)
    extents = [one for one in list(groups(read, len(image)))[group].metadata if one.length == 1024][-1:]
    at = extents[0].offset + where % 1024
    try:
        found = list(groups(overlay(image, at, value), len(image)))
    except FormatError:
        return
    ours = bytes(mask_of((extent for one in found for extent in one.used), len(image)))
    assert not int.from_bytes(truth, "little") & ~int.from_bytes(ours, "little")


def test_noise_is_no_file_system() -> None:
    for seed in range(50):
        data = bytearray(random.Random(seed).randbytes(MIB))
        data[1024 + 0x38 : 1024 + 0x3A] = b"\x53\xef"
        try:
            found = list(groups(bytes_reader(bytes(data)), MIB))
        except FormatError:
            continue
        assert_covers(found, MIB)


MEASURE = """
import sys, time
from livep2v.formats.ext import groups
from livep2v.formats.reading import file_reader
size = 1 << 40
with open(sys.argv[1], "rb") as file:
    start = time.process_time()
    count = sum(1 for _ in groups(file_reader(file, size), size))
    seconds = time.process_time() - start
peak = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]  # ru_maxrss outlives exec
print(count, seconds, int(peak[0]) >> 10)
"""


def test_a_tebibyte(tmp_path: Path) -> None:
    """8192 groups in less than 5 s of processor time and 64 MiB (measured 0.5 s, 12 MiB)."""
    path = tmp_path / "big.img"
    make(path, "-t ext4 -E lazy_itable_init=1,lazy_journal_init=1,nodiscard", 1 << 40)
    done = subprocess.run([sys.executable, "-c", MEASURE, path], capture_output=True, text=True, check=True)
    count, seconds, mib = done.stdout.split()
    assert int(count) == 8192
    assert float(seconds) < 5
    assert int(mib) < 64


def test_reads_are_few_and_large(images: dict[str, Path]) -> None:
    """Bitmaps that lie side by side come in one read: an O_DIRECT read of 1 KiB costs as much as one of 1 MiB."""
    data = images["flex-64"].read_bytes()
    inner, reads = bytes_reader(data), []

    def read(offset: int, length: int) -> bytes:
        reads.append(length)
        return inner(offset, length)

    found = list(groups(read, len(data)))
    assert len(found) >= 190
    assert len(reads) < len(found) / 4
    assert max(reads) <= MIB


def test_the_table_of_readers(images: dict[str, Path]) -> None:
    assert all(usedmap.supported(kind) for kind in ("ext2", "ext3", "ext4"))
    assert not usedmap.supported("xfs")
    data = images["ext3"].read_bytes()
    read = bytes_reader(data)
    assert list(usedmap.groups("ext3", read, len(data))) == list(groups(read, len(data)))
    with pytest.raises(FormatError, match="xfs"):
        usedmap.groups("xfs", read, len(data))
