"""Parts of the repair in situations that the golden guests do not have."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from livep2v.errors import RepairError
from livep2v.host.virtualize import guest as guest_module
from livep2v.host.virtualize.boot import arguments, debconf, removable
from livep2v.host.virtualize.cmdline import console_tokens, device_tokens, each_token
from livep2v.host.virtualize.context import Context
from livep2v.host.virtualize.devices import Devices
from livep2v.host.virtualize.entries import find
from livep2v.host.virtualize.guest import DirTree, glob
from livep2v.host.virtualize.linux import lvm, nic_names
from livep2v.host.virtualize.mounts import appliance_device
from livep2v.host.virtualize.recorder import Recorder
from livep2v.host.virtualize.repair import apply
from livep2v.model import Cpu, Disk, Firmware, Machine, Mount, Nic, Partition, VmNic, Volume
from tests.support.guest_record import plan_record

ROOT = "218cbbf8-7461-4111-8fb4-aa757ebc336a"


def nvme(live: bool = True, *, twin: bool = False) -> Machine:
    """A machine with an NVMe disk; ``twin``: a second partition with the same UUID, as dd makes one."""
    parts = [Partition(1, "/dev/nvme0n1p1", 1 << 20, 1 << 30, "0x83", "ab-01", volume=Volume("ext4", ROOT, "root"))]
    if twin:
        parts.append(Partition(2, "/dev/nvme0n1p2", 2 << 30, 1 << 30, "0x83", "ab-02", volume=Volume("ext4", ROOT)))
    disk = Disk("nvme0n1", "/dev/nvme0n1", 1 << 40, 512, transport="nvme", partitions=tuple(parts))
    return Machine("old", live, Firmware.UEFI, Cpu("x86_64", "", "", 1), 1 << 30, (disk,))


def devices(machine: Machine) -> Devices:
    return Devices(machine, plan_record(machine))


def context(root: Path, machine: Machine) -> Context:
    tree = DirTree(root)
    plan = plan_record(machine)
    return Context(machine, plan, tree, Recorder(tree), Devices(machine, plan), root, entries=find(tree))


@pytest.mark.parametrize(
    "name", ["/dev/sda1", "/dev/hdb", "/dev/nvme0n1p2", "/dev/cciss/c0d0p1", "/dev/xvda1", "/dev/mapper/mpatha",
             "/dev/mmcblk0p1", "/dev/disk/by-path/pci-0000:00:1f.2-ata-1", "/dev/disk/by-id/wwn-0x5000c500a1b2c3d4-part1"],
)  # fmt: skip
def test_names_that_follow_the_hardware(name: str) -> None:
    assert Devices.volatile(name)


@pytest.mark.parametrize(
    "name", ["UUID=x", "LABEL=/dev/sda1", "/dev/mapper/vg-root", "/dev/vg/root", "/dev/disk/by-uuid/x", "/dev/md0",
             "/dev/loop0", "/dev/disk/by-id/dm-name-vg-root", "/dev/disk/by-id/md-uuid-1:2",
             "/dev/disk/by-label/x", "/dev/sr0", "tmpfs"],
)  # fmt: skip
def test_names_that_stay(name: str) -> None:
    assert not Devices.volatile(name)


def test_two_volumes_with_one_uuid_are_told_apart() -> None:
    assert devices(nvme()).stable("/dev/nvme0n1p1") == f"UUID={ROOT}"
    assert devices(nvme(twin=True)).stable("/dev/nvme0n1p2") == "PARTUUID=ab-02"


def test_an_image_is_read_by_the_order_of_its_disks() -> None:
    image = devices(nvme(live=False))
    assert image.stable("/dev/sda1") == image.stable("/dev/vda1") == image.stable("/dev/nvme0n1p1") == f"UUID={ROOT}"
    assert image.stable("/dev/sdb1") == image.stable("/dev/sda9") == ""
    assert devices(nvme()).stable("/dev/sda1") == ""  # a machine that runs says what it has


def test_what_is_mounted_from_another_disk_is_absent() -> None:
    machine = nvme()._replace(mounts=(Mount("/data", "/dev/mapper/vg-data", "253:0", "xfs", "rw", 1, ("nvme0n1", "sdb")),))
    assert "sdb" in devices(machine).absent("/dev/mapper/vg-data", "/data")
    assert devices(machine).absent("/dev/mapper/vg-other", "/other") == ""


def test_the_appliance_names_disks_in_the_order_of_the_plan() -> None:
    machine = nvme()
    mount = Mount("/", "/dev/nvme0n1p1", "259:1", "ext4", "rw", 1, ("nvme0n1",))
    assert appliance_device(mount, plan_record(machine), devices(machine)) == "/dev/sda1"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("ro quiet", "ro quiet console=tty0 console=ttyS0,115200"),
        ("", "console=tty0 console=ttyS0,115200"),
        ("ro console=tty0", "ro console=tty0 console=ttyS0,115200"),
        ("console=ttyS0,9600n8 ro", "console=ttyS0,9600n8 ro"),
        ("console=tty0 console=ttyS1,115200n8 ro", "console=tty0 console=ttyS0,115200n8 ro"),
        ("console=ttyS1,57600 console=ttyS2,57600 ro", "console=ttyS0,57600 ro"),
    ],
)
def test_console(before: str, after: str) -> None:
    assert console_tokens(before) == after
    assert console_tokens(after) == after


def test_quoted_arguments_are_one_token() -> None:
    text = 'ro  dyndbg="file drivers/usb/* +p root=/dev/nvme0n1p1"  root=/dev/nvme0n1p1'
    assert device_tokens(text, devices(nvme())) == text.removesuffix("root=/dev/nvme0n1p1") + f"root=UUID={ROOT}"
    assert each_token("a  b c", lambda token: None if token == "b" else token) == "a c"


def test_resume_from_a_disk_that_stays_behind_is_dropped() -> None:
    assert device_tokens("ro resume=/dev/sdz3 quiet", devices(nvme())) == "ro quiet"


def test_grubenv_keeps_its_size_or_its_content(tmp_path: Path) -> None:
    long = "kernelopts=root=/dev/nvme0n1p1 " + "x" * 940 + "\n"
    text = ("# GRUB Environment Block\n" + long).ljust(1024, "#")
    ctx = context(tmp_path, nvme())
    assert arguments.env_text(ctx, text) == text and ctx.warnings
    assert arguments.env_text(ctx, "kernelopts=root=/dev/nvme0n1p1") == "kernelopts=root=/dev/nvme0n1p1"  # no grubenv at all


def test_the_default_entry_comes_first(tmp_path: Path) -> None:
    (tmp_path / "boot/grub2").mkdir(parents=True)
    (tmp_path / "boot/loader/entries").mkdir(parents=True)
    for release in ("6.9.1", "6.10.0"):
        (tmp_path / f"boot/vmlinuz-{release}").touch()
        (tmp_path / f"boot/initramfs-{release}.img").touch()
        (tmp_path / f"boot/loader/entries/id-{release}.conf").write_text(
            f"title Fedora ({release})\nlinux /vmlinuz-{release}\ninitrd /initramfs-{release}.img\noptions ro\n"
        )
    tree = DirTree(tmp_path)
    assert [entry.release for entry in find(tree)] == ["6.10.0", "6.9.1"]
    (tmp_path / "boot/grub2/grub.cfg").write_text('set default="${saved_entry}"\nblscfg\n')
    (tmp_path / "boot/grub2/grubenv").write_text("# GRUB Environment Block\nsaved_entry=id-6.9.1\n" + "#" * 900)
    assert [entry.release for entry in find(tree)] == ["6.9.1", "6.10.0"]


@pytest.mark.parametrize(
    ("value", "rejected"),
    [
        ('[ "a|.*|" ]', False),
        ('[ "a|^/dev/sd.*|", "r|.*|" ]', True),
        ('[ "r|/dev/drbd.*|" ]', False),
        ('[ "a|/dev/vd.*|", "a|/dev/sd.*|", "a|/dev/nvme.*|", "r|.*|" ]', False),
        ('"a/.*/"', False),
        ('[ "a|(|", "r|.*|" ]', True),
    ],
)
def test_lvm_filters(value: str, rejected: bool) -> None:
    assert lvm.rejects(value) is rejected


def test_names_from_the_source_cannot_become_paths_or_rules(tmp_path: Path) -> None:
    ctx = context(tmp_path, nvme()._replace(nics=(Nic("eth0", "52:54:00:00:00:01"),)))
    bad = (
        VmNic("52:54:00:00:00:02", "e1000", "../../x"),
        VmNic('52:54:00:00:00:03"', "e1000", "eth3"),
        VmNic("52:54:00:00:00:01", "e1000", "eth0"),
        VmNic("52:54:00:00:00:01", "e1000", "eth9"),
    )
    ctx.plan = ctx.plan._replace(vm=ctx.plan.vm._replace(nics=bad))
    assert nic_names.pins(ctx) == [("52:54:00:00:00:01", "eth0")]


def test_links_of_the_guest_never_lead_out_of_it(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (tmp_path / "secret").write_text("of the host")
    (root / "etc/absolute").symlink_to(tmp_path / "secret")
    (root / "etc/relative").symlink_to("../../secret")
    (root / "etc/loop").symlink_to("loop")
    tree = DirTree(root)
    for name in ("absolute", "relative"):
        assert not tree.exists(f"/etc/{name}")
        with pytest.raises(FileNotFoundError):
            tree.read(f"/etc/{name}")
    assert not tree.exists("/etc/loop")
    assert glob(tree, "/etc/*") == ["/etc/absolute", "/etc/loop", "/etc/relative"]


def test_a_file_too_large_to_be_a_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fstab").write_bytes(bytes(101))
    monkeypatch.setattr(guest_module, "READ_LIMIT", 100)
    with pytest.raises(RepairError, match="101 bytes"):
        DirTree(tmp_path).read("/fstab")


def test_mode_and_owner_of_edited_files_stay(tmp_path: Path) -> None:
    path = tmp_path / "grub.cfg"
    path.write_text("old")
    path.chmod(0o400)
    os.chown(path, 12, 34)
    recorder = Recorder(DirTree(tmp_path))
    assert recorder.put("/grub.cfg", b"new", "why")
    status = path.stat()
    assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o400, 12, 34)
    backup = tmp_path / "var/lib/livep2v/backup/grub.cfg"
    assert backup.read_text() == "old"
    recorder.put("/grub.cfg", b"newer", "why")
    assert backup.read_text() == "old"  # the machine's own, not ours
    assert not recorder.put("/grub.cfg", b"newer", "why") and len(recorder.changes) == 2


def efi_guest(root: Path, *files: str) -> None:
    for name in files:
        path = root / "boot/efi/EFI" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"content of {name}")


def test_uefi_fallback_loader_is_the_vendors_shim(tmp_path: Path) -> None:
    efi_guest(tmp_path, "debian/shimx64.efi", "debian/grubx64.efi", "debian/mmx64.efi", "debian/fbx64.efi", "Microsoft/x.efi")
    ctx = context(tmp_path, nvme())
    assert removable.needed(ctx)
    removable.apply(ctx)
    boot = tmp_path / "boot/efi/EFI/BOOT"
    assert {path.name: path.read_text() for path in boot.iterdir()} == {
        "BOOTX64.EFI": "content of debian/shimx64.efi",
        "grubx64.efi": "content of debian/grubx64.efi",
        "mmx64.efi": "content of debian/mmx64.efi",
    }
    assert not removable.needed(context(tmp_path, nvme()))


def test_uefi_fallback_loader_that_exists_is_left_alone(tmp_path: Path) -> None:
    efi_guest(tmp_path, "Boot/bootx64.efi", "redhat/shimx64.efi")
    assert not removable.needed(context(tmp_path, nvme()))
    bios = nvme()._replace(firmware=Firmware.BIOS)
    assert not removable.needed(context(tmp_path / "other", bios))


def test_debian_keeps_the_fallback_loader_up_to_date(tmp_path: Path) -> None:
    name = "Name: grub2/force_efi_extra_removable\nTemplate: grub2/force_efi_extra_removable\nValue: false\nOwners: grub-efi\n"
    other = "Name: grub2/update_nvram\nTemplate: grub2/update_nvram\nValue: false\n"
    uefi, bios = context(tmp_path, nvme()), context(tmp_path, nvme()._replace(firmware=Firmware.BIOS))
    assert debconf.edited(uefi, f"{name}\n{other}") == f"{name.replace('false', 'true')}\n{other}"
    assert debconf.edited(bios, f"{name}\n{other}") == f"{name}\n{other}"


class Failing:
    """A fix that fails."""

    NAME = "failing"

    def __init__(self, critical: bool) -> None:
        self.CRITICAL = critical

    def needed(self, ctx: Context) -> str:
        return "always"

    def apply(self, ctx: Context) -> None:
        raise OSError(28, "No space left on device")


def test_a_failing_fix_is_a_warning_or_the_end(tmp_path: Path) -> None:
    ctx = context(tmp_path, nvme())
    apply(Failing(False), ctx, lambda event, facts: None)
    assert ctx.warnings == ["failing: not done: [Errno 28] No space left on device"]
    with pytest.raises(RepairError, match="No space left"):
        apply(Failing(True), ctx, lambda event, facts: None)
