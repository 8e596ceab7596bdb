"""Each family's guest before and after the repair: the exact set of changed files and their exact content.

``repair/<guest>/before`` is the tree; ``after`` has every file that may differ, written by hand; ``removed`` names what is
gone. The first-boot files are the same everywhere and checked once; backups must equal the old content.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from livep2v.host.virtualize.boot import initramfs
from livep2v.host.virtualize.context import Context
from livep2v.host.virtualize.devices import Devices
from livep2v.host.virtualize.entries import find
from livep2v.host.virtualize.guest import DirTree
from livep2v.host.virtualize.recorder import BACKUP, Recorder
from livep2v.host.virtualize.repair import FIXES, apply, init_system
from livep2v.host.virtualize.selfcheck import check
from livep2v.model import Cpu, Disk, Firmware, Holder, Machine, Nic, Partition, Volume
from tests.support.guest_record import plan_record

GUESTS = Path(__file__).with_name("repair")
NICS = {"debian12": "enp3s0", "rhel9": "eno1", "rhel8": "ens192", "sles15": "eth0", "ubuntu2204": "enp5s0", "centos6": "eth0"}
WARNINGS = {  # what a person has to be told, a few words of each
    "debian12": ["/dev/sdb1 on /backup\\040disk", "99999999-0000-4000-8000-000000000000"],
    "ubuntu2204": ["TPM", "/dev/sdb1"],
    "centos6": ["/dev/sdb1 on /data"],
}
MAC = "3c:ec:ef:00:11:22"


def machine(guest: str) -> Machine:
    """A BIOS machine with two SATA disks, of which the second is not converted."""

    def part(number: int, kind: str, uuid: str) -> Partition:
        links = (f"/dev/disk/by-id/ata-ST4000_Z3042-part{number}", f"/dev/disk/by-path/pci-0000:00:1f.2-ata-1-part{number}")
        return Partition(
            number, f"/dev/sda{number}", number << 30, 1 << 30, "0x83", f"1c2d3e4f-{number:02x}",
            volume=Volume(kind, uuid), links=links,
        )  # fmt: skip

    first = Disk(
        "sda", "/dev/sda", 1 << 40, 512, transport="sata", table="mbr", links=("/dev/disk/by-id/ata-ST4000_Z3042",),
        partitions=(
            part(1, "ext4", "5b0e36a6-0d9e-4bd4-8a0e-7c8f0b4f52a1"),
            part(2, "ext4", "218cbbf8-7461-4111-8fb4-aa757ebc336a"),
            part(3, "swap", "b34b2a63-d2f5-4aca-b591-ebe59b50e6c8"),
            part(4, "crypto_LUKS", "0c0ffee0-1111-4222-8333-444455556666"),
            part(5, "ext4", "8358195a-bc07-4795-8ca5-13f8a8a862dd"),
            part(6, "xfs", "0f6cba10-95b1-4b4b-9f3a-1b0c49e1d001"),
        ),
    )  # fmt: skip
    second = Disk(
        "sdb", "/dev/sdb", 1 << 40, 512, transport="usb",
        partitions=(Partition(1, "/dev/sdb1", 1 << 20, 1 << 39, "0x83", "ffff-01", volume=Volume("ext4", "77777777-0000")),),
    )  # fmt: skip
    holders = (
        Holder("dm-0", "/dev/mapper/rhel-root", "lvm", ("sda6",), Volume("xfs", "aaaaaaaa-0000-4000-8000-000000000001")),
        Holder("dm-1", "/dev/mapper/rhel-swap", "lvm", ("sda6",), Volume("swap", "aaaaaaaa-0000-4000-8000-000000000002")),
    )
    return Machine(
        guest, True, Firmware.BIOS, Cpu("x86_64", "", "", 4), 8 << 30, (first, second), holders=holders,
        nics=(Nic(NICS[guest], MAC, driver="igb"),),
    )  # fmt: skip


def repair(root: Path, guest: str) -> Context:
    """All fixes but the initramfs, which has no image here."""
    record = machine(guest)
    plan = plan_record(record._replace(disks=record.disks[:1]))
    tree = DirTree(root)
    ctx = Context(record, plan, tree, Recorder(tree), Devices(record, plan), root.parent, entries=find(tree))
    ctx.init, ctx.disk_bus = init_system(tree), "virtio"
    for fix in FIXES:
        if fix is not initramfs:
            apply(fix, ctx, lambda event, facts: None)
    return ctx


def listing(root: Path) -> dict[str, bytes | str]:
    """Every file and link: content, or target."""
    found: dict[str, bytes | str] = {}
    for path in root.rglob("*"):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = f"-> {os.readlink(path)}"
        elif path.is_file():
            found[name] = path.read_bytes()
    return found


def first_boot(init: str) -> set[str]:
    if init == "systemd":
        return {
            "usr/lib/livep2v/first-boot",
            "usr/lib/systemd/system/livep2v-first-boot.service",
            "etc/systemd/system/multi-user.target.wants/livep2v-first-boot.service",
        }
    return {"usr/lib/livep2v/first-boot", "etc/rc.d/init.d/livep2v-first-boot", "etc/rc.d/rc3.d/S99livep2v-first-boot"}


@pytest.mark.parametrize("guest", NICS)
def test_exactly_these_files_change(guest: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(GUESTS / guest / "before", root, symlinks=True)
    old = listing(root)
    ctx = repair(root, guest)
    new = listing(root)
    backups = {name for name in new if name.startswith(BACKUP.lstrip("/") + "/")}
    for name in backups:
        assert new.pop(name) == old[name[len(BACKUP) :]]
    ours = first_boot(ctx.init)
    assert ours <= set(new)
    expected = listing(GUESTS / guest / "after")
    changed = {name: value for name, value in new.items() if old.get(name) != value and name not in ours}
    assert {name: text(value) for name, value in changed.items()} == {name: text(value) for name, value in expected.items()}
    gone = GUESTS / guest / "removed"
    assert set(old) - set(new) == set(gone.read_text().split() if gone.exists() else [])

    recorded = {change.path.lstrip("/") for change in ctx.guest.changes}
    assert {str(Path(os.path.realpath(root / name)).relative_to(root.resolve())) if (root / name).exists() else name
            for name in recorded if not name.startswith("etc/systemd/system")} >= {
        name for name in (set(changed) | (set(old) - set(new))) if not name.startswith("etc/systemd/system")}  # fmt: skip
    assert len(ctx.warnings) == len(WARNINGS.get(guest, []))
    for words, said in zip(sorted(WARNINGS.get(guest, [])), sorted(ctx.warnings), strict=True):
        assert any(words in item for item in ctx.warnings), (words, said)
    assert check(ctx) == []  # the self-check agrees: nothing is left

    again = repair(root, guest)
    assert again.guest.changes == []
    assert {name: value for name, value in listing(root).items() if name not in backups} == new


def text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def test_the_first_boot_script_is_posix_and_reports(tmp_path: Path) -> None:
    """dash is strict about POSIX; mount table, addresses and names come from this machine."""
    script = Path(initramfs.__file__).parents[1] / "linux/first-boot.sh"
    subprocess.run(["dash", "-n", str(script)], check=True)
    body = script.read_text()
    for path in ("/var/lib/livep2v", "/var/log"):
        body = body.replace(path, f"{tmp_path}{path}")
    (tmp_path / "var/log").mkdir(parents=True)
    (tmp_path / "var/lib").mkdir(parents=True)
    body = body.replace("PORT=ttyS1", "PORT=none-of-ours")
    run = tmp_path / "first-boot"
    run.write_text(body)
    subprocess.run(["dash", str(run)], check=True, timeout=60)
    lines = (tmp_path / "var/log/livep2v-first-boot.log").read_text().splitlines()
    assert lines[0] == "LIVEP2V-BEGIN 1" and lines[-1] == "LIVEP2V-END"
    assert f"hostname {os.uname().nodename}" in lines and f"kernel {os.uname().release}" in lines
    found = subprocess.run(["findmnt", "-rno", "SOURCE", "/"], stdout=subprocess.PIPE, text=True, check=True).stdout.split()
    if found and found[-1].startswith("/dev/"):
        assert any(line.startswith("root /dev/") for line in lines)
    command = ["ip", "-o", "addr", "show", "scope", "global"]
    shown = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    expected = {f"address {line.split()[1]} {line.split()[3]}" for line in shown.splitlines()}
    assert {line for line in lines if line.startswith("address ")} == expected
    assert (tmp_path / "var/lib/livep2v/first-boot.done").exists()
    subprocess.run(["dash", str(run)], check=True, timeout=60)
    assert (tmp_path / "var/log/livep2v-first-boot.log").read_text().splitlines() == lines  # once only
