"""The virtual machine that a machine becomes: its own processors, memory, firmware, disks, MAC addresses and identity."""

from __future__ import annotations

import hashlib
import re
import uuid

from ..model import Disk, Firmware, Machine, Vm, VmNic

MIB = 1 << 20
ESP_TYPE = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"  # EFI system partition, UEFI specification 5.3.3
BOOT_MOUNTS = ("/boot/efi", "/efi", "/boot", "/")
NIC_PREFIX = "52:54:00"  # QEMU's, where the source has no address to keep
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
OF_NOBODY = ("00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff",
             "03000200-0400-0500-0006-000700080009")  # fmt: skip  # the last: boards whose maker never set one
BUS_OF_DRIVER = (("ahci", "sata"), ("ata_piix", "ide"), ("nvme", "nvme"))  # that QEMU has a controller for


def boot_disk(machine: Machine) -> Disk | None:
    """The disk that the firmware starts.

    BIOS: one with boot code, of several the one under /boot or / (GRUB on sda with /boot on sdd exists). UEFI: the one with
    the EFI system partition. Without either sign the one under /boot or /; None if nothing tells."""
    under = [
        disk for place in BOOT_MOUNTS for mount in machine.mounts if mount.mountpoint == place for disk in mount.disks
    ]
    if machine.firmware is Firmware.UEFI:
        signed = [disk for disk in machine.disks if any(part.type.lower() in (ESP_TYPE, "0xef") for part in disk.partitions)]
    else:
        signed = [disk for disk in machine.disks if disk.boot_code]
    for name in under:
        for disk in signed:
            if disk.name == name:
                return disk
    fixed = [disk for disk in signed if not disk.removable] or signed
    if fixed:
        return fixed[0]
    return next((disk for name in under for disk in machine.disks if disk.name == name), None)


def disk_bus(machine: Machine) -> str:
    """Virtio where the copy's kernel has it, in its initramfs or to be put there, else a controller whose driver is there."""
    found = machine.kernel.initramfs
    if found.has_virtio or machine.kernel.virtio_available or not machine.kernel.release:
        return "virtio"
    return next((bus for driver, bus in BUS_OF_DRIVER if driver in found.modules), "sata")


def virtual_machine(machine: Machine, name: str) -> Vm:
    cpu = machine.cpu
    sockets, cores, threads = cpu.sockets, cpu.cores, cpu.threads
    if sockets * cores * threads != cpu.count:
        sockets, cores, threads = 1, cpu.count, 1
    bus = disk_bus(machine)
    model = "virtio-net-pci" if machine.kernel.virtio_available or not machine.kernel.release else "e1000"
    nics = tuple(VmNic(nic.mac, model, nic.name) for nic in machine.nics if nic.mac)
    if not nics and not machine.live:
        nics = (VmNic(invented_mac(name), model),)
    return Vm(
        name=name,
        uuid=identity(machine, name),
        cpus=cpu.count,
        sockets=sockets,
        cores=cores,
        threads=threads,
        memory=max(-(-machine.memory // MIB) * MIB, 128 * MIB),
        firmware=machine.firmware,
        machine="pc" if bus == "ide" and machine.firmware is Firmware.BIOS else "q35",
        disk_bus=bus,
        nics=nics,
        clock_utc=machine.clock_utc,
        manufacturer=machine.smbios.manufacturer,
        product=machine.smbios.product,
        serial=machine.smbios.serial,
    )


def identity(machine: Machine, name: str) -> str:
    """The SMBIOS UUID, or where the firmware has none a stable one made of the machine id."""
    own = machine.smbios.uuid.lower()
    if UUID.fullmatch(own) and own not in OF_NOBODY:
        return own
    return str(uuid.uuid5(uuid.NAMESPACE_OID, machine.os.machine_id or name))


def invented_mac(name: str) -> str:
    digest = hashlib.sha256(name.encode()).digest()
    return f"{NIC_PREFIX}:{digest[0]:02x}:{digest[1]:02x}:{digest[2]:02x}"


def job_name(machine: Machine, wanted: str) -> str:
    """``wanted``, or a name that is allowed everywhere made of the host name without its domain."""
    if wanted:
        return wanted
    short = re.sub(r"[^A-Za-z0-9._-]+", "-", machine.hostname.split(".")[0] if machine.live else machine.hostname)
    return short.strip("-._")[:63] or "machine"
