"""The VM as a qemu command line, and as ``start.sh``, a POSIX script for plain qemu.

One function, :func:`argv`, builds the command line; the script and the boot check both use it, so that what was checked is
what the user starts. In the script some words hold shell variables: such a word carries :func:`variable` markers, everything
else is quoted. Options are those of qemu 5.2 and newer (https://www.qemu.org/docs/master/system/invocation.html).
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ...errors import HostError
from ...model import Firmware, PlanDisk, Vm

QEMU = "qemu-system-x86_64"
MIB = 1024 * 1024
SERIAL_LENGTH = 20  # characters: VIRTIO_BLK_ID_BYTES, and the ATA and NVMe field widths; qemu cuts longer ones silently
AHCI_PORTS = 6
DRIVERS = {"vhd": "vpc", "raw": "raw", "qcow2": "qcow2"}  # our name -> qemu's; always given: a fixed VHD probes as raw
DISK_BUSES = ("virtio", "sata", "ide", "nvme", "scsi")
FIRMWARE_FOLDER = "firmware"
FIRMWARE_CODE = f"{FIRMWARE_FOLDER}/OVMF_CODE.fd"
FIRMWARE_VARS = f"{FIRMWARE_FOLDER}/OVMF_VARS.fd"
OVMF_PAIRS = (  # code, variables: Debian and Ubuntu (4 MiB, then 2 MiB), Fedora and RHEL, SUSE, Arch
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
    ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
    ("/usr/share/qemu/ovmf-x86_64-code.bin", "/usr/share/qemu/ovmf-x86_64-vars.bin"),
    ("/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"),
)
_MAC = re.compile(r"([0-9a-f]{2}:){5}[0-9a-f]{2}", re.I)
_WWN = re.compile(r"(?:0x|naa\.)?([0-9a-f]{16})", re.I)
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.I)
_MARK = re.compile("\0([A-Za-z_]+)\0")  # NUL cannot be part of an argument, so nothing from outside can look like this


class DiskFile(NamedTuple):
    """A disk of the VM and the file that qemu opens for it."""

    disk: PlanDisk
    path: str
    driver: str  # qemu's name of the format
    cache: str = "writeback"  # flushes of the guest reach the disk


class Backends(NamedTuple):
    """What surrounds the VM: differs between the start script and the boot check, the VM itself does not."""

    accelerator: str
    cpu_model: str
    serial: str  # qemu character device of ttyS0
    network: str  # netdev backend of the first NIC, "user"
    other_networks: str  # that of the others
    firmware_code: str = FIRMWARE_CODE
    firmware_vars: str = FIRMWARE_VARS


def variable(name: str) -> str:
    """The shell variable ``name`` inside a word of :func:`argv`."""
    return f"\0{name}\0"


def cpu_model(accelerator: str) -> str:
    """The host's own CPU under KVM; under emulation all that qemu has: RHEL 9 panics below x86-64-v2 (RHBZ#2076013)."""
    return "host" if accelerator == "kvm" else "max"


def machine_type(vm: Vm, disk_bus: str) -> str:
    """Board: IDE disks exist only on the old one, whatever else was planned."""
    return "pc" if disk_bus == "ide" else vm.machine


def _value(text: str) -> str:
    """``text`` as one value of a qemu option list: commas are doubled, control characters dropped."""
    return "".join(c for c in text if c.isprintable()).replace(",", ",,")


def _smp(vm: Vm) -> str:
    if vm.sockets * vm.cores * vm.threads != vm.cpus:  # CPUs switched off on the source: qemu takes only full products
        return str(vm.cpus)
    return f"{vm.cpus},sockets={vm.sockets},cores={vm.cores},threads={vm.threads}"


def _identity(vm: Vm) -> list[str]:
    known = _UUID.fullmatch(vm.uuid)  # some firmware says "Not Settable", which qemu would refuse
    words = ["-uuid", vm.uuid] if known else []
    pairs = [("manufacturer", vm.manufacturer), ("product", vm.product), ("serial", vm.serial)]
    fields = [f"{key}={_value(text)}" for key, text in pairs if text]
    return words + (["-smbios", ",".join(["type=1", *fields])] if fields else [])


def _drive(number: int, file: DiskFile) -> str:
    # -drive, not -blockdev: -snapshot has no effect on the latter. Filename as a field of its own: a colon is no protocol.
    fields = [f"if=none,id=disk{number},driver={file.driver},file.driver=file,file.filename={_value(file.path)}"]
    fields.append(f"cache={file.cache}")
    if file.driver == "raw":
        fields.append("discard=unmap")
    return ",".join(fields)


def _disk_device(number: int, disk: PlanDisk, bus: str) -> str:
    serial = _value(disk.serial.strip()[:SERIAL_LENGTH])
    wwn = _WWN.fullmatch(disk.wwn.strip())
    heads = {
        "virtio": "virtio-blk-pci",
        "nvme": "nvme",
        "scsi": "scsi-hd,bus=scsi0.0",
        "sata": f"ide-hd,bus=ahci{number // AHCI_PORTS}.{number % AHCI_PORTS}",
        "ide": f"ide-hd,bus=ide.{number // 2},unit={number % 2}",
    }
    fields = [heads[bus], f"drive=disk{number},bootindex={disk.boot_order}"]
    if serial or bus == "nvme":  # nvme has no default for it
        fields.append(f"serial={serial or f'disk{number}'}")
    if wwn and bus in ("sata", "ide", "scsi"):
        fields.append(f"wwn=0x{wwn[1].lower()}")
    if disk.sector_size != 512:
        if bus in ("sata", "ide"):
            raise HostError(
                reason=f"{disk.name} has sectors of {disk.sector_size} bytes, which qemu's {bus} disks cannot have; "
                "only virtio, nvme and scsi can"
            )
        fields.append(f"logical_block_size={disk.sector_size},physical_block_size={disk.sector_size}")
    return ",".join(fields)


def _disks(files: Sequence[DiskFile], bus: str) -> list[str]:
    if bus not in DISK_BUSES:
        raise HostError(reason=f"no qemu disk controller is known for bus {bus!r}, only for {', '.join(DISK_BUSES)}")
    if bus == "ide" and len(files) > 4:
        raise HostError(reason=f"{len(files)} disks do not fit on IDE, which takes 4; choose fewer with --disk")
    words: list[str] = []
    if bus == "scsi":
        words += ["-device", "virtio-scsi-pci,id=scsi0"]
    if bus == "sata":
        controllers = (len(files) + AHCI_PORTS - 1) // AHCI_PORTS
        words += [word for n in range(controllers) for word in ("-device", f"ich9-ahci,id=ahci{n}")]
    for number, file in enumerate(sorted(files, key=lambda file: file.disk.boot_order)):
        words += ["-drive", _drive(number, file), "-device", _disk_device(number, file.disk, bus)]
    return words


def _nics(vm: Vm, model: str, back: Backends) -> list[str]:
    words: list[str] = []
    for number, nic in enumerate(vm.nics):
        if not _MAC.fullmatch(nic.mac) or int(nic.mac[:2], 16) & 1:
            raise HostError(reason=f"network interface {nic.name or number}: {nic.mac!r} is not the address of one interface")
        words += ["-netdev", f"{back.other_networks if number else back.network},id=net{number}"]
        # romfile=: no network boot; it would only delay the message that no disk boots.
        words += ["-device", f"{model or nic.model},netdev=net{number},mac={nic.mac},romfile="]
    return words


def argv(vm: Vm, files: Sequence[DiskFile], disk_bus: str, nic_model: str, back: Backends) -> list[str]:
    """qemu's command line for ``vm``, without display and management options. ``nic_model`` empty: as each NIC says.
    Raises HostError for what qemu has no device for."""
    words = [QEMU, "-name", f"guest={_value(vm.name)}", "-nodefaults", "-no-user-config"]
    words += ["-machine", machine_type(vm, disk_bus), "-accel", back.accelerator, "-cpu", back.cpu_model]
    words += ["-smp", _smp(vm), "-m", f"{vm.memory // MIB}M", *_identity(vm)]
    words += ["-rtc", f"base={'utc' if vm.clock_utc else 'localtime'}"]
    words += ["-boot", "strict=on"]  # only what has a bootindex: the disks
    if vm.firmware is Firmware.UEFI:
        words += ["-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={_value(back.firmware_code)}"]
        words += ["-drive", f"if=pflash,unit=1,format=raw,file={_value(back.firmware_vars)}"]
    words += ["-vga", "std", *_disks(files, disk_bus), *_nics(vm, nic_model, back), "-serial", back.serial]
    return words


def install_firmware(job: Path, vm: Vm) -> None:
    """Copy the UEFI firmware and this VM's own variable store into the job folder; nothing for BIOS. The code travels too:
    a variable store fits only the build it came with. Raises HostError when no OVMF is on the host."""
    if vm.firmware is not Firmware.UEFI:
        return
    pair = next(((Path(code), Path(store)) for code, store in OVMF_PAIRS if Path(code).exists() and Path(store).exists()), None)
    if pair is None:
        raise HostError(reason="the source boots by UEFI and no OVMF firmware is on this host; install the package ovmf")
    (job / FIRMWARE_FOLDER).mkdir(exist_ok=True)
    shutil.copyfile(pair[0], job / FIRMWARE_CODE)
    shutil.copyfile(pair[1], job / FIRMWARE_VARS)


def quote(word: str) -> str:
    """``word`` for a POSIX shell, its :func:`variable` markers expanded inside double quotes."""
    parts = _MARK.split(word)  # text, name, text, name, ... text
    return "".join(f'"${{{part}}}"' if odd % 2 else shlex.quote(part) for odd, part in enumerate(parts) if part) or "''"


_SCRIPT = """\
#!/bin/sh
# Starts the VM {name} with plain qemu. The folder may be moved as a whole.
# Arguments are given to qemu as they are, relative paths start at this folder. Variables that change something:
#   LIVEP2V_ACCEL     kvm or tcg (emulation, slow); decided by a trial at conversion: {reason}
#   LIVEP2V_NET       qemu netdev of the first network interface [user]; for instance user,hostfwd=tcp:127.0.0.1:2222-:22
#                     or bridge,br=br0. Mind that the source, if it still runs, has the same addresses.
#   LIVEP2V_NET_REST  netdev of the other interfaces [user,restrict=on]
#   LIVEP2V_SNAPSHOT  1: throw away at the end whatever the VM writes
#   LIVEP2V_DISPLAY   qemu display: none, gtk, curses, vnc=127.0.0.1:1 ... [none without a graphical session]
#   LIVEP2V_SERIAL    qemu character device of the first serial port [file:logs/console.log]; for instance mon:stdio
#   LIVEP2V_PIDFILE   file for qemu's process id
#   LIVEP2V_QMP       path of a control socket to make
#   LIVEP2V_EXTRA     more qemu options, split at blanks
set -euf
CDPATH='' cd -- "$(dirname -- "$0")"

accel=${{LIVEP2V_ACCEL:-{accelerator}}}
if [ "$accel" = kvm ] && [ -z "${{LIVEP2V_ACCEL:-}}" ] && ! [ -w /dev/kvm ]; then
    echo "start.sh: /dev/kvm cannot be used here, emulating (slow)" >&2
    accel=tcg
fi
if [ "$accel" = kvm ]; then cpu=host; else cpu=max; fi
net=${{LIVEP2V_NET:-user}}
net_rest=${{LIVEP2V_NET_REST:-user,restrict=on}}
serial=${{LIVEP2V_SERIAL:-file:logs/console.log}}
display=${{LIVEP2V_DISPLAY:-}}
if [ -z "$display" ] && [ -z "${{DISPLAY:-}}${{WAYLAND_DISPLAY:-}}" ]; then display=none; fi

# shellcheck disable=SC2086  # split at blanks on purpose; set -f keeps * as it is
set -- ${{LIVEP2V_EXTRA:-}} "$@"
if [ -n "$display" ]; then set -- -display "$display" "$@"; fi
if [ "${{LIVEP2V_SNAPSHOT:-0}}" = 1 ]; then set -- -snapshot "$@"; fi
if [ -n "${{LIVEP2V_PIDFILE:-}}" ]; then set -- -pidfile "$LIVEP2V_PIDFILE" "$@"; fi
if [ -n "${{LIVEP2V_QMP:-}}" ]; then set -- -qmp "unix:$LIVEP2V_QMP,server=on,wait=off" "$@"; fi
mkdir -p logs

exec {command} \\
    "$@"
"""


def start_script(
    vm: Vm, disks: Sequence[PlanDisk], *, disk_bus: str = "", nic_model: str = "", accelerator: str, reason: str = ""
) -> str:
    """The text of ``start.sh`` for the job folder, where ``PlanDisk.file`` is relative to. ``disk_bus`` and ``nic_model``: what
    the repair proved, else what the VM record says. Raises HostError as :func:`argv`."""
    files = [DiskFile(disk, disk.file, DRIVERS[disk.format]) for disk in disks]
    back = Backends(variable("accel"), variable("cpu"), variable("serial"), variable("net"), variable("net_rest"))
    words = argv(vm, files, disk_bus or vm.disk_bus, nic_model, back)
    # An option and its value on one line each: what a person looks for when the VM does not start as wanted.
    lines = [quote(words[0])]
    for word in words[1:]:
        if word.startswith("-"):
            lines.append(quote(word))
        else:
            lines[-1] += " " + quote(word)
    plain = " ".join(reason.split()) or "no reason recorded"
    name = "".join(c for c in vm.name if c.isprintable())
    return _SCRIPT.format(name=name, reason=plain, accelerator=accelerator, command=" \\\n    ".join(lines))


def write_start_script(job: Path, text: str) -> Path:
    """``start.sh`` in the job folder, executable."""
    path = job / "start.sh"
    path.write_text(text)
    path.chmod(0o755)
    return path
