"""The parts of the boot check that need no Linux guest. The messages are those of the real programs."""

from __future__ import annotations

import struct
import subprocess
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from livep2v.errors import FormatError
from livep2v.host.define.qemu import QEMU
from livep2v.host.qmp import Qmp, QmpError
from livep2v.host.run import running
from livep2v.host.verify import screen
from livep2v.host.verify.boot import fitting, on_expected_bus
from livep2v.host.verify.guest_report import MAX_ITEMS, MAX_LENGTH, parse, printable, read_report
from livep2v.host.verify.symptoms import diagnose, last_line
from livep2v.model import Firmware, Vm

REPORT = (
    "getty noise\r\nLIVEP2V-BEGIN 1\r\nhostname oldbox\r\nkernel 6.1.0-18-amd64\r\nroot /dev/vda2\r\n"
    "mount /dev/vda2 / ext4\r\n\r\nwhat is this\r\nmount /dev/vda1 /boot  ext4\r\nfailed a.service\r\nfailed b.service\r\n"
    "address enp0s2 192.0.2.7/24\r\naddress enp0s2 fe80::1/64\r\nstate degraded\r\nLIVEP2V-END\r\n"
)


def test_report() -> None:
    report = parse(REPORT)
    assert report is not None and report.complete
    assert (report.hostname, report.kernel, report.root, report.state) == ("oldbox", "6.1.0-18-amd64", "/dev/vda2", "degraded")
    assert report.mounts == ("/dev/vda2 / ext4", "/dev/vda1 /boot ext4")
    assert report.failed_units == ("a.service", "b.service")
    assert report.addresses == ("enp0s2 192.0.2.7/24", "enp0s2 fe80::1/64")


def test_report_that_is_not_there_or_not_over(tmp_path: Path) -> None:
    assert parse("nothing\n") is None
    assert read_report(tmp_path / "none") is None
    for cut in range(len(REPORT) - 3):
        part = parse(REPORT[:cut])
        assert part is None or not part.complete
    assert parse("x LIVEP2V-BEGIN 1\nLIVEP2V-END\n") is None


def test_guest_that_restarted_reports_again() -> None:
    report = parse(REPORT + "LIVEP2V-BEGIN 1\nhostname again\nLIVEP2V-END\n")
    assert report is not None and report.hostname == "again" and report.mounts == ()
    assert report.complete
    half = parse(REPORT + "LIVEP2V-BEGIN 1\nhostname again\n")
    assert half is not None and not half.complete


def test_hostile_report_is_bounded() -> None:
    lines = "".join(f"failed {'x' * 2000}{n}\x1b[2J\n" for n in range(MAX_ITEMS + 50))
    report = parse(f"LIVEP2V-BEGIN 1\n{lines}LIVEP2V-END\n")
    assert report is not None and len(report.failed_units) == MAX_ITEMS
    assert all(len(unit) <= MAX_LENGTH and unit.isprintable() for unit in report.failed_units)


@given(st.text())
def test_any_text_is_parsed(text: str) -> None:
    report = parse(f"LIVEP2V-BEGIN 1\n{text}")
    assert report is not None
    for value in (report.hostname, report.kernel, report.root, *report.mounts, *report.failed_units):
        assert value.isprintable() and len(value) <= MAX_LENGTH


SAID = {
    "[    2.1] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)": "the kernel panicked",
    "ALERT!  UUID=c0ffee does not exist.  Dropping to a shell!": "the initramfs did not find the root file system",
    "(initramfs) ": "the initramfs gave up and waits at a shell",
    "[  187.2] dracut-initqueue[389]: Warning: dracut-initqueue timeout - starting timeout scripts": "dracut did not find",
    "Entering emergency mode. Exit the shell to continue.": "dracut gave up and waits at a shell",
    'You are in emergency mode. After logging in, type "journalctl -xb" to view': "the system is in emergency mode",
    "Cannot open access to console, the root account is locked.": "the system is in emergency mode",
    "grub rescue> ": "GRUB did not find its files",
    "error: you need to load the kernel first.": "GRUB has no kernel to start",
    "No bootable device.  Retrying in 60 seconds.": "the firmware found nothing to boot",
    "BdsDxe: No bootable option or device was found.": "the firmware found nothing to boot",
}


@pytest.mark.parametrize("line", SAID)
def test_symptom(line: str) -> None:
    said = diagnose(f"before\r\n{line}\r\nafter\r\n")
    assert said.startswith(SAID[line]) and said.endswith(": " + line.strip())


def test_healthy_boot_has_no_symptom() -> None:
    healthy = (
        "error: no video mode activated.\nLoading initial ramdisk ...\n[    0.0] Linux version 6.1.0\n"
        "[    1.0] Freeing unused kernel image (initmem) memory\n[    4.2] systemd[1]: Running in initrd.\n"
        "[    5.0] systemd[1]: Reached target emergency-preparation.\n[FAILED] Failed to start foo.service\noldbox login: "
    )
    assert diagnose(healthy) == ""
    assert last_line(healthy) == "oldbox login:" and last_line("\r\n") == ""


def test_symptom_is_fit_for_a_terminal() -> None:
    assert "\x1b" not in diagnose("\x1b]0;evil\x07 Kernel panic - not syncing: \x1b[31mx")
    assert printable("a\x1b[0m\tb\n") == "a [0m b"


@pytest.mark.parametrize(
    ("root", "bus", "good"),
    [
        ("/dev/vda2", "virtio", True),
        ("/dev/sda2", "virtio", False),
        ("/dev/sda2", "sata", True),
        ("/dev/hda1", "ide", True),
        ("/dev/nvme0n1p2", "nvme", True),
        ("/dev/vda2", "nvme", False),
        ("/dev/sda2", "scsi", True),
        ("/dev/mapper/vg-root", "virtio", True),
        ("/dev/md0", "virtio", True),
        ("rpool/ROOT/debian", "virtio", True),
        ("", "virtio", False),
    ],
)
def test_expected_bus(root: str, bus: str, good: bool) -> None:
    assert on_expected_bus(root, bus) is good


def test_trial_vm_is_no_larger_than_the_host() -> None:
    gib = 1 << 30
    big = Vm("x", "", 64, 2, 16, 2, 512 * gib, Firmware.BIOS, "q35", "virtio", (), True)
    assert fitting(big, 8, 20 * gib)._asdict() == {**big._asdict(), "cpus": 8, "memory": 10 * gib}
    small = big._replace(cpus=2, memory=gib)
    assert fitting(small, 8, 20 * gib) == small
    assert fitting(big, 8, gib // 2).memory == gib // 2


# Writes "Hello, screen" to the VGA text buffer by the BIOS (int 10h, ah = 0eh), then halts.
SCREEN = bytes.fromhex("fa31c08ed8fbbe187cac84c07406b40ecd10ebf5fbf4ebfd") + b"Hello, screen\0"


@pytest.fixture
def guest(tmp_path: Path) -> Path:
    image = tmp_path / "sector"
    image.write_bytes(SCREEN.ljust(510, b"\0") + b"\x55\xaa")
    return image


def test_screen_of_a_real_guest(guest: Path, tmp_path: Path) -> None:
    argv = [QEMU, "-accel", "tcg", "-m", "16", "-nodefaults", "-vga", "std", "-display", "none"]
    argv += ["-drive", f"if=ide,format=raw,file={guest}", "-qmp", f"unix:{tmp_path / 'qmp'},server=on,wait=off"]
    with running(argv, log_file=tmp_path / "log") as process, Qmp(tmp_path / "qmp", 30) as qmp:
        for _ in range(200):
            shown = screen.text(qmp, tmp_path / "cells")
            if "Hello, screen" in shown:
                break
        assert last_line(shown) == "Hello, screen"
        assert screen.picture(qmp, tmp_path / "boot.png")
        qmp.execute("screendump", filename=str(tmp_path / "boot.ppm"))
        ppm = (tmp_path / "boot.ppm").read_bytes()
        # Our own PNG holds the picture of qemu's PPM and has the form of qemu's PNG.
        assert ppm.startswith(b"P6\n720 400\n255\n")
        for data in (screen.png(ppm), (tmp_path / "boot.png").read_bytes()):
            assert _pixels(data) == ppm[15:]
        with pytest.raises(QmpError, match="no-such-command"):
            qmp.execute("no-such-command")
        assert qmp.execute("query-status")["status"] == "running"
        qmp.execute("stop")
        qmp.poll()
        assert [event["event"] for event in qmp.events] == ["STOP"]
        process.kill()
        process.wait()
        with pytest.raises(QmpError, match="query-status"):
            qmp.execute("query-status")
    assert screen.text(qmp, tmp_path / "cells") == "" and not screen.picture(qmp, tmp_path / "other.png")


def _pixels(data: bytes) -> bytes:
    """RGB rows of an 8-bit PNG, by the specification: chunk checksums, filters 0 to 4."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, packed, channels, width, height = 8, b"", 3, 0, 0
    while at < len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        body = data[at + 8 : at + 8 + length]
        assert zlib.crc32(kind + body) == struct.unpack_from(">I", data, at + 8 + length)[0]
        if kind == b"IHDR":
            width, height, depth, colour = struct.unpack_from(">IIBB", body)
            assert depth == 8
            channels = {2: 3, 6: 4}[colour]
        packed += body if kind == b"IDAT" else b""
        at += length + 12
    raw, stride = zlib.decompress(packed), width * channels
    rows, before = [], bytes(stride)
    for number in range(height):
        kind_of_filter = raw[number * (stride + 1)]
        line = bytearray(raw[number * (stride + 1) + 1 : (number + 1) * (stride + 1)])
        for i in range(stride) if kind_of_filter else ():
            left = line[i - channels] if i >= channels else 0
            corner = before[i - channels] if i >= channels else 0
            guess = left + before[i] - corner
            paeth = min((abs(guess - left), 0, left), (abs(guess - before[i]), 1, before[i]), (abs(guess - corner), 2, corner))[
                2
            ]
            line[i] = (line[i] + (0, left, before[i], (left + before[i]) // 2, paeth)[kind_of_filter]) & 0xFF
        before = bytes(line)
        rows.append(before)
    joined = b"".join(rows)
    return joined if channels == 3 else b"".join(joined[i : i + 3] for i in range(0, len(joined), 4))


@pytest.mark.parametrize(
    "data", [b"", b"P5\n1 1\n255\n\0", b"P6\n1 1\n65535\n\0\0\0", b"P6\n9 9\n255\n\0", b"P6\nx 1\n255\n000"]
)
def test_broken_pictures(data: bytes) -> None:
    with pytest.raises(FormatError):
        screen.png(data)


def test_qmp_does_not_wait_for_a_dead_qemu(tmp_path: Path) -> None:
    with pytest.raises(QmpError, match="connect"):
        Qmp(tmp_path / "qmp", 60, alive=lambda: False)


def test_qmp_rejects_another_protocol(tmp_path: Path) -> None:
    script = (
        "import socket, sys; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen()\n"
        "c, _ = s.accept(); c.sendall(b'SSH-2.0\\n'); c.recv(1)"
    )
    with subprocess.Popen(["python3", "-c", script, tmp_path / "qmp"]) as server:
        with pytest.raises(QmpError, match="not JSON"):
            Qmp(tmp_path / "qmp", 10)
        server.wait(10)
