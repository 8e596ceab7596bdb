"""The initramfs reader against the tools that make and read such images: cpio, lsinitramfs, the compressors."""

from __future__ import annotations

import functools
import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from livep2v.errors import FormatError
from livep2v.formats import cpio, initramfs, lz4, zstd

COMPRESSORS = {
    "none": ["cat"],
    "gzip": ["gzip", "-1n"],
    "bzip2": ["bzip2"],
    "xz": ["xz", "-0", "--check=crc32"],
    "lzma": ["lzma", "-0"],
    "lz4": ["lz4", "-l"],
    "zstd": ["zstd", "-q"],
}


def pipe(argv: list[str], data: bytes, cwd: Path | None = None) -> bytes:
    return subprocess.run(argv, input=data, capture_output=True, check=True, cwd=cwd).stdout


@functools.cache
def pack(tree: Path) -> bytes:
    """The tree as GNU cpio packs it."""
    names = sorted(str(path.relative_to(tree)) for path in tree.rglob("*"))
    return pipe(["cpio", "--quiet", "-o", "-H", "newc"], "\n".join([".", *names]).encode() + b"\n", tree)


@functools.cache
def packed(name: str, tree: Path) -> bytes:
    return pipe(COMPRESSORS[name], pack(tree))


def names_in(archive: bytes) -> set[str]:
    """The names as GNU cpio lists them."""
    listed = pipe(["cpio", "--quiet", "-t"], archive).decode().split("\n")
    return {name for name in listed if name}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tree")
    modules = root / "usr/lib/modules/6.1.0-9-test/kernel/drivers"
    modules.mkdir(parents=True)
    (root / "lib").symlink_to("usr/lib")
    (root / "conf/conf.d").mkdir(parents=True)
    (root / "conf/initramfs.conf").write_text("MODULES=most\n")
    (root / "conf/conf.d/resume").write_text("RESUME=/dev/sda3\n")
    (modules / "ahci.ko").write_bytes(os.urandom(300_001))
    (modules / "virtio-rng.ko.xz").write_bytes(b"x")
    (root / "zeros").write_bytes(bytes(3_000_000))
    os.link(root / "conf/conf.d/resume", root / "conf/conf.d/same")
    (root / "big").write_bytes(os.urandom(500_000) + bytes(9_000_000))  # more than one LZ4 block
    return root


@pytest.mark.parametrize("name", COMPRESSORS)
def test_one_archive_in_every_compression(name: str, tree: Path) -> None:
    archive = pack(tree)
    image = initramfs.read(pipe(COMPRESSORS[name], archive), lambda path: path.startswith("conf/"))
    assert image.problem == ""
    assert [segment.compression for segment in image.segments] == [name]
    assert set(image.entries) == names_in(archive)
    assert {path: entry.size for path, entry in image.entries.items() if entry.is_file and entry.nlink == 1} == {
        str(path.relative_to(tree)): path.stat().st_size
        for path in tree.rglob("*")
        if path.is_file() and not path.is_symlink() and path.stat().st_nlink == 1
    }
    assert image.files["conf/conf.d/resume"] == image.files["conf/conf.d/same"] == b"RESUME=/dev/sda3\n"
    assert image.entries["lib"].target == "usr/lib"
    assert image.resolve("lib/modules/6.1.0-9-test") == "usr/lib/modules/6.1.0-9-test"
    assert image.kind == "initramfs-tools"
    assert set(image.modules()) == {"ahci", "virtio_rng"}
    assert image.module_folders() == ["usr/lib/modules/6.1.0-9-test"]


@pytest.mark.parametrize("pure", [True, False])
def test_lz4_blocks_against_lz4(pure: bool, tree: Path) -> None:
    data = pack(tree)
    packed = pipe(COMPRESSORS["lz4"], data)
    assert b"".join(lz4.stream(packed, 0, pure=pure)) == data
    for size in (0, 1, 14, 15, 269, 270, 70000, lz4.BLOCK + 5):
        assert pipe(["lz4", "-d", "-c"], lz4.pack(data[:size])) == data[:size]


@pytest.mark.parametrize("name", [name for name in COMPRESSORS if name != "lz4"])
def test_segments_one_after_another(name: str, tree: Path, tmp_path: Path) -> None:
    """Microcode first, as Debian and Fedora store it, then the main archive, then one of ours: lsinitramfs sees the same."""
    early = tmp_path / "early/kernel/x86/microcode"
    early.mkdir(parents=True)
    (early / "GenuineIntel.bin").write_bytes(os.urandom(2048))
    first, main = pack(tmp_path / "early"), packed(name, tree)
    image = initramfs.read(first + main)
    assert image.problem == ""
    ours = cpio.build([("conf/conf.d/resume", 0o100644, b"RESUME=none\n"), ("new", 0o100644, b"")])
    offset, data = initramfs.behind(image, ours)
    whole = (first + main)[:offset] + data
    again = initramfs.read(whole, lambda path: path == "conf/conf.d/resume")
    assert again.problem == ""
    assert again.files["conf/conf.d/resume"] == b"RESUME=none\n"
    assert len(again.segments) == len(image.segments) + 1
    file = tmp_path / "image"
    file.write_bytes(whole)
    if shutil.which("3cpio"):
        listed = subprocess.run(["3cpio", "-t", str(file)], stdout=subprocess.PIPE, check=True, text=True).stdout.split()
        assert set(again.entries) == set(listed)
    assert names_in(whole[offset + len(data) - len(ours) :]) == {"conf/conf.d/resume", "new"}


def test_archive_behind_a_lz4_stream_is_part_of_it(tree: Path) -> None:
    main = packed("lz4", tree)
    image = initramfs.read(main + bytes(512))
    offset, data = initramfs.behind(image, cpio.build([("new", 0o100644, b"text")]))
    assert offset == len(main)  # zeros behind the stream would end it
    whole = main[:offset] + data
    assert pipe(["lz4", "-d", "-c"], whole).count(cpio.TRAILER.encode()) == 2
    again = initramfs.read(whole, lambda path: path == "new")
    assert again.problem == "" and again.files == {"new": b"text"} and len(again.segments) == 1


def test_gnu_cpio_reads_what_we_build(tmp_path: Path) -> None:
    members = [
        ("etc", 0o040755, b""),
        ("etc/odd", 0o100640, b"abc"),
        ("etc/empty", 0o100644, b""),
        ("etc/link", 0o120777, b"odd"),
    ]
    pipe(["cpio", "--quiet", "-i", "-d"], cpio.build(members), tmp_path)
    assert (tmp_path / "etc/odd").read_bytes() == b"abc"
    assert (tmp_path / "etc/odd").stat().st_mode == 0o100640
    assert (tmp_path / "etc/empty").read_bytes() == b""
    assert os.readlink(tmp_path / "etc/link") == "odd"


def test_real_images_of_this_machine(tmp_path: Path) -> None:
    images = sorted(Path("/boot").glob("initrd.img-*"))
    if not images:
        pytest.skip("no initramfs on this machine")
    listed = subprocess.run(["lsinitramfs", str(images[0])], stdout=subprocess.PIPE, check=True, text=True).stdout
    image = initramfs.read(images[0].read_bytes())
    assert image.problem == ""
    assert set(image.entries) == {line for line in listed.split("\n") if line}
    assert set(image.modules().values()) == {line for line in listed.split("\n") if ".ko" in line}


def test_zstd_pieces() -> None:
    if not zstd.available():
        pytest.skip("no libzstd")
    data = os.urandom(1 << 20) + bytes(5 << 20)
    packed = pipe(COMPRESSORS["zstd"], data) + b"behind"
    decoder = zstd.Decompressor()
    out = b""
    for at in range(0, len(packed), 1000):
        out += decoder.decompress(packed[at : at + 1000], 4096)
        while not decoder.eof and not decoder.needs_input:
            out += decoder.decompress(b"", 4096)
        if decoder.eof:
            break
    assert out == data and (decoder.unused_data + packed[at + 1000 :]) == b"behind"


# ------------------------------------------------------------ images that lie


@pytest.mark.parametrize("name", COMPRESSORS)
@pytest.mark.parametrize("part", [0.1, 0.5, 0.999])
def test_cut_image_says_so(name: str, part: float, tree: Path) -> None:
    whole = packed(name, tree)
    cut = whole[: int(len(whole) * part)] if name != "none" else whole[: int(len(whole.rstrip(b"\0")) * part)]
    assert initramfs.read(cut).problem


@pytest.mark.parametrize("name", COMPRESSORS)
def test_damage_never_raises(name: str, tree: Path) -> None:
    whole = bytearray(packed(name, tree / "conf"))
    for at in range(min(len(whole), 1000)):
        damaged = bytearray(whole)
        damaged[at] ^= 0xFF
        initramfs.read(bytes(damaged))  # damage in a file's content may go unseen; an exception may not


def header(name: bytes, mode: int, size: int) -> bytes:
    fields = (1, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name + b"\0"
    return head + bytes(-len(head) % 4)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (header(b"a", 0o100644, 0xFFFFFFF0), "4294967280 bytes"),
        (header(b"a", 0o100644, 4096), "cut short"),
        (header(b"a", 0o120777, 0xFFFFFFF0), "4294967280 bytes"),
        (b"070701" + b"+0000001" * 13, "not hexadecimal"),
        (b"070701" + b"FFFFFFFF" * 13, "4294967295 bytes"),
        (b"\0\0" + header(b"a", 0o100644, 0), "aligned"),
        (b"garbage!", "unknown bytes"),
        (lz4.MAGIC + struct.pack("<I", 0x7FFFFFFF), "2147483647 bytes"),
        (b"\x89LZO\x00\r\n\x1a\nxxxx", "no decoder for lzo"),
    ],
)
def test_lies_are_named(data: bytes, said: str) -> None:
    assert said in initramfs.read(data, lambda path: True).problem


def test_bounds_on_what_an_image_may_cost() -> None:
    many = b"".join(header(b"x%d" % n, 0o100644, 0) for n in range(50)) + header(b"TRAILER!!!", 0, 0)
    assert "more than 10 entries" in initramfs.read(many, limits=initramfs.Limits(entries=10)).problem
    bomb = pipe(["gzip", "-9"], header(b"zeros", 0o100644, 64 << 20) + bytes(64 << 20))
    assert "limit" in initramfs.read(bomb, limits=initramfs.Limits(unpacked=8 << 20)).problem
    image = initramfs.read(header(b"f", 0o100644, 99), lambda path: True, initramfs.Limits(wanted=50))
    assert "99 bytes" in image.problem


def test_lz4_block_that_points_before_its_start() -> None:
    for pure in (True, False):
        with pytest.raises(FormatError):
            lz4.decode_block(b"\x10a\xff\xff\x00", pure=pure)
