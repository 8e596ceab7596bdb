"""The lab machine is what it claims to be; judged by sfdisk, dumpe2fs, e2fsck and by the machine itself."""

from __future__ import annotations

import json
import re
import subprocess
import time
from pathlib import Path

import pytest

from lab.build import OLD_DATA, Built, layout
from lab.machine import Machine
from lab.writer import check, churning, longest_pause, read_acks, writing

pytestmark = pytest.mark.machine


def output(*argv: str | Path) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def test_partition_table(built_oldbox: Built) -> None:
    table = json.loads(output("sfdisk", "--json", built_oldbox.disk))["partitiontable"]
    assert table["label"] == "dos"
    assert [(part["start"] * 512, part["size"] * 512, part["type"]) for part in table["partitions"]] == [
        (offset, part.size, "82" if part.kind == "swap" else "83") for offset, part in layout(built_oldbox.recipe)
    ]
    assert table["partitions"][0]["bootable"]


@pytest.mark.parametrize("mountpoint", ["/boot", "/"])
def test_free_space_is_full_of_old_data(built_oldbox: Built, mountpoint: str) -> None:
    """At least 8 of 10 free blocks, by dumpe2fs's list of them, begin as old data does; the rest is what was written and
    deleted since."""
    offset = next(offset for offset, part in layout(built_oldbox.recipe) if part.mountpoint == mountpoint)
    text = output("dumpe2fs", f"{built_oldbox.disk}?offset={offset}")
    found = re.search(r"^Block size: +(\d+)", text, re.MULTILINE)
    assert found is not None
    size = int(found[1])
    free: list[int] = []
    for line in re.findall(r"^  Free blocks: (.+)$", text, re.MULTILINE):
        for piece in line.split(", "):
            first, _, last = piece.partition("-")
            free += range(int(first), int(last or first) + 1)
    # Old data has its mark at every 4 KiB; a file system of 1 KiB blocks shows it in every fourth
    free = [block for block in free if block * size % 4096 == 0]
    assert len(free) > 1000
    with built_oldbox.disk.open("rb") as disk:
        old = 0
        for block in free:
            disk.seek(offset + block * size)
            old += disk.read(len(OLD_DATA)) == OLD_DATA
    assert old >= 0.8 * len(free), f"{old} of {len(free)}"


def test_it_is_a_physical_machine(oldbox: Machine) -> None:
    assert oldbox.run("systemd-detect-virt", check=False).strip() == "none"
    assert oldbox.run("cat /sys/class/dmi/id/sys_vendor").strip() == oldbox.hardware.manufacturer
    assert oldbox.run("cat /sys/class/dmi/id/product_uuid").strip() == oldbox.hardware.uuid
    controller = oldbox.run("readlink -f /sys/block/sda").split("/ata")[0]
    assert oldbox.run(f"readlink {controller}/driver").strip().endswith("/ahci")
    assert oldbox.run("readlink -f /sys/class/net/enp0s2/device/driver").strip().endswith("/e1000")
    assert oldbox.run("cat /sys/class/net/enp0s2/address").strip() == oldbox.hardware.mac
    assert oldbox.run("systemctl is-active smartmontools").strip() == "active"
    assert oldbox.run("systemctl --failed --no-legend").strip() == ""


def test_it_names_devices_the_old_way(oldbox: Machine) -> None:
    assert " root=/dev/sda2 " in oldbox.run("cat /proc/cmdline")
    assert re.findall(r"^(/dev/sda\d)\s+(\S+)", oldbox.run("cat /etc/fstab"), re.MULTILINE) == [
        ("/dev/sda2", "/"),
        ("/dev/sda1", "/boot"),
        ("/dev/sda3", "none"),
    ]
    assert oldbox.run("findmnt -no SOURCE /; findmnt -no SOURCE /boot").split() == ["/dev/sda2", "/dev/sda1"]
    assert oldbox.run("swapon --noheadings --show=NAME").strip() == "/dev/sda3"
    assert "RESUME=/dev/sda3" in oldbox.run("cat /etc/initramfs-tools/conf.d/resume")
    assert oldbox.run("test -e /boot/grub/i386-pc/normal.mod && cat /boot/grub/device.map").startswith("(hd0)")


def test_its_users(oldbox: Machine) -> None:
    assert oldbox.run("sudo -n id -u", user="admin").strip() == "0"
    assert oldbox.run("id -un; sudo -n id -u", user="nobodyelse", check=False).split() == ["nobodyelse"]


def test_ssh_options_open_it_too(oldbox: Machine) -> None:
    assert output("ssh", *oldbox.ssh_options, oldbox.ssh_target, "hostname").strip() == "oldbox"


def test_the_cached_disk_is_never_written(oldbox: Machine) -> None:
    before = oldbox.built.disk.stat().st_mtime_ns
    oldbox.run("head -c 20M /dev/urandom > /root/noise; sync; rm /root/noise")
    assert oldbox.built.disk.stat().st_mtime_ns == before
    assert oldbox.disk.stat().st_size > 20 << 20


def test_the_oracle_sees_a_pause_and_a_copy_that_is_too_new(oldbox: Machine, tmp_path: Path) -> None:
    """The machine hangs for 1.5 s: some commit takes that long. Its live rows are no copy from before the hang."""
    path = tmp_path / "acks"
    with writing(oldbox.pg_port, path), churning(oldbox):
        time.sleep(5)
        frozen = time.time()
        oldbox.pause()
        time.sleep(1.5)
        oldbox.resume()
        thawed = time.time()
        time.sleep(5)
        rows = [int(row) for row in oldbox.run("sudo -u postgres psql -At -d ledger -c 'select n from ledger'").split()]
    acks = read_acks(path)
    assert longest_pause(acks) > 1.4
    live = check(rows, acks, frozen, thawed)
    assert not live.ok and live.too_new and not live.missing and not live.gaps
    sent_before = {ack.number for ack in acks if ack.sent < frozen}
    assert check([row for row in rows if row in sent_before], acks, frozen, thawed).ok
    oldbox.run("while ls -d /var/tmp/churn.*; do sleep 1; done", timeout=30)  # the churn ends with its connection
