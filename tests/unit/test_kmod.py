"""Module indexes against depmod, and against modprobe resolving through what we write."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from livep2v.errors import FormatError
from livep2v.formats import kmod

FOLDERS = [path.parent for path in sorted(Path("/lib/modules").glob("*/modules.dep.bin"))]
pytestmark = pytest.mark.skipif(not FOLDERS or not shutil.which("modprobe"), reason="no kernel modules on this machine")


@pytest.fixture(scope="module")
def folder() -> Path:
    return FOLDERS[0]


@pytest.mark.parametrize("name", ["dep", "alias", "builtin"])
def test_written_as_depmod_writes(name: str, folder: Path) -> None:
    theirs = (folder / f"modules.{name}.bin").read_bytes()
    values = kmod.read_index(theirs)
    assert kmod.write_index(values) == theirs


def test_index_has_what_the_text_has(folder: Path) -> None:
    values = kmod.read_index((folder / "modules.dep.bin").read_bytes())
    lines = {line.rstrip() for line in (folder / "modules.dep").read_text().splitlines()}
    assert {value.text.rstrip() for value in values} == lines
    aliases = {(v.key, v.text) for v in kmod.read_index((folder / "modules.alias.bin").read_bytes())}
    assert aliases == {(kmod.normal(key), name) for key, name in kmod.parse_alias((folder / "modules.alias").read_text())}


def test_closure_is_what_modprobe_would_load(folder: Path) -> None:
    dep = kmod.parse_dep((folder / "modules.dep").read_text())
    for name in ("virtio_blk", "virtio_pci", "ext4", "btrfs"):
        if name not in dep:
            continue
        said = subprocess.run(
            ["modprobe", "-S", folder.name, "--show-depends", name], stdout=subprocess.PIPE, text=True, check=True
        ).stdout
        order = [kmod.name_of(line.split()[1]) for line in said.splitlines() if line.startswith("insmod")]
        ours = kmod.closure(dep, [name])
        assert set(order) >= set(ours)  # modprobe adds soft dependencies
        positions = [order.index(item) for item in ours]
        assert positions == sorted(positions)


def test_modprobe_reads_a_small_index_of_ours(folder: Path, tmp_path: Path) -> None:
    """A tree with three modules and only our binary indexes: modprobe finds them by alias and by name."""
    dep = kmod.parse_dep((folder / "modules.dep").read_text())
    names = kmod.closure(dep, ["virtio_blk"])
    release = "1.2.3-ours"
    target = tmp_path / "lib/modules" / release
    for name in names:
        path = target / dep[name][0]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((folder / dep[name][0]).read_bytes())
    dep_values = [
        kmod.Value(name, order, f"{dep[name][0]}: {' '.join(dep[name][1])}".rstrip()) for order, name in enumerate(names)
    ]
    (target / "modules.dep.bin").write_bytes(kmod.write_index(dep_values))
    (target / "modules.alias.bin").write_bytes(kmod.write_index([kmod.Value("virtio:d00000002v*", 1, "virtio_blk")]))
    for index in ("symbols", "builtin", "builtin.alias"):
        (target / f"modules.{index}.bin").write_bytes(kmod.write_index([]))
    for wanted in ("virtio_blk", "virtio:d00000002v00001AF4"):
        done = subprocess.run(
            ["modprobe", "-d", str(tmp_path), "-S", release, "--show-depends", wanted],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        loaded = [kmod.name_of(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("insmod")]
        assert loaded == names


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 12,
        struct.pack(">III", kmod.MAGIC, kmod.VERSION, 0x4000000C),  # values behind the end
        struct.pack(">III", kmod.MAGIC, kmod.VERSION, 0x2000000C) + b"\x05\x01",  # children 5..1
        struct.pack(">III", kmod.MAGIC, kmod.VERSION, 0x2000000C) + b"aa" + struct.pack(">I", 0x2000000C),  # its own child
    ],
)
def test_index_that_lies(data: bytes) -> None:
    with pytest.raises(FormatError):
        kmod.read_index(data)


def test_absolute_paths_and_suffixes() -> None:
    dep = kmod.parse_dep("kernel/a/virtio-x.ko.xz: kernel/b/y.ko.zst\nkernel/b/y.ko.zst:\n")
    assert dep["virtio_x"] == ("kernel/a/virtio-x.ko.xz", ("kernel/b/y.ko.zst",))
    assert kmod.closure(dep, ["virtio_x"]) == ["y", "virtio_x"]
