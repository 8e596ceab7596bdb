"""The repair on real guests: an initramfs that was given virtio, unpacked by a real kernel; the lab machine's disk, booted."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.build import Built
from livep2v.errors import RepairError
from livep2v.host.run import run, running
from livep2v.host.virtualize import GuestDisk, virtualize
from livep2v.host.virtualize.boot import initramfs as fix
from livep2v.model import Holder, Machine, Nic, Plan, Volume
from tests.support import no_virtio
from tests.support.guest_record import machine_record, plan_record
from tests.unit.test_add_modules import IMAGES, MODULES, RELEASE, context

pytestmark = pytest.mark.machine
EXT4 = ("ext4", "jbd2", "mbcache", "crc16", "crc32c_generic", "crc32c-intel", "crc32c_intel", "libcrc32c", "ahci", "libahci",
        "libata", "scsi_mod", "scsi_common", "sd_mod")  # fmt: skip


def quiet(event: str, facts: dict[str, object]) -> None:
    """A Progress that says nothing."""


def wait_for(pattern: str, log: Path, timeout: float, process: subprocess.Popen[bytes]) -> str:
    """The text of ``log`` once ``pattern`` is in it."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        text = log.read_text(errors="replace") if log.exists() else ""
        if re.search(pattern, text):
            return text
        assert process.poll() is None, f"qemu ended: {text[-2000:]}"
        time.sleep(0.5)
    raise AssertionError(f"{pattern} not seen in {timeout} s: {text[-3000:]}")


# ------------------------------------------------------------ an appended archive, by the kernel


@pytest.mark.skipif(not IMAGES, reason="no kernel package on this machine")
@pytest.mark.parametrize("compression", ["zstd", "lz4", "none"])
def test_kernel_finds_its_root_on_virtio(compression: str, tmp_path: Path) -> None:
    """An initramfs without virtio, repaired, under its own kernel with a virtio disk: the root file system is mounted."""
    bare = no_virtio.without_virtio(IMAGES[0], RELEASE, tmp_path / "work", keep=EXT4)
    image = no_virtio.repack(bare, tmp_path / "image", compression)
    kernel = IMAGES[0].parent / f"vmlinuz-{RELEASE}"
    root = no_virtio.guest_tree(tmp_path / "root", image, kernel, RELEASE, MODULES)
    fix.apply(context(root, tmp_path))
    name = str(uuid.uuid4())
    (tmp_path / "fs").mkdir()
    disk = tmp_path / "disk.raw"
    run(["mke2fs", "-q", "-t", "ext4", "-U", name, "-d", tmp_path / "fs", disk, "64M"], timeout=60)
    log = tmp_path / "serial.log"
    argv = [
        "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-m", "1024", "-nodefaults", "-display", "none", "-no-reboot",
        "-kernel", kernel, "-initrd", root / f"boot/initrd.img-{RELEASE}",
        "-append", f"root=UUID={name} ro console=ttyS0 panic=5",
        "-drive", f"file={disk},format=raw,if=none,id=d0", "-device", "virtio-blk-pci,drive=d0", "-serial", f"file:{log}",
    ]  # fmt: skip
    with running(argv, log_file=tmp_path / "qemu.log") as process:
        text = wait_for(r"EXT4-fs \(vda\): mounted|ALERT!|Kernel panic", log, 240, process)
    assert re.search(r"EXT4-fs \(vda\): mounted", text), text[-3000:]
    assert "unpacking failed" not in text and "Decoding failed" not in text


# ------------------------------------------------------------ a root on LVM


@pytest.mark.skipif(not IMAGES, reason="no kernel package on this machine")
def test_root_on_a_logical_volume(tmp_path: Path) -> None:
    """/boot on a partition, / on LVM: both are found by the source's own mount table, without inspection."""
    guestfs = pytest.importorskip("guestfs")
    bare = no_virtio.without_virtio(IMAGES[0], RELEASE, tmp_path / "work", keep=EXT4)
    image = no_virtio.repack(bare, tmp_path / "image", "gzip")
    tree = no_virtio.guest_tree(tmp_path / "tree", image, IMAGES[0].parent / f"vmlinuz-{RELEASE}", RELEASE, MODULES)
    (tree / "boot/grub/grub.cfg").write_text(
        f"menuentry 'x' {{\nlinux /vmlinuz-{RELEASE} root=/dev/mapper/vg0-root ro\ninitrd /initrd.img-{RELEASE}\n}}\n"
    )
    (tree / "etc/fstab").write_text("/dev/mapper/vg0-root / ext4 defaults 0 1\n/dev/sda1 /boot ext4 noauto 0 2\n")
    (tree / "etc/lvm/devices").mkdir(parents=True)
    (tree / "etc/lvm/devices/system.devices").write_text("IDTYPE=sys_wwid IDNAME=naa.5000 DEVNAME=/dev/sda2\n")
    disk = tmp_path / "disk.raw"
    run(["truncate", "-s", "640M", disk], timeout=10)
    run(["sfdisk", "-q", disk], timeout=10, input="label: dos\n2048,400M,83\n,,8e\n")

    def appliance() -> Any:
        g = guestfs.GuestFS(python_return_dict=True)
        g.set_backend("direct")
        g.set_backend_setting("force_tcg", "1")
        g.add_drive_opts(str(disk), format="raw")
        g.launch()
        return g

    g = appliance()
    g.pvcreate("/dev/sda2")
    g.vgcreate("vg0", ["/dev/sda2"])
    g.lvcreate_free("root", "vg0", 100)
    g.mkfs("ext4", "/dev/sda1")
    g.mkfs("ext4", "/dev/vg0/root")
    g.mount("/dev/vg0/root", "/")
    g.mkdir("/boot")
    g.mount("/dev/sda1", "/boot")
    run(["tar", "-C", tree, "-cf", tmp_path / "tree.tar", "."], timeout=60)
    g.tar_in(str(tmp_path / "tree.tar"), "/")
    g.shutdown()
    g.close()

    nic = Nic("eno1", "52:54:00:aa:bb:cc")
    machine = machine_record(disk, {"/": "/dev/mapper/vg0-root"}, nic, RELEASE)  # /boot is not mounted: fstab says noauto
    holder = Holder("dm-0", "/dev/mapper/vg0-root", "lvm", ("sda2",), Volume("ext4", "", ""))
    machine = machine._replace(holders=(holder,))
    plan = plan_record(machine)
    changes = virtualize(tmp_path, [GuestDisk(disk, "raw", plan.snapshot.disks[0])], machine, plan, quiet)
    assert changes.disk_bus == "virtio" and changes.root == "/dev/mapper/vg0-root"
    assert {change.path for change in changes.changes} >= {
        "/etc/fstab", "/etc/lvm/devices/system.devices", "/boot/grub/grub.cfg", f"/boot/initrd.img-{RELEASE}"
    }  # fmt: skip

    g = appliance()
    g.mount_ro("/dev/vg0/root", "/")
    boot_uuid = g.vfs_uuid("/dev/sda1")
    assert g.read_file("/etc/fstab").decode() == (
        f"/dev/mapper/vg0-root / ext4 defaults 0 1\nUUID={boot_uuid} /boot ext4 noauto 0 2\n"
    )
    assert not g.exists("/etc/lvm/devices/system.devices")
    g.close()


# ------------------------------------------------------------ the lab machine


@pytest.fixture(scope="module")
def job(built_oldbox: Built, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("repair")
    yield folder
    shutil.rmtree(folder)  # a disk of 4 GiB


def record(disk: Path, mac: str) -> tuple[Machine, Plan]:
    machine = machine_record(disk, {"/": "/dev/sda2", "/boot": "/dev/sda1"}, Nic("enp0s2", mac, driver="e1000"), "")
    return machine, plan_record(machine)


@contextlib.contextmanager
def booted(disk: Path, disk_format: str, mac: str, folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path, Path]]:
    overlay = folder / "boot.qcow2"
    run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", disk, "-F", disk_format, overlay], timeout=60)
    console, report = folder / "ttyS0.log", folder / "ttyS1.log"
    argv = [
        "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-smp", "2", "-m", "1024", "-machine", "q35", "-nodefaults",
        "-vga", "std", "-display", "none", "-no-reboot",
        "-drive", f"file={overlay},format=qcow2,if=none,id=d0,cache=unsafe", "-device", "virtio-blk-pci,drive=d0,bootindex=1",
        "-netdev", "user,id=n0,restrict=on", "-device", f"virtio-net-pci,netdev=n0,mac={mac},addr=9",
        "-serial", f"file:{console}", "-serial", f"file:{report}",
    ]  # fmt: skip
    with running(argv, log_file=folder / "qemu.log") as process:
        yield process, console, report
    overlay.unlink()


@pytest.mark.parametrize("disk_format", ["raw", "vhd"])
def test_lab_machine_is_repaired_and_boots_on_virtio(
    disk_format: str, built_oldbox: Built, job: Path, record_property: Callable[[str, object], None]
) -> None:
    mac = built_oldbox.recipe.hardware.mac
    machine, plan = record(built_oldbox.disk, mac)
    qemu_format = {"raw": "raw", "vhd": "vpc"}[disk_format]
    disk = job / f"sda.{disk_format}"
    options = ["-o", "force_size=on"] if disk_format == "vhd" else []
    run(["qemu-img", "convert", "-O", qemu_format, *options, built_oldbox.disk, disk], timeout=600)

    changes = virtualize(job, [GuestDisk(disk, disk_format, plan.snapshot.disks[0])], machine, plan, quiet)
    record_property("repair_seconds", changes.seconds)
    print(f"repair of the lab machine ({disk_format}): {changes.seconds:.1f} s, {len(changes.changes)} changes")
    assert changes.disk_bus == "virtio" and changes.nic_model == "virtio-net-pci" and changes.root.startswith("UUID=")
    assert not list(job.glob("*.qcow2"))

    before = disk.stat().st_mtime_ns
    again = virtualize(job, [GuestDisk(disk, disk_format, plan.snapshot.disks[0])], machine, plan, quiet)
    assert again.changes == () and disk.stat().st_mtime_ns == before

    with booted(disk, qemu_format, mac, job) as (process, console, report):
        text = wait_for("LIVEP2V-END|dropping to a shell", report, 600, process)
    lines = text.replace("\r", "").splitlines()
    assert lines[0] == "LIVEP2V-BEGIN 1" and lines[-1] == "LIVEP2V-END"
    assert "hostname oldbox" in lines and "root /dev/vda2" in lines
    assert f"kernel {changes.kernel}" in lines
    assert "mount /dev/vda1 /boot ext4" in lines
    assert any(line.startswith("address enp0s2 ") for line in lines)  # the old name, in another slot
    assert "state running" in lines and not [line for line in lines if line.startswith("failed ")]
    assert "Gave up waiting" not in console.read_text(errors="replace")
    disk.unlink()


def test_a_failed_repair_leaves_the_replica_as_it_was(built_oldbox: Built, job: Path) -> None:
    """A grub.cfg that nobody can boot from: the repair says so and no byte of the disk has changed."""
    disk = job / "broken.raw"
    run(["cp", "--sparse=always", built_oldbox.disk, disk], timeout=300)
    offset = 1024 * 1024  # of /boot, in the recipe
    commands = "rm /grub/grub.cfg\n"
    run(["debugfs", "-w", "-f", "/dev/stdin", f"{disk}?offset={offset}"], timeout=60, input=commands)
    before = run(["sha256sum", disk], timeout=300).stdout.split()[0]
    machine, plan = record(built_oldbox.disk, built_oldbox.recipe.hardware.mac)
    with pytest.raises(RepairError, match="boot loader"):
        virtualize(job, [GuestDisk(disk, "raw", plan.snapshot.disks[0])], machine, plan, quiet)
    assert run(["sha256sum", disk], timeout=300).stdout.split()[0] == before
    assert not list(job.glob("*.qcow2"))
    disk.unlink()
