"""The VM's definition: golden script, the real shell, the real qemu."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from livep2v.errors import HostError
from livep2v.host.define import qemu
from livep2v.model import Firmware, PlanDisk, Vm, VmNic

GOLDEN = Path(__file__).parent.parent / "golden" / "start_script"
MIB = 1024 * 1024
UUID = "4c4c4544-0042-3510-8052-b4c04f4e3332"
NICS = (VmNic("52:54:00:12:34:56", "virtio-net-pci", "enp0s3"), VmNic("52:54:00:12:34:57", "e1000", "enp0s4"))
VM = Vm(
    name="old box, the 'first'",
    uuid=UUID,
    cpus=4,
    sockets=1,
    cores=2,
    threads=2,
    memory=512 * MIB,
    firmware=Firmware.BIOS,
    machine="q35",
    disk_bus="virtio",
    nics=NICS,
    clock_utc=True,
    manufacturer="ACME, Inc.",
    product="Box $HOME `x`",
    serial="S123",
)
SDA = PlanDisk(
    0,
    "sda",
    "/dev/sda",
    "8:0",
    64 * MIB,
    512,
    "sda.vhd",
    "vhd",
    "dynamic",
    (),
    1,
    "WD-WCC4E1234567890ABCDEF",
    "0x5000c500a1b2c3d4",
)
SDB = SDA._replace(index=1, name="sdb", file="s db,2.raw", format="raw", boot_order=2, serial="", wwn="")

# Loaded at 0x7c00: prints to COM1, writes itself to sector 1 of the boot disk by the BIOS, leaves through isa-debug-exit (43).
HELLO = bytes.fromhex(
    "fa31c08ed88ec08ed0bc007cfb"  # cli; ds = es = ss = 0; sp = 0x7c00; sti
    "88d3be337cac84c07406baf803eeebf5"  # bl = drive; each byte at 0x7c33 to port 0x3f8
    "88dab80103b90200b600bb007ccd13"  # int 13h, ah = 3: write one sector from 0x7c00
    "b015e6f4f4ebfd"  # out 0xf4, 0x15; hlt
)
SECTOR = (HELLO + b"hello from the disk\r\n\0").ljust(510, b"\0") + b"\x55\xaa"


def _script(tmp_path: Path, vm: Vm, disks: list[PlanDisk], **options: str) -> Path:
    return qemu.write_start_script(tmp_path, qemu.start_script(vm, disks, accelerator="tcg", **options))


def _words(tmp_path: Path, env: dict[str, str] | None = None, arguments: tuple[str, ...] = ()) -> list[str]:
    """What the script would give to qemu, by having it start a program of that name that prints its arguments."""
    tools = tmp_path / "tools"
    tools.mkdir(exist_ok=True)
    fake = tools / "qemu-system-x86_64"
    fake.write_text('#!/bin/sh\nfor word in "$@"; do printf "%s\\0" "$word"; done\n')
    fake.chmod(0o755)
    clean = {"PATH": f"{tools}:{os.environ['PATH']}", "HOME": "/home-of-nobody", **(env or {})}
    done = subprocess.run([tmp_path / "start.sh", *arguments], env=clean, capture_output=True, text=True, check=True, cwd="/")
    return done.stdout.split("\0")[:-1]


def _after(words: list[str], option: str) -> list[str]:
    return [value for word, value in itertools.pairwise(words) if word == option]


@pytest.mark.parametrize("bus", qemu.DISK_BUSES)
def test_golden(bus: str) -> None:
    """The whole text, so that a change of it is seen in review. Set LIVEP2V_GOLDEN=1 to write it anew."""
    text = qemu.start_script(VM, [SDB, SDA], disk_bus=bus, accelerator="tcg", reason="KVM is not usable here:\nno device")
    golden = GOLDEN / f"{bus}.sh"
    if os.environ.get("LIVEP2V_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()


@pytest.mark.parametrize("shell", ["dash", "bash --posix"])
def test_shells_read_it(tmp_path: Path, shell: str) -> None:
    script = _script(tmp_path, VM, [SDA, SDB])
    subprocess.run([*shell.split(), "-n", script], check=True)


def test_shellcheck(tmp_path: Path) -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    subprocess.run(["shellcheck", "-s", "sh", "-e", "SC2016", _script(tmp_path, VM, [SDA, SDB])], check=True)


def test_words_reach_qemu_as_they_are(tmp_path: Path) -> None:
    _script(tmp_path, VM, [SDA, SDB])
    words = _words(tmp_path)
    assert _after(words, "-name") == ["guest=old box,, the 'first'"]
    assert _after(words, "-smbios") == ["type=1,manufacturer=ACME,, Inc.,product=Box $HOME `x`,serial=S123"]
    assert "file.filename=s db,,2.raw" in _after(words, "-drive")[1]
    assert _after(words, "-accel") == ["tcg"] and _after(words, "-cpu") == ["max"]
    assert _after(words, "-netdev") == ["user,id=net0", "user,restrict=on,id=net1"]
    assert _after(words, "-serial") == ["file:logs/console.log"] and _after(words, "-display") == ["none"]
    assert "-snapshot" not in words and "-qmp" not in words and "-pidfile" not in words


def test_variables(tmp_path: Path) -> None:
    _script(tmp_path, VM, [SDA])
    env = {
        "LIVEP2V_ACCEL": "kvm",
        "LIVEP2V_NET": "user,hostfwd=tcp:127.0.0.1:2222-:22",
        "LIVEP2V_NET_REST": "socket,mcast=230.0.0.1:1234",
        "LIVEP2V_SNAPSHOT": "1",
        "LIVEP2V_DISPLAY": "vnc=127.0.0.1:1",
        "LIVEP2V_SERIAL": "mon:stdio",
        "LIVEP2V_PIDFILE": "/tmp/a b.pid",
        "LIVEP2V_QMP": "/tmp/a b.qmp",
        "LIVEP2V_EXTRA": "-device isa-debug-exit -S * ",
    }
    words = _words(tmp_path, env, ("-append", "two words"))
    assert _after(words, "-accel") == ["kvm"] and _after(words, "-cpu") == ["host"]
    assert _after(words, "-netdev") == ["user,hostfwd=tcp:127.0.0.1:2222-:22,id=net0", "socket,mcast=230.0.0.1:1234,id=net1"]
    assert (
        "-snapshot" in words and _after(words, "-display") == ["vnc=127.0.0.1:1"] and _after(words, "-serial") == ["mon:stdio"]
    )
    assert _after(words, "-pidfile") == ["/tmp/a b.pid"] and _after(words, "-qmp") == ["unix:/tmp/a b.qmp,server=on,wait=off"]
    assert words[-6:] == ["-device", "isa-debug-exit", "-S", "*", "-append", "two words"]
    assert "-display" not in _words(tmp_path, {"DISPLAY": ":0"})


def test_recorded_kvm_falls_back_where_there_is_none(tmp_path: Path) -> None:
    text = qemu.start_script(VM, [SDA], accelerator="kvm")
    assert "/dev/kvm" in text
    qemu.write_start_script(tmp_path, text.replace("/dev/kvm", str(tmp_path / "no-kvm")))
    words = _words(tmp_path)
    assert _after(words, "-accel") == ["tcg"] and _after(words, "-cpu") == ["max"]
    assert _after(_words(tmp_path, {"LIVEP2V_ACCEL": "kvm"}), "-accel") == ["kvm"]


def _qmp(vm: Vm, disks: list[PlanDisk], folder: Path, bus: str, *commands: str) -> list[object]:
    """Answers of the real qemu, its machine made but not started."""
    for disk in disks:
        with (folder / disk.file).open("wb") as file:
            file.truncate(disk.size)
    files = [qemu.DiskFile(disk, str(folder / disk.file), "raw") for disk in disks]
    words = qemu.argv(vm, files, bus, "", qemu.Backends("tcg", "max", "null", "user,restrict=on", "user,restrict=on"))
    asked = "".join(
        json.dumps(json.loads(c)) + "\n" for c in ('{"execute": "qmp_capabilities"}', *commands, '{"execute": "quit"}')
    )
    done = subprocess.run([*words, "-S", "-display", "none", "-qmp", "stdio"], input=asked, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    return [answer["return"] for answer in answers if "return" in answer][1:-1]


@pytest.mark.parametrize("bus", qemu.DISK_BUSES)
def test_qemu_takes_every_bus(tmp_path: Path, bus: str) -> None:
    """qemu itself accepts the definition, with memory, processors, UUID and addresses as asked."""
    vm = VM._replace(machine="q35")
    disks = [SDA._replace(file="a.raw", format="raw"), SDB]
    queries = ("query-uuid", "query-memory-size-summary", "query-cpus-fast", "query-block")
    answers = _qmp(vm, disks, tmp_path, bus, *(f'{{"execute": "{query}"}}' for query in queries))
    uuid, memory, cpus, block = answers
    assert uuid == {"UUID": UUID}
    assert memory["base-memory"] == vm.memory  # type: ignore[index,call-overload]
    assert len(cpus) == 4 and {c["props"]["thread-id"] for c in cpus} == {0, 1}  # type: ignore[arg-type,attr-defined]
    inserted = [b["inserted"]["file"] for b in block if b.get("inserted")]  # type: ignore[attr-defined]
    assert inserted == [str(tmp_path / disk.file) for disk in disks]


def test_4k_sectors_and_odd_processor_counts(tmp_path: Path) -> None:
    disk = SDA._replace(file="a.raw", format="raw", sector_size=4096)
    vm = VM._replace(cpus=3, uuid="Not Settable")
    for bus in ("virtio", "nvme", "scsi"):
        (cpus,) = _qmp(vm, [disk], tmp_path, bus, '{"execute": "query-cpus-fast"}')
        assert len(cpus) == 3  # type: ignore[arg-type]
    with pytest.raises(HostError, match="sectors of 4096 bytes"):
        qemu.start_script(vm, [disk], disk_bus="sata", accelerator="tcg")


def test_seven_sata_disks_need_a_second_controller(tmp_path: Path) -> None:
    disks = [SDA._replace(index=n, file=f"{n}.raw", format="raw", boot_order=n + 1, serial=f"N{n}", wwn="") for n in range(7)]
    (block,) = _qmp(VM, disks, tmp_path, "sata", '{"execute": "query-block"}')
    assert len([b for b in block if b.get("inserted")]) == 7  # type: ignore[attr-defined]


def test_uefi_firmware_travels_with_the_job(tmp_path: Path) -> None:
    vm = VM._replace(firmware=Firmware.UEFI)
    qemu.install_firmware(tmp_path, vm)
    code, store = tmp_path / qemu.FIRMWARE_CODE, tmp_path / qemu.FIRMWARE_VARS
    pair = next(pair for pair in qemu.OVMF_PAIRS if Path(pair[0]).exists())
    assert code.read_bytes() == Path(pair[0]).read_bytes() and store.read_bytes() == Path(pair[1]).read_bytes()
    _script(tmp_path, vm, [SDA])
    assert _after(_words(tmp_path), "-drive")[:2] == [
        "if=pflash,unit=0,format=raw,readonly=on,file=firmware/OVMF_CODE.fd",
        "if=pflash,unit=1,format=raw,file=firmware/OVMF_VARS.fd",
    ]
    bios = tmp_path / "bios"
    bios.mkdir()
    qemu.install_firmware(bios, VM)
    assert not list(bios.iterdir())


@pytest.mark.parametrize(
    ("vm", "bus", "match"),
    [
        (VM, "floppy", "floppy"),
        (VM._replace(nics=(VmNic("01:00:5e:00:00:01", "e1000"),)), "virtio", "01:00:5e"),
        (VM._replace(nics=(VmNic("", "e1000", "eth0"),)), "virtio", "eth0"),
    ],
)
def test_what_qemu_has_no_device_for(vm: Vm, bus: str, match: str) -> None:
    with pytest.raises(HostError, match=match):
        qemu.start_script(vm, [SDA], disk_bus=bus, accelerator="tcg")


def test_five_disks_do_not_fit_on_ide() -> None:
    with pytest.raises(HostError, match="5 disks do not fit on IDE"):
        qemu.start_script(VM, [SDA] * 5, disk_bus="ide", accelerator="tcg")


@pytest.mark.parametrize("bus", ["virtio", "sata", "ide", "nvme"])
@pytest.mark.parametrize("format", ["vhd", "raw"])
def test_it_starts_a_vm(tmp_path: Path, bus: str, format: str) -> None:
    """A boot sector on a disk of the job prints, writes a sector and leaves, first with -snapshot, then for good."""
    raw = tmp_path / "made.raw"
    raw.write_bytes(SECTOR.ljust(4 * MIB, b"\0"))
    job = tmp_path / "job with blank"
    job.mkdir()
    disk = SDA._replace(file=f"disks/sda, {bus}.{format}", format=format, size=4 * MIB)
    path = job / disk.file
    path.parent.mkdir()
    if format == "vhd":
        subprocess.run(["qemu-img", "convert", "-O", "vpc", "-o", "subformat=fixed,force_size=on", raw, path], check=True)
    else:
        shutil.copy(raw, path)
    script = _script(job, VM._replace(memory=64 * MIB, nics=NICS[:1]), [disk], disk_bus=bus)

    def start(**env: str) -> bytes:
        extra = {"LIVEP2V_EXTRA": "-device isa-debug-exit,iobase=0xf4,iosize=4", **env}
        done = subprocess.run([script], env={**os.environ, **extra}, cwd="/", timeout=60, capture_output=True, text=True)
        assert done.returncode == 43, done.stderr
        assert (job / "logs" / "console.log").read_bytes() == b"hello from the disk\r\n"
        read = subprocess.run(
            ["qemu-img", "convert", "-f", qemu.DRIVERS[format], "-O", "raw", path, tmp_path / "read"], capture_output=True
        )
        assert read.returncode == 0, read.stderr
        return (tmp_path / "read").read_bytes()[512:1024]

    assert start(LIVEP2V_SNAPSHOT="1") == bytes(512)
    assert start() == SECTOR
