"""virtio added to an initramfs that has none; judged by GNU cpio, by modprobe and by the files of the kernel package."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from livep2v.errors import RepairError
from livep2v.formats import initramfs
from livep2v.host.virtualize.boot import initramfs as fix
from livep2v.host.virtualize.context import Context
from livep2v.host.virtualize.devices import Devices
from livep2v.host.virtualize.entries import find
from livep2v.host.virtualize.guest import DirTree
from livep2v.host.virtualize.recorder import Recorder
from livep2v.model import Cpu, Disk, Firmware, Kernel, Machine, Nic, Partition, Volume
from tests.support import no_virtio
from tests.support.guest_record import plan_record

IMAGES = sorted(Path("/boot").glob("initrd.img-*"))
pytestmark = pytest.mark.skipif(not IMAGES, reason="no kernel package on this machine")
RELEASE = IMAGES[0].name.removeprefix("initrd.img-") if IMAGES else ""
MODULES = Path("/lib/modules") / RELEASE
UUID = "0b7a3c6e-93a4-4b0d-9d42-0d4f8f1d8e11"
SWAP = "5a6f6f6a-1f3a-43cf-8a6c-2d8f1d0c9b77"


def context(root: Path, scratch: Path) -> Context:
    disk = Disk(
        "sda", "/dev/sda", 1 << 32, 512, transport="sata",
        partitions=(
            Partition(2, "/dev/sda2", 1 << 20, 1 << 31, "0x83", "aa-02", volume=Volume("ext4", UUID)),
            Partition(3, "/dev/sda3", 3 << 30, 1 << 29, "0x82", "aa-03", volume=Volume("swap", SWAP)),
        ),
    )  # fmt: skip
    machine = Machine(
        "old", True, Firmware.BIOS, Cpu("x86_64", "", "", 1), 1 << 30, (disk,),
        nics=(Nic("enp9s0", "52:54:00:aa:bb:cc"),), kernel=Kernel(RELEASE, ""),
    )  # fmt: skip
    plan = plan_record(machine)
    tree = DirTree(root)
    devices = Devices(machine, plan)
    return Context(machine, plan, tree, Recorder(tree), devices, scratch, entries=find(tree))


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree of an initramfs without modules (ahci and sd_mod aside)."""
    work = tmp_path_factory.mktemp("bare")
    tree = no_virtio.without_virtio(IMAGES[0], RELEASE, work, keep=("ahci", "libahci", "libata", "scsi_mod", "sd_mod"))
    (tree / "conf/conf.d/resume").write_text("RESUME=/dev/sda3\n")
    return tree


@pytest.mark.parametrize("compression", no_virtio.COMPRESSORS)
def test_missing_modules_are_added_and_load(compression: str, bare: Path, tmp_path: Path) -> None:
    image = no_virtio.repack(bare, tmp_path / "image", compression)
    before = image.read_bytes()
    root = no_virtio.guest_tree(tmp_path / "root", image, IMAGES[0].parent / f"vmlinuz-{RELEASE}", RELEASE, MODULES)
    ctx = context(root, tmp_path)
    fix.apply(ctx)
    assert ctx.disk_bus == "virtio" and ctx.kernel == RELEASE and not ctx.warnings
    assert [change.action for change in ctx.guest.changes] == ["appended"]
    after = (root / f"boot/initrd.img-{RELEASE}").read_bytes()
    assert after.startswith(before)

    # The kernel unpacks one archive over the other; here GNU cpio does, over a copy of the tree.
    merged = tmp_path / "merged"
    subprocess.run(["cp", "-a", str(bare), str(merged)], check=True)
    added = after[len(before) :]
    if compression == "lz4":
        added = subprocess.run(["lz4", "-d", "-c"], input=added, stdout=subprocess.PIPE, check=True).stdout
    assert len(before) % 4 == 0 or compression == "lz4" or added.startswith(b"\0" * (-len(before) % 4))
    # Without -d: like the kernel, cpio makes no parents then.
    subprocess.run(["cpio", "--quiet", "-i", "-u"], input=added.lstrip(b"\0"), check=True, cwd=merged)
    for name in ("virtio_blk", "virtio:d00000002v00001AF4", "pci:v00001AF4d00001042sv00001AF4sd00001100bc01sc00i00"):
        shown = subprocess.run(
            ["modprobe", "-d", str(merged), "-S", RELEASE, "--show-depends", name],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout
        for line in shown.splitlines():
            path = Path(line.split()[1])
            assert path.read_bytes() == (MODULES / path.relative_to(merged / "lib/modules" / RELEASE)).read_bytes()
    assert "virtio_blk" in (merged / "conf/modules").read_text().split()
    assert (merged / "conf/conf.d/resume").read_text() == f"RESUME=UUID={SWAP}\n"
    assert (merged / "lib").is_symlink() and (merged / "init").is_file()

    again = context(root, tmp_path)
    fix.apply(again)
    assert again.guest.changes == [] and again.disk_bus == "virtio"


def test_without_virtio_in_the_guest_the_old_controller_stays(bare: Path, tmp_path: Path) -> None:
    image = no_virtio.repack(bare, tmp_path / "image", "none")
    root = no_virtio.guest_tree(tmp_path / "root", image, IMAGES[0].parent / f"vmlinuz-{RELEASE}", RELEASE, MODULES)
    dep = root / "usr/lib/modules" / RELEASE / "modules.dep"
    dep.write_text("".join(line + "\n" for line in dep.read_text().splitlines() if "virtio" not in line))
    ctx = context(root, tmp_path)
    fix.apply(ctx)
    assert ctx.disk_bus == "sata"
    assert any("virtio_blk" in text for text in ctx.warnings)


def test_no_driver_at_all_is_an_error(tmp_path: Path) -> None:
    empty = tmp_path / "tree"
    (empty / "conf").mkdir(parents=True)
    (empty / "conf/initramfs.conf").write_text("MODULES=dep\n")
    image = no_virtio.repack(empty, tmp_path / "image", "gzip")
    root = no_virtio.guest_tree(tmp_path / "root", image, IMAGES[0].parent / f"vmlinuz-{RELEASE}", RELEASE, MODULES)
    dep = root / "usr/lib/modules" / RELEASE / "modules.dep"
    dep.write_text("")
    with pytest.raises(RepairError, match="no driver for any disk controller"):
        fix.apply(context(root, tmp_path))


def test_a_damaged_image_is_left_alone(bare: Path, tmp_path: Path) -> None:
    image = no_virtio.repack(bare, tmp_path / "image", "gzip")
    image.write_bytes(image.read_bytes()[:-5000])
    root = no_virtio.guest_tree(tmp_path / "root", image, IMAGES[0].parent / f"vmlinuz-{RELEASE}", RELEASE, MODULES)
    ctx = context(root, tmp_path)
    fix.apply(ctx)
    assert ctx.guest.changes == []
    assert (root / f"boot/initrd.img-{RELEASE}").read_bytes() == image.read_bytes()
    assert ctx.disk_bus == "sata" and any("could not be read to its end" in text for text in ctx.warnings)


def test_links_of_the_image_are_never_replaced_by_folders(bare: Path, tmp_path: Path) -> None:
    """A folder entry named "lib" would make the kernel delete the link of that name, and /init with it."""
    image = no_virtio.repack(bare, tmp_path / "image", "none")
    root = no_virtio.guest_tree(tmp_path / "root", image, IMAGES[0].parent / f"vmlinuz-{RELEASE}", RELEASE, MODULES)
    fix.apply(context(root, tmp_path))
    whole = (root / f"boot/initrd.img-{RELEASE}").read_bytes()
    added = initramfs.read(whole[len(image.read_bytes()) :])
    links = {str(path.relative_to(bare)) for path in bare.rglob("*") if path.is_symlink()}
    assert added.entries and not links & set(added.entries)
