"""One contract for every image format. Oracles: a bytearray, qemu-img, libvhdi (vhdiinfo, vhdimount)."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from livep2v.errors import FormatError, HostDiskFull, ImageError, Livep2vError, UsageError
from livep2v.formats.vhd import VhdReader, geometry
from livep2v.host.image import Image, create, open_image

MIB = 1 << 20
FORMATS = [("raw", ""), ("vhd", "dynamic"), ("vhd", "fixed")]
QEMU = {"raw": "raw", "vhd": "vpc"}
each_format = pytest.mark.parametrize(("fmt", "sub"), FORMATS, ids=["raw", "vhd-dynamic", "vhd-fixed"])
vhd_only = pytest.mark.parametrize("sub", ["dynamic", "fixed"])


def qemu_img(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["qemu-img", *map(str, arguments)], capture_output=True, text=True, check=False)


def assert_same(path: Path, fmt: str, content: bytes) -> None:
    """qemu-img reads from the image exactly ``content``."""
    raw = path.with_suffix(".expected")
    raw.write_bytes(content)
    done = qemu_img("compare", "-f", QEMU[fmt], "-F", "raw", path, raw)
    raw.unlink()
    assert done.returncode == 0, done.stdout + done.stderr
    info = json.loads(qemu_img("info", "--output=json", "-f", QEMU[fmt], path).stdout)
    assert info["virtual-size"] == len(content)


def random_bytes(length: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(length)


# an operation: (write | zero | flush | reopen, offset in 4 KiB, length, seed)
operations = st.lists(
    st.tuples(
        st.sampled_from(["write", "write", "write", "zero", "flush", "reopen"]),
        st.integers(0, 2047),
        st.one_of(st.integers(1, 8192), st.integers(1, 3 * MIB)),
        st.integers(0, 1 << 16),
        st.sampled_from([0, 0, 512, 77]),
    ),
    min_size=1,
    max_size=14,
)


@each_format
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=operations, odd=st.integers(0, 5000))
def test_reads_what_was_written(
    tmp_path: Path, fmt: str, sub: str, steps: list[tuple[str, int, int, int, int]], odd: int
) -> None:
    path = tmp_path / "image"
    path.unlink(missing_ok=True)
    size = 8 * MIB + 512 * odd
    model = bytearray(size)
    image = create(path, fmt, sub, size)
    for what, offset, length, seed, shift in steps:
        offset = offset * 4096 + shift
        length = min(length, size - offset)
        if what == "write":
            data = random_bytes(length, seed)
            image.write(offset, memoryview(data))
            model[offset : offset + length] = data
        elif what == "zero":
            image.zero(offset, length)
            model[offset : offset + length] = bytes(length)
        elif what == "flush":
            image.flush()
            assert_same(path, fmt, bytes(model))
        else:
            image.close()
            image = open_image(path, fmt, writable=True)
        assert image.size == size
        assert image.read(offset, length) == model[offset : offset + length]
    assert_allocated_covers(image, model)
    image.close()
    assert_same(path, fmt, bytes(model))
    again = open_image(path, fmt)
    assert again.read(0, size) == model
    assert_allocated_covers(again, model)
    again.close()


def assert_allocated_covers(image: Image, model: bytearray) -> None:
    """Everything outside of ``allocated()`` is zero, and it is sorted and inside the disk."""
    end = 0
    for extent in image.allocated():
        assert extent.length > 0
        assert extent.offset >= end
        assert not any(model[end : extent.offset])
        end = extent.offset + extent.length
    assert end <= len(model)
    assert not any(model[end:])


@each_format
def test_sparse_where_nothing_was_written(tmp_path: Path, fmt: str, sub: str) -> None:
    path = tmp_path / "image"
    image = create(path, fmt, sub, 1 << 30)
    image.write(512 * MIB, random_bytes(MIB, 1))
    image.zero(0, 256 * MIB)
    image.close()
    used = path.stat().st_blocks * 512
    if sub == "fixed":
        assert used >= 1 << 30, "a fixed image has all its room"
    else:
        assert used <= 2 * MIB + 64 * 1024
    again = open_image(path, fmt)
    covered = list(again.allocated())
    assert sum(extent.length for extent in covered) <= 2 * MIB
    again.close()


@each_format
def test_zero_gives_space_back(tmp_path: Path, fmt: str, sub: str) -> None:
    path = tmp_path / "image"
    image = create(path, fmt, sub, 32 * MIB)
    image.write(0, random_bytes(16 * MIB, 2))
    image.flush()
    image.zero(MIB, 14 * MIB)
    image.close()
    if sub != "fixed":
        assert path.stat().st_blocks * 512 <= 3 * MIB
    assert_same(
        path, fmt, random_bytes(16 * MIB, 2)[:MIB] + bytes(14 * MIB) + random_bytes(16 * MIB, 2)[15 * MIB :] + bytes(16 * MIB)
    )


@each_format
def test_range_outside_the_disk(tmp_path: Path, fmt: str, sub: str) -> None:
    image = create(tmp_path / "image", fmt, sub, MIB)
    for offset, length in ((MIB - 1, 2), (-1, 1), (2 * MIB, 1)):
        with pytest.raises(ImageError, match=f"{offset} of a disk of {MIB}"):
            image.write(offset, bytes(length))
        with pytest.raises(ImageError):
            image.read(offset, length)
        with pytest.raises(ImageError):
            image.zero(offset, length)
    image.close()
    image.close()


@each_format
def test_never_overwrites(tmp_path: Path, fmt: str, sub: str) -> None:
    path = tmp_path / "image"
    path.write_text("precious")
    with pytest.raises(ImageError, match="exists already"):
        create(path, fmt, sub, MIB)
    assert path.read_text() == "precious"


@each_format
def test_only_the_owner_reads_it(tmp_path: Path, fmt: str, sub: str) -> None:
    create(tmp_path / "image", fmt, sub, MIB).close()
    assert (tmp_path / "image").stat().st_mode & 0o077 == 0


@pytest.fixture
def small_file_system(tmp_path: Path) -> Iterator[Path]:
    """A real tmpfs of 16 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    place = tmp_path / "small"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", place], check=False)
    if done.returncode:
        pytest.skip("mounting is not allowed here")
    yield place
    subprocess.run(["umount", place], check=True)


@each_format
def test_disk_full(small_file_system: Path, fmt: str, sub: str) -> None:
    """HostDiskFull with numbers; the image that got in before still reads right, and closing leaves no descriptor open."""
    path = small_file_system / "image"
    descriptors = sum(1 for _ in Path("/proc/self/fd").iterdir())
    if sub == "fixed":
        with pytest.raises(HostDiskFull) as full:
            create(path, fmt, sub, 64 * MIB)
        assert not path.exists()
    else:
        image = create(path, fmt, sub, 64 * MIB)
        image.write(0, random_bytes(MIB, 3))
        image.flush()
        with pytest.raises(HostDiskFull) as full:
            for number in range(1, 64):
                image.write(number * MIB, random_bytes(MIB, number))
        assert image.read(0, MIB) == random_bytes(MIB, 3)
        try:
            image.close()
        except Livep2vError as error:
            assert isinstance(error, HostDiskFull)
    assert full.value.needed > 0
    assert full.value.free <= 16 * MIB
    assert str(path) in str(full.value)
    assert sum(1 for _ in Path("/proc/self/fd").iterdir()) == descriptors


@vhd_only
@pytest.mark.parametrize("size", [64 * MIB, 100 * MIB, 127 * MIB + 512, (10 << 30) - 512, (504 << 20) + 512 * 63, 137 << 30])
def test_size_is_kept_to_the_byte(tmp_path: Path, sub: str, size: int) -> None:
    """qemu and libvhdi see the source's size, geometry or not."""
    if sub == "fixed" and size > 1 << 30:
        pytest.skip("reserves all of it")
    path = tmp_path / "image.vhd"
    image = create(path, "vhd", sub, size)
    image.write(size - 512, b"E" * 512)
    image.close()
    assert json.loads(qemu_img("info", "--output=json", "-f", "vpc", path).stdout)["virtual-size"] == size
    info = subprocess.run(["vhdiinfo", path], capture_output=True, text=True, check=True).stdout
    assert f"({size} bytes)" in info, info
    assert ("Dynamic" if sub == "dynamic" else "Fixed") in info


@vhd_only
def test_size_is_rounded_up_to_sectors(tmp_path: Path, sub: str) -> None:
    image = create(tmp_path / "image", "vhd", sub, 3 * MIB + 1)
    assert image.size == 3 * MIB + 512
    image.close()


def test_size_limit(tmp_path: Path) -> None:
    path = tmp_path / "image"
    with pytest.raises(ImageError, match=r"2040 GiB.*--format raw"):
        create(path, "vhd", "dynamic", (2040 << 30) + 512)
    assert not path.exists()
    image = create(path, "vhd", "dynamic", 2040 << 30)
    image.write((2040 << 30) - 512, b"E" * 512)
    image.close()
    assert json.loads(qemu_img("info", "--output=json", "-f", "vpc", path).stdout)["virtual-size"] == 2040 << 30


@pytest.mark.parametrize("size", [MIB, 4 * MIB, 32 * MIB, 504 * MIB, 2 << 30, 10 << 30, 127 << 30, 200 << 30, 2000 << 30])
def test_geometry_is_that_of_qemu(tmp_path: Path, size: int) -> None:
    """qemu-img without force_size chooses the smallest geometry that holds the size, and writes what it has chosen."""
    path = tmp_path / "qemu.vhd"
    assert qemu_img("create", "-f", "vpc", path, size).returncode == 0
    with path.open("rb") as file:
        cylinders, heads, sectors = struct.unpack_from(">HBB", file.read(512), 56)
    ours = geometry(cylinders * heads * sectors)
    assert ours == (cylinders, heads, sectors)


def test_unknown_format(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="raw"):
        create(tmp_path / "image", "qcow2", "", MIB)
    with pytest.raises(UsageError):
        create(tmp_path / "image", "vhd", "differencing", MIB)


def test_layout_of_windows_10(tmp_path: Path) -> None:
    """Footer copy at 0, header at 512, every block's data on 4 KiB with its bitmap of ones before it, footer last."""
    path = tmp_path / "image.vhd"
    image = create(path, "vhd", "dynamic", 64 * MIB)
    for number in (31, 0, 7):
        image.write(number * 2 * MIB + 65536, b"x" * 65536)
    image.close()
    data = path.read_bytes()
    assert data[:512] == data[-512:]
    assert data[512:520] == b"cxsparse"
    assert data[28:32] == b"win "
    table_at, entries = struct.unpack_from(">Q", data, 512 + 16)[0], struct.unpack_from(">I", data, 512 + 28)[0]
    assert entries == 32
    table = struct.unpack_from(">32I", data, table_at)
    assert sorted(index for index, sector in enumerate(table) if sector != 0xFFFFFFFF) == [0, 7, 31]
    for sector in table:
        if sector != 0xFFFFFFFF:
            assert (sector * 512 + 512) % 4096 == 0
            assert data[sector * 512 : sector * 512 + 512] == b"\xff" * 512
    assert len(data) % 512 == 0


@pytest.mark.skipif(not Path("/dev/fuse").exists() or not shutil.which("vhdimount"), reason="needs FUSE and vhdimount")
@vhd_only
def test_libvhdi_reads_the_same(tmp_path: Path, sub: str) -> None:
    path, mount = tmp_path / "image.vhd", tmp_path / "mnt"
    size = 20 * MIB + 512
    content = bytearray(size)
    image = create(path, "vhd", sub, size)
    for seed in range(30):
        offset = random.Random(seed).randrange(0, size - 70000)
        data = random_bytes(70000, seed)
        image.write(offset, data)
        content[offset : offset + len(data)] = data
    image.close()
    mount.mkdir()
    subprocess.run(["vhdimount", path, mount], check=True, capture_output=True)
    try:
        assert (mount / "vhdi1").read_bytes() == content
    finally:
        subprocess.run(["umount", mount], check=True)


@pytest.mark.parametrize("sub", ["dynamic", "fixed"])
def test_continues_an_image_of_qemu(tmp_path: Path, sub: str) -> None:
    """An image that qemu-img made is read, written further and read by qemu-img again."""
    size = 24 * MIB
    content = bytearray(random_bytes(5 * MIB, 9) + bytes(9 * MIB) + random_bytes(10 * MIB, 10))
    raw, path = tmp_path / "raw", tmp_path / "image.vhd"
    raw.write_bytes(content)
    done = qemu_img("convert", "-f", "raw", "-O", "vpc", "-o", f"subformat={sub},force_size=on", raw, path)
    assert done.returncode == 0, done.stderr
    image = open_image(path, "vhd", writable=True)
    assert image.size == size
    assert image.read(0, size) == content
    for seed in range(12):
        offset = random.Random(seed).randrange(0, size - 300000)
        data = random_bytes(300000, seed)
        image.write(offset, data)
        content[offset : offset + len(data)] = data
    image.close()
    assert_same(path, "vhd", bytes(content))


def test_sectors_that_a_bitmap_lacks_are_zeros(tmp_path: Path) -> None:
    """A block may be there with some of its sectors absent; what the file has at their place must not be seen."""
    path = tmp_path / "image.vhd"
    image = create(path, "vhd", "dynamic", 4 * MIB)
    image.write(0, b"x" * (2 * MIB))
    image.close()
    with path.open("r+b") as file:
        file.seek(4096)
        sector = struct.unpack(">I", file.read(4))[0]
        file.seek(sector * 512)
        file.write(b"\x0f" + b"\xff" * 509 + b"\xf0\x00")  # sectors 0-3 and 4084-4095 are not there
    expected = bytes(2048) + b"x" * (2 * MIB - 2048 - 12 * 512) + bytes(12 * 512)
    with path.open("rb") as file:
        reader = VhdReader(file)
        assert reader.read(0, 2 * MIB) == expected
        assert list(reader.extents()) == [(2048, 2 * MIB - 2048 - 12 * 512)]
        assert reader.read(1024, 2048) == bytes(1024) + b"x" * 1024
    image = open_image(path, "vhd", writable=True)
    assert image.read(0, 2 * MIB) == expected
    image.write(512, b"y" * 512)  # its bitmap becomes all ones
    expected = bytes(512) + b"y" * 512 + expected[1024:]
    assert image.read(0, 2 * MIB) == expected
    image.close()
    assert_same(path, "vhd", expected + bytes(2 * MIB))


WRITER = """
import sys
from pathlib import Path
from livep2v.host.image import create
image = create(Path(sys.argv[1]), "vhd", "dynamic", 1 << 30)
image.write(0, b"first" * 1000)
image.flush()
number = 1
while True:
    image.write(number % 500 * 2097152 + number, bytes([number % 255 + 1]) * 100000)
    number += 1
    print(number, flush=True)
"""


def test_killed_writer_leaves_a_file_that_opens(tmp_path: Path) -> None:
    path = tmp_path / "image.vhd"
    writer = subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    try:
        for line in writer.stdout:
            if int(line) > 150:
                break
    finally:
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
    data = path.read_bytes()
    assert data[-512:-504] != b"conectix"
    image = open_image(path, "vhd", writable=True)
    assert image.read(0, 5000) == b"first" * 1000
    present = sum(1 for sector in struct.unpack_from(">512I", data, 4096) if sector != 0xFFFFFFFF)
    assert present >= 150 - 32, "the table is never far behind"
    assert qemu_img("info", "-f", "vpc", path).returncode == 0
    image.write(999 * MIB, b"z" * 65536)  # a new block, where the dead writer left data without an entry
    assert image.read(998 * MIB, 3 * MIB) == bytes(MIB) + b"z" * 65536 + bytes(2 * MIB - 65536)
    image.close()
    assert open_image(path, "vhd").read(998 * MIB, 3 * MIB) == bytes(MIB) + b"z" * 65536 + bytes(2 * MIB - 65536)


@pytest.fixture
def vhd_bytes(tmp_path: Path) -> bytearray:
    path = tmp_path / "good.vhd"
    image = create(path, "vhd", "dynamic", 8 * MIB)
    image.write(MIB, b"data" * 1000)
    image.write(5 * MIB, b"more" * 1000)
    image.close()
    return bytearray(path.read_bytes())


def opened(data: bytes) -> VhdReader:
    return VhdReader(io.BytesIO(data))


def test_either_footer_is_enough(vhd_bytes: bytearray) -> None:
    for damage in (slice(0, 512), slice(len(vhd_bytes) - 512, None)):
        data = bytearray(vhd_bytes)
        data[damage] = bytes(512)
        assert opened(data).read(MIB, 4000) == b"data" * 1000
        data = bytearray(vhd_bytes)
        at = damage.start + 100
        data[at] ^= 1
        assert opened(data).read(MIB, 4000) == b"data" * 1000
    data = bytearray(vhd_bytes)
    data[:512] = data[-512:] = bytes(512)
    with pytest.raises(FormatError, match="conectix"):
        opened(data)


def resum(data: bytearray, start: int, length: int, position: int) -> None:
    """The checksum of a structure, by the specification's words."""
    data[start + position : start + position + 4] = bytes(4)
    total = 0
    for byte in data[start : start + length]:
        total += byte
    struct.pack_into(">I", data, start + position, ~total & 0xFFFFFFFF)


@pytest.mark.parametrize(
    ("at", "value", "words"),
    [
        (60, struct.pack(">I", 4), "differencing"),
        (84, b"\1", "machine state"),
        (48, struct.pack(">Q", 8 * MIB + 1), "a disk of"),
        (48, struct.pack(">Q", 1 << 60), "a disk of"),
        (48, struct.pack(">Q", 64 * MIB), "32 blocks needed, its table has 4"),
        (16, struct.pack(">Q", 1 << 40), "a header at byte"),
        (12, struct.pack(">I", 0x00020000), "version"),
    ],
)
def test_footer_with_lies(vhd_bytes: bytearray, at: int, value: bytes, words: str) -> None:
    for start in (0, len(vhd_bytes) - 512):
        vhd_bytes[start + at : start + at + len(value)] = value
        resum(vhd_bytes, start, 512, 64)
    with pytest.raises(FormatError, match=words):
        opened(vhd_bytes)


@pytest.mark.parametrize(
    ("at", "value", "words"),
    [
        (16, struct.pack(">Q", 1 << 40), "a table at byte"),
        (16, struct.pack(">Q", 511), "a table at byte"),
        (32, struct.pack(">I", 3 << 20), "blocks of"),
        (32, struct.pack(">I", 512), "blocks of"),
        (28, struct.pack(">I", 3), "4 blocks needed"),
        (0, b"x", "cxsparse"),
    ],
)
def test_header_with_lies(vhd_bytes: bytearray, at: int, value: bytes, words: str) -> None:
    vhd_bytes[512 + at : 512 + at + len(value)] = value
    with pytest.raises(FormatError, match=r"checksum|cxsparse"):
        opened(vhd_bytes)
    resum(vhd_bytes, 512, 1024, 36)
    with pytest.raises(FormatError, match=words):
        opened(vhd_bytes)


@pytest.mark.parametrize(("sector", "words"), [(0, "overlap"), (8, "overlap"), (1 << 31, "outside the file"), (20, "overlap")])
def test_table_with_lies(vhd_bytes: bytearray, sector: int, words: str) -> None:
    first = struct.unpack_from(">I", vhd_bytes, 4096)[0]
    struct.pack_into(">I", vhd_bytes, 4096 + 4, sector if sector != 20 else first + 20)
    with pytest.raises(FormatError, match=words):
        opened(vhd_bytes)


def test_reader_reads_inside_only(vhd_bytes: bytearray) -> None:
    reader = opened(vhd_bytes)
    assert reader.read(8 * MIB - 1, 1) == b"\0"
    with pytest.raises(FormatError):
        reader.read(8 * MIB - 1, 2)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, 4096 + 16 - 1), value=st.integers(0, 255), tail=st.booleans())
def test_any_flipped_byte(vhd_bytes: bytearray, position: int, value: int, tail: bool) -> None:
    """FormatError, or an image of the right size that can be read; never anything else, never for long."""
    data = bytearray(vhd_bytes)
    if tail:
        data[-512:] = bytes(512)
    data[position] = value
    start = time.monotonic()
    try:
        reader = opened(data)
    except FormatError:
        return
    assert reader.size == 8 * MIB
    assert len(reader.read(0, 8 * MIB)) == 8 * MIB
    assert time.monotonic() - start < 2
