"""The trial guest, run by the real qemu."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from livep2v.host import accel


def test_trial_guest_gets_through_under_emulation() -> None:
    assert accel.trial("tcg", timeout=60) == ""


def test_trial_notices_a_guest_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accel, "BOOT_SECTOR", b"\xfa\xf4".ljust(510, b"\0") + b"\x55\xaa")  # cli; hlt
    assert accel.trial("tcg", timeout=3) == "a trial guest hung, it did not finish within 3 s"


def test_trial_notices_wrong_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = accel.BOOT_SECTOR.replace(bytes.fromhex("3d20295a6a"), bytes.fromhex("3d21295a6a"))
    assert broken != accel.BOOT_SECTOR
    monkeypatch.setattr(accel, "BOOT_SECTOR", broken)
    assert "hung" in accel.trial("tcg", timeout=3)


def test_trial_quotes_qemu() -> None:
    assert "no-such-accel" in accel.trial("no-such-accel", timeout=30)


def test_verdict_agrees_with_a_real_guest(tmp_path: Path) -> None:
    """Whatever this host is: KVM is chosen if and only if qemu under KVM runs the sector to its end."""
    image = tmp_path / "sector"
    image.write_bytes(accel.BOOT_SECTOR)
    argv = [
        "timeout",
        "10",
        "qemu-system-x86_64",
        "-accel",
        "kvm",
        "-cpu",
        "host",
        "-m",
        "16",
        "-nodefaults",
        "-display",
        "none",
    ]
    argv += ["-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-drive", f"if=ide,format=raw,snapshot=on,file={image}"]
    status = subprocess.run(argv, capture_output=True).returncode
    chosen = accel.accelerator()
    assert chosen.name == ("kvm" if status == 43 else "tcg"), chosen
    assert chosen.reason
