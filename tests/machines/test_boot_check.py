"""The boot check against real guests: one that comes up, and one for each way of not coming up."""

from __future__ import annotations

import re
import struct
import subprocess
from pathlib import Path

import pytest

from livep2v.errors import ToolFailed
from livep2v.host.define.qemu import FIRMWARE_VARS, install_firmware
from livep2v.host.verify.boot import boot_check
from livep2v.model import BootCheck, Changes, Firmware, PlanDisk, Vm, VmNic
from tests.support import tiny_guest

pytestmark = [pytest.mark.machine, pytest.mark.timeout(300)]

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("parts")


def _vm(bus: str = "virtio", nics: tuple[VmNic, ...] = (VmNic("52:54:00:aa:00:01", "virtio-net-pci"),)) -> Vm:
    return Vm("tiny", "0b5c0f1e-1111-4222-8333-444455556666", 1, 1, 1, 1, 384 * MIB, Firmware.BIOS, "q35", bus, nics, True)


def _disk(path: Path, format: str = "raw") -> tuple[PlanDisk, Path]:
    size = tiny_guest.SIZE
    return PlanDisk(0, "sda", "/dev/sda", "8:0", size, 512, path.name, format, "dynamic", (), 1, serial="TINY0001"), path


def _changes(bus: str = "virtio", kernel: str = "") -> Changes:
    return Changes((), "UUID=x", kernel, bus, "virtio-net-pci", ())


def _check(job: Path, disk: tuple[PlanDisk, Path], bus: str = "virtio", timeout: float = 120, kernel: str = "") -> BootCheck:
    return boot_check(job, _vm(bus), [disk], _changes(bus, kernel), "tcg", timeout, lambda name, facts: None)


def _alive(needle: Path) -> list[str]:
    """Processes whose command line names ``needle``."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(needle) in line and "qemu" in line:
            found.append(line)
    return found


def test_vhd_comes_up_on_virtio_and_is_not_changed(parts: Path, tmp_path: Path) -> None:
    raw = tiny_guest.build(parts, tmp_path / "good.raw", tiny_guest.REPORT + tiny_guest.HANG)
    vhd = tmp_path / "good.vhd"
    subprocess.run(["qemu-img", "convert", "-O", "vpc", "-o", "force_size=on", raw, vhd], check=True)
    before = vhd.read_bytes()
    events: list[str] = []
    kernel = tiny_guest.kernel_release()
    check = boot_check(
        tmp_path, _vm(), [_disk(vhd, "vhd")], _changes(kernel=kernel), "tcg", 120, lambda name, facts: events.append(name)
    )
    assert check.ok, check
    assert check.root == "/dev/vda1" and check.hostname == "tiny" and check.kernel == kernel
    assert check.mounts == ("/dev/vda1 / ext4",)
    assert check.failed_units == ("broken.service",) and check.addresses == ("enp0s2 192.0.2.7/24",)
    assert check.system_state == "degraded" and check.accelerator == "tcg"
    assert "on virtio-blk: / on /dev/vda1, 1 file system mounted, 1 failed: broken.service" in check.verdict
    assert "expected" not in check.verdict
    assert "Linux version" in (tmp_path / check.serial_log).read_text(errors="replace")
    picture = (tmp_path / check.screenshot).read_bytes()
    assert picture[:8] == b"\x89PNG\r\n\x1a\n" and struct.unpack(">II", picture[16:24])[0] >= 640
    assert "boot" in events
    assert vhd.read_bytes() == before
    assert not list(tmp_path.glob(".boot-check-*")) and not _alive(tmp_path)


def test_sata_when_virtio_is_not_proven(parts: Path, tmp_path: Path) -> None:
    raw = tiny_guest.build(parts, tmp_path / "sata.raw", tiny_guest.REPORT + tiny_guest.HANG, root="/dev/sda1")
    check = _check(tmp_path, _disk(raw), "sata", kernel="5.10.0-other")
    assert check.ok and check.root == "/dev/sda1", check
    assert "on SATA" in check.verdict and "where 5.10.0-other was expected" in check.verdict


def test_root_elsewhere_is_not_accepted(parts: Path, tmp_path: Path) -> None:
    init = "exec >/dev/ttyS1; echo LIVEP2V-BEGIN 1; echo root /dev/sda1; echo LIVEP2V-END\n" + tiny_guest.HANG
    check = _check(tmp_path, _disk(tiny_guest.build(parts, tmp_path / "else.raw", init)))
    assert not check.ok and "/ is on /dev/sda1, not on virtio-blk" in check.verdict


def test_empty_disk(tmp_path: Path) -> None:
    empty = tmp_path / "empty.raw"
    with empty.open("wb") as file:
        file.truncate(tiny_guest.SIZE)
    check = _check(tmp_path, _disk(empty))
    assert not check.ok and "No bootable device" in check.verdict
    assert check.seconds < 60


def test_empty_disk_under_uefi(tmp_path: Path) -> None:
    empty = tmp_path / "empty.raw"
    with empty.open("wb") as file:
        file.truncate(tiny_guest.SIZE)
    vm = _vm()._replace(firmware=Firmware.UEFI)
    install_firmware(tmp_path, vm)
    store = (tmp_path / FIRMWARE_VARS).read_bytes()
    check = boot_check(tmp_path, vm, [_disk(empty)], _changes(), "tcg", 120, lambda name, facts: None)
    assert not check.ok and "the firmware found nothing to boot: " in check.verdict, check
    assert check.seconds < 110
    assert (tmp_path / FIRMWARE_VARS).read_bytes() == store


def test_boot_loader_without_its_files(parts: Path, tmp_path: Path) -> None:
    bare = ("biosdisk", "part_msdos", "ext2")
    raw = tiny_guest.build(parts, tmp_path / "grub.raw", "", prefix="(hd0,msdos7)/nowhere", modules=bare)
    check = _check(tmp_path, _disk(raw))
    assert not check.ok and "GRUB did not find its files: grub rescue>" in check.verdict


def test_boot_loader_without_its_configuration(parts: Path, tmp_path: Path) -> None:
    raw = tiny_guest.build(parts, tmp_path / "prompt.raw", "", prefix="(hd0,msdos1)/nowhere")
    check = _check(tmp_path, _disk(raw))
    assert not check.ok and "GRUB found no configuration and waits at its prompt" in check.verdict


def test_root_that_does_not_exist(parts: Path, tmp_path: Path) -> None:
    raw = tiny_guest.build(parts, tmp_path / "root.raw", tiny_guest.HANG, root="/dev/sdz9", options="rootdelay=2")
    check = _check(tmp_path, _disk(raw))
    assert not check.ok and "ALERT!  /dev/sdz9 does not exist.  Dropping to a shell!" in check.verdict


def test_kernel_panic(parts: Path, tmp_path: Path) -> None:
    raw = tiny_guest.build(parts, tmp_path / "panic.raw", "exit 1\n")
    check = _check(tmp_path, _disk(raw))
    assert not check.ok and "the kernel panicked" in check.verdict and "Attempted to kill init" in check.verdict


def test_guest_that_switches_itself_off(parts: Path, tmp_path: Path) -> None:
    raw = tiny_guest.build(parts, tmp_path / "off.raw", "echo o >/proc/sysrq-trigger\n" + tiny_guest.HANG)
    check = _check(tmp_path, _disk(raw))
    assert not check.ok and "switched itself off" in check.verdict


def test_guest_that_restarts_for_ever(parts: Path, tmp_path: Path) -> None:
    raw = tiny_guest.build(parts, tmp_path / "again.raw", "echo b >/proc/sysrq-trigger\n" + tiny_guest.HANG)
    check = _check(tmp_path, _disk(raw), timeout=480)  # ends with the third restart; a busy host needs minutes for that
    assert not check.ok and re.search(r"restarted [3-9] times", check.verdict)  # it may restart once more while we look


def test_guest_that_says_nothing_runs_out_of_time(parts: Path, tmp_path: Path) -> None:
    raw = tiny_guest.build(parts, tmp_path / "hang.raw", "echo up and waiting >/dev/console\n" + tiny_guest.HANG)
    check = _check(tmp_path, _disk(raw), timeout=40)
    assert not check.ok and "no report came within 40 s" in check.verdict and "up and waiting" in check.verdict
    assert 40 <= check.seconds < 60


def test_host_without_room_for_what_the_guest_writes(parts: Path, tmp_path: Path) -> None:
    init = "while :; do echo 0123456789012345678901234567890123456789012345678901234567890123; done >/dev/vda1\n"
    raw = tiny_guest.build(parts, tmp_path / "writes.raw", init)
    job = tmp_path / "job"
    job.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", job], check=True)
    try:
        check = _check(job, _disk(raw))
        assert not check.ok and "this host cannot hold what the guest writes: No space left" in check.verdict, check
        assert not list(job.glob(".boot-check-*"))
    finally:
        subprocess.run(["umount", job], check=True)


def test_interrupt_leaves_nothing(tmp_path: Path) -> None:
    empty = tmp_path / "empty.raw"
    with empty.open("wb") as file:
        file.truncate(tiny_guest.SIZE)

    def interrupt(name: str, facts: dict[str, object]) -> None:
        assert _alive(tmp_path)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        boot_check(tmp_path, _vm(), [_disk(empty)], _changes(), "tcg", 60, interrupt)
    assert not list(tmp_path.glob(".boot-check-*")) and not _alive(tmp_path)


def test_qemu_that_does_not_start(tmp_path: Path) -> None:
    empty = tmp_path / "empty.raw"
    empty.write_bytes(bytes(MIB))
    odd = _vm(nics=(VmNic("52:54:00:aa:00:01", "no-such-card"),))
    changes = _changes()._replace(nic_model="")
    with pytest.raises(ToolFailed, match="no-such-card"):
        boot_check(tmp_path, odd, [_disk(empty)], changes, "tcg", 60, lambda name, facts: None)
    assert not list(tmp_path.glob(".boot-check-*"))
