"""Parts of the repair in situations that the golden guests do not have."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from livep2v.errors import RepairError
from livep2v.formats import initramfs as image_format
from livep2v.host.virtualize import guest as guest_module
from livep2v.host.virtualize.boot import arguments, debconf, grub_default, initramfs, removable
from livep2v.host.virtualize.cmdline import console_tokens, device_tokens, each_token
from livep2v.host.virtualize.context import Context
from livep2v.host.virtualize.devices import Devices
from livep2v.host.virtualize.entries import find
from livep2v.host.virtualize.guest import DirTree, glob
from livep2v.host.virtualize.linux import cloud_init, fstab, lvm, nic_names
from livep2v.host.virtualize.mounts import appliance_device
from livep2v.host.virtualize.recorder import Recorder
from livep2v.host.virtualize.repair import apply
from livep2v.host.virtualize.selfcheck import check
from livep2v.model import Cpu, Disk, Firmware, Machine, Mount, Nic, Partition, Smbios, VmNic, Volume
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


GRUB_VALUES = {  # what sh makes of a line of /etc/default/grub -> the arguments that must come out
    '"net.ifnames=0 biosdevname=0" # keep': "net.ifnames=0 biosdevname=0",
    "'root=/dev/nvme0n1p1 quiet'\t# it's \"so\"": f"root=UUID={ROOT} quiet",
    "root=/dev/nvme0n1p1 # bare": f"root=UUID={ROOT}",
    "": "",
    " # nothing": "",
    r'"dyndbg=\"file a.c +p\" quiet"': 'dyndbg="file a.c +p" quiet',
    '"$GRUB_CMDLINE_LINUX quiet"': " quiet",
    '"#"  ': "#",
}


def sourced(text: str, folder: Path) -> str:
    """GRUB_CMDLINE_LINUX as sh has it after reading the file, which is how grub-mkconfig reads it."""
    (folder / "grub").write_text(text)
    command = ["sh", "-e", "-c", '. "$1"; printf %s "$GRUB_CMDLINE_LINUX"', "sh", str(folder / "grub")]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("value", GRUB_VALUES)
def test_grub_settings_stay_shell(value: str, tmp_path: Path) -> None:
    ctx = context(tmp_path, nvme())
    text = f"GRUB_TIMEOUT=1\nGRUB_CMDLINE_LINUX={value}\nGRUB_DEFAULT=0\n"
    edited = grub_default.edited(ctx, text, console=True)
    console = "console=tty0 console=ttyS0,115200"
    assert sourced(edited, tmp_path) == f"{GRUB_VALUES[value]} {console}".removeprefix(" " if not GRUB_VALUES[value] else "")
    comment = value.partition(" #")[2] if value.startswith(('"n', " ")) else ""
    assert edited.split("\n")[1].endswith(comment) and len(edited.split("\n")) == 4
    assert grub_default.edited(ctx, edited, console=True) == edited and not ctx.warnings


@pytest.mark.parametrize(
    "lines",
    ['GRUB_CMDLINE_LINUX="a"#b', "GRUB_CMDLINE_LINUX=\"a\"' b'", 'GRUB_CMDLINE_LINUX="a"; true', 'GRUB_CMDLINE_LINUX="a\\\n b"',
     'export GRUB_CMDLINE_LINUX="root=/dev/nvme0n1p1"'],
)  # fmt: skip
def test_grub_settings_of_another_form_are_left_alone(lines: str, tmp_path: Path) -> None:
    ctx = context(tmp_path, nvme())
    text = f"{lines}\nGRUB_TIMEOUT=1\n"
    sourced(text, tmp_path)
    assert grub_default.edited(ctx, text, console=False) == text
    assert ["GRUB_CMDLINE_LINUX" in warning for warning in ctx.warnings] == [True]
    assert sourced(grub_default.edited(ctx, text, console=True), tmp_path) == sourced(text, tmp_path)


def with_nic(root: Path, mac: str, name: str, live: bool = True) -> Context:
    return context(root, nvme(live)._replace(nics=(Nic(name, mac),)))


def test_a_guest_repaired_before_with_another_card(tmp_path: Path) -> None:
    (tmp_path / "etc/systemd/network").mkdir(parents=True)
    (tmp_path / "etc/systemd/network/10-other.link").write_text("[Match]\nMACAddress=52:54:00:00:00:01\n[Link]\nName=own\n")
    links = tmp_path / "etc/systemd/network"
    nic_names.apply(with_nic(tmp_path, "52:54:00:00:00:01", "eth0"))
    first = {path.name for path in links.iterdir()}
    image = with_nic(tmp_path, "52:54:00:00:00:99", "", live=False)  # a VM's invented card: its name is not known
    assert not nic_names.needed(image)
    assert not [text for text in check(image) if "link" in text]

    ctx = with_nic(tmp_path, "52:54:00:00:00:01", "lan0")
    assert any("10-livep2v-eth0.link" in text for text in check(ctx))  # the old name would come first
    nic_names.apply(ctx)
    assert {path.name for path in links.iterdir()} == {"10-other.link", "10-livep2v-lan0.link"} != first
    assert not [text for text in check(ctx) if "link" in text]

    replaced = with_nic(tmp_path, "52:54:00:00:00:02", "lan0")
    assert not [text for text in check(replaced) if "link" in text]  # a file for a card that is gone stops nothing
    nic_names.apply(replaced)
    assert "52:54:00:00:00:02" in (links / "10-livep2v-lan0.link").read_text()
    assert not with_nic(tmp_path, "52:54:00:00:00:02", "lan0").guest.changes
    gone = context(tmp_path, nvme())
    assert nic_names.needed(gone)
    nic_names.apply(gone)
    assert [path.name for path in links.iterdir()] == ["10-other.link"]


def packed_initramfs(folder: Path, files: dict[str, str]) -> image_format.Image:
    """An image with these files, packed by GNU cpio."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
    command = ["cpio", "--quiet", "-o", "-H", "newc"]
    data = subprocess.run(command, input="\n".join(names).encode(), stdout=subprocess.PIPE, check=True, cwd=folder).stdout
    (folder.parent / "image").write_bytes(data)
    return initramfs.read(folder.parent / "image")


def test_settings_inside_the_initramfs(tmp_path: Path) -> None:
    old_filter = 'devices {\n\tfilter = [ "a|^/dev/disk/by-id/wwn-0x5.*|", "r|.*|" ]\n}\n'
    network = "etc/systemd/network/10-livep2v-"
    image = packed_initramfs(
        tmp_path / "tree",
        {"etc/lvm/lvm.conf": old_filter, "etc/lvm/lvmlocal.conf": old_filter, "etc/lvm/devices/system.devices": "x",
         f"{network}eth0.link": "[Match]\nMACAddress=52:54:00:00:00:01\n[Link]\nName=eth0\n"},
    )  # fmt: skip
    ctx = with_nic(tmp_path / "root", "52:54:00:00:00:01", "lan0")
    new = dict(initramfs._texts(ctx, image))
    assert b"\n# livep2v: \tfilter" in new["etc/lvm/lvm.conf"] and b"\n\tfilter" not in new["etc/lvm/lvmlocal.conf"]
    assert b"use_devicesfile = 0" in new["etc/lvm/lvmlocal.conf"]
    assert new[f"{network}eth0.link"] == b"" and b"Name=lan0" in new[f"{network}lan0.link"]

    ctx.initramfs.append(image_format.describe("/boot/initramfs", image, set()))
    ctx.images["/boot/initramfs"] = image
    assert [text for text in check(ctx) if "etc/lvm/lvm.conf rejects" in text]
    repaired = packed_initramfs(tmp_path / "tree", {name: data.decode() for name, data in new.items()})
    ctx.images["/boot/initramfs"] = repaired
    assert repaired.files.items() >= new.items()  # the empty file is read as one, too
    assert not [text for text in check(ctx) if "lvm" in text]
    assert dict(initramfs._texts(ctx, repaired)) == {}


def grub_header(default: str) -> str:
    """The part of grub.cfg that chooses, as Debian's /etc/grub.d/00_header prints it for GRUB_DEFAULT."""
    return (
        'if [ "${next_entry}" ] ; then\n   set default="${next_entry}"\n   set next_entry=\n   save_env next_entry\n'
        f'   set boot_once=true\nelse\n   set default="{default}"\nfi\n\nfunction load_video {{\n  insmod all_video\n}}\n'
    )


def grub_entry(release: str, name: str) -> str:
    lines = (f"menuentry '{name}' --class gnu $menuentry_id_option 'id-{name}' {{", '  if [ "$x" = y ]; then insmod gzio; fi',
             f"  linux /boot/vmlinuz-{release} root=UUID={ROOT} ro", f"  initrd /boot/initrd.img-{release}", "}\n")  # fmt: skip
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("default", "release"),
    [("0", "6.12"), ("", "6.12"), ("1", "6.1"), ("1>0", "6.1"), ("1>2", "5.10"), ("Advanced>id-B", "5.10"), ("3", "4.19"),
     ("id-adv>2", "5.10"), ("C>>D", "4.19"), ("id-B", "6.12"), ("7", "6.12"), ("${saved_entry}", "6.12")],
)  # fmt: skip
def test_the_default_of_an_ordinary_grub_menu(default: str, release: str, tmp_path: Path) -> None:
    """A menu with a submenu with a recovery entry, an entry that boots no Linux, and one behind it: GRUB counts them all, each
    level from 0, and does not look for a bare id inside of submenus (GRUB manual, "default")."""
    (tmp_path / "boot/grub").mkdir(parents=True)
    for name in ("6.12", "6.1", "5.10", "4.19"):
        (tmp_path / f"boot/vmlinuz-{name}").touch()
        (tmp_path / f"boot/initrd.img-{name}").touch()
    inside = grub_entry("6.1", "A") + grub_entry("6.1", "A (recovery mode)") + grub_entry("5.10", "B")
    text = (
        grub_header(default)
        + grub_entry("6.12", "Debian")
        + f"submenu 'Advanced' $menuentry_id_option 'id-adv' {{\n{inside}}}\n"
        + "menuentry 'UEFI Firmware Settings' {\n  fwsetup\n}\n"
        + grub_entry("4.19", "C>D")
    )
    config = tmp_path / "boot/grub/grub.cfg"
    config.write_text(text)
    subprocess.run(["grub-script-check", str(config)], check=True)
    assert find(DirTree(tmp_path))[0].release == release


def test_a_number_counts_loader_entries_too(tmp_path: Path) -> None:
    (tmp_path / "boot/grub2").mkdir(parents=True)
    (tmp_path / "boot/loader/entries").mkdir(parents=True)
    for release in ("6.9.1", "6.10.0"):
        (tmp_path / f"boot/vmlinuz-{release}").touch()
        entry = f"title Fedora ({release})\nlinux /vmlinuz-{release}\noptions ro\n"
        (tmp_path / f"boot/loader/entries/id-{release}.conf").write_text(entry)
    (tmp_path / "boot/grub2/grub.cfg").write_text(grub_header("1") + "insmod blscfg\nblscfg\n")
    assert [entry.release for entry in find(DirTree(tmp_path))] == ["6.9.1", "6.10.0"]


def test_a_data_volume_without_a_lasting_name_does_not_stop_the_boot(tmp_path: Path) -> None:
    machine = nvme()
    bare = Disk("sdb", "/dev/sdb", 1 << 40, 512, volume=Volume("unknown"))
    ctx = context(tmp_path, machine._replace(disks=(*machine.disks, bare)))
    (tmp_path / "etc").mkdir()
    table = tmp_path / "etc/fstab"
    table.write_text("/dev/sdb /data foo defaults 0 0\n/dev/sdb  /short foo\n")
    fstab.apply(ctx)
    added = "nofail,x-systemd.device-timeout=10s"
    assert table.read_text() == f"/dev/sdb /data foo defaults,{added} 0 0\n/dev/sdb  /short foo defaults,{added}\n"
    assert not [text for text in check(ctx) if "fstab" in text] and len(ctx.warnings) == 2
    command = ["findmnt", "--fstab", "-F", str(table), "-rno", "TARGET,OPTIONS"]
    known = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    assert known.splitlines() == [f"/data defaults,{added}", f"/short defaults,{added}"]
    for point in ("/", "/usr", "/boot"):
        table.write_text(f"/dev/sdb {point} foo defaults 0 0\n")
        fstab.apply(ctx)
        assert "nofail" not in table.read_text()
        assert [text for text in check(ctx) if f"/dev/sdb on {point} " in text]


@pytest.mark.parametrize(
    "name", ["/dev/mmcblk0p1", "/dev/cciss/c0d0p1", "/dev/rd/c0d0p1", "/dev/disk/by-id/ata-ST4000_Z3042-part1",
             "/dev/disk/by-path/pci-0000:00:1f.2-ata-1-part1"],
)  # fmt: skip
def test_an_image_is_the_disk_that_its_system_names(name: str) -> None:
    machine = nvme(live=False)
    image = devices(machine)
    assert image.stable(name) == f"UUID={ROOT}"
    assert image.stable(name[:-1] + "9") == image.stable("/dev/cciss/c0d1p1") == image.stable("/dev/mmcblk1p1") == ""
    second = machine.disks[0]._replace(name="second", partitions=())
    assert devices(machine._replace(disks=(*machine.disks, second))).stable(name) == ""  # which of the two, nobody knows
    assert devices(nvme()).stable(name) == ""


@pytest.mark.parametrize(("live", "virtual", "done"), [(True, False, True), (True, True, False), (False, False, False)])
def test_cloud_init_is_switched_off_on_real_machines_only(live: bool, virtual: bool, done: bool, tmp_path: Path) -> None:
    (tmp_path / "etc/cloud").mkdir(parents=True)
    (tmp_path / "etc/cloud/cloud.cfg").touch()
    ctx = context(tmp_path, nvme(live)._replace(smbios=Smbios(is_virtual=virtual)))
    apply(cloud_init, ctx, lambda event, facts: None)
    assert (tmp_path / "etc/cloud/cloud-init.disabled").exists() is done
    assert any("cloud-init.disabled" in text for text in ctx.warnings) is not live
