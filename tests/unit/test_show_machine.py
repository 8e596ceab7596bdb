"""The page of ``livep2v inspect``: readable at 80 columns, safe to print, complete."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from livep2v.cli.show_machine import show
from livep2v.errors import Refusal
from livep2v.model import Disk, Holder, Machine, Partition, Plan, Volume, Writer
from tests.unit.test_plan import OLDBOX, SDB, UNUSED, asked, changed, decide


def page(machine: Machine, outcome: Plan | Refusal, width: int = 80, terminal: bool = False) -> str:
    out = io.StringIO()
    show(machine, outcome, Console(file=out, width=width, force_terminal=terminal, color_system=None))
    return out.getvalue()


def words(text: str) -> str:
    return " ".join(text.split())


def refused(machine: Machine, **options: object) -> Refusal:
    with pytest.raises(Refusal) as caught:
        decide(machine, options=asked(**options))
    return caught.value


@pytest.mark.parametrize("width", [60, 80, 120])
def test_no_line_is_wider_than_the_window(width: int) -> None:
    long = OLDBOX._replace(disks=(OLDBOX.disks[0]._replace(model="M" * 200), SDB), warnings=("w" * 300,))
    text = page(long, decide(long), width)
    assert max(len(line) for line in text.splitlines()) <= width


def test_page_says_everything() -> None:
    machine = changed(
        holders=(Holder("dm-0", "/dev/mapper/vg-root", "lvm", ("sda2",), Volume("ext4", "dm-uuid")),),
        writers=(Writer("postgresql", "data in /srv", "crash-safe"),),
        warnings=("the network interfaces could not be told",),
    )
    text = words(page(machine, decide(machine), 120))
    for fact in (
        "oldbox.example.net (running machine)", "Dell Inc. PowerEdge", "4c4c4544-0035-4410-8054-b7c04f4e3733", "4 (2 x 2 cores",
        "BIOS", "sda 4.0 GiB, sata, QEMU HARDDISK, serial OLDBOX-1", "MBR 0x1234abcd, boot code: GRUB",
        "sda2 3.2 GiB ext4 b0070000-0000-4000-8000-000000000002 1.2 GiB", "/boot /dev/sda1 ext4 rw sda",
        "swap /dev/sda3", "/dev/mapper/vg-root lvm sda2 ext4 dm-uuid", "Debian GNU/Linux 12 (bookworm) (init: systemd)",
        "root=/dev/sda2", "initramfs-tools", "virtio inside", "grub2 /boot/grub/grub.cfg", "enp2s0 52:54:00:aa:bb:cc",
        "smartmontools bound to hardware: no SMART", "postgresql data in /srv: crash-safe", "/sys/kernel/tracing",
        "the network interfaces could not be told", "A conversion would", "Up to 1.2 GiB would be sent",
    ):  # fmt: skip
        assert fact in text, fact


def test_refusal_stands_in_the_place_of_the_plan() -> None:
    text = words(page(OLDBOX, refused(OLDBOX, name="a b", format="vdi")))
    assert "It cannot be converted as it is" in text
    assert "the name 'a b'" in text
    assert "use --format vhd or raw" in text
    assert "A conversion would" not in text


def test_image_shows_no_system() -> None:
    text = page(UNUSED, decide(UNUSED))
    assert "(disk image)" in text
    assert "initramfs  " not in text
    assert "Network" not in text


def test_disk_left_out_says_so() -> None:
    machine = changed(disks=(OLDBOX.disks[0], SDB._replace(transport="usb")))
    assert "left out of the conversion" in page(machine, decide(machine))


def test_names_from_the_source_cannot_drive_the_terminal() -> None:
    """Escape sequences, bells and Rich's own markup in labels and names are shown, not obeyed."""
    evil = Partition(1, "/dev/sda1", 1 << 20, 1 << 20, "0x83", volume=Volume("xfs", label="\x1b]0;owned\x07[red]x[/red]"))
    disk = Disk("sda", "/dev/sda", 4 << 30, 512, table="mbr", partitions=(evil,), model="[bold]m[/nonsense]")
    machine = changed(disks=(disk,), hostname="[link=x]host\x1b[2J", warnings=("\x9b31m [/]",))
    text = page(machine, decide(machine), terminal=True)
    assert "[bold]m[/nonsense]" in text
    assert "[link=x]host" in text
    assert not {"\x07", "\x9b"} & set(text)
    assert "\x1b]" not in text
    assert "\x1b[2J" not in text
