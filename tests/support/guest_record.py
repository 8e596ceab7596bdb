"""A machine record and a plan for a disk image of the lab machine, from sfdisk and blkid (not from our own readers)."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from livep2v.model import (
    Action,
    Cpu,
    Disk,
    Firmware,
    Kernel,
    Machine,
    Mount,
    Nic,
    Partition,
    Plan,
    PlanDisk,
    Region,
    SnapshotSpec,
    Vm,
    VmNic,
    Volume,
)


def blkid(image: Path, offset: int, size: int) -> Volume:
    done = subprocess.run(
        ["blkid", "-p", "-o", "export", "-O", str(offset), "-S", str(size), str(image)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    values = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    return Volume(values["TYPE"], values.get("UUID", ""), values.get("LABEL", ""))


def disk_record(image: Path, name: str = "sda") -> Disk:
    dumped = subprocess.run(["sfdisk", "--json", str(image)], stdout=subprocess.PIPE, text=True, check=True).stdout
    table = json.loads(dumped)["partitiontable"]
    partitions = []
    for number, item in enumerate(table["partitions"], 1):
        offset, length = item["start"] * 512, item["size"] * 512
        partuuid = f"{table['id'][2:]}-{number:02x}"
        volume = blkid(image, offset, length)
        partitions.append(
            Partition(number, f"/dev/{name}{number}", offset, length, "0x" + item["type"], partuuid, volume=volume)
        )
    size = image.stat().st_size
    return Disk(name, f"/dev/{name}", size, 512, devno="8:0", transport="sata", table="mbr", partitions=tuple(partitions))


def machine_record(image: Path, mounts: dict[str, str], nic: Nic, release: str) -> Machine:
    """``mounts``: mount point -> device."""
    return Machine(
        hostname="oldbox",
        live=True,
        firmware=Firmware.BIOS,
        cpu=Cpu("x86_64", "GenuineIntel", "test", 2),
        memory=1 << 30,
        disks=(disk_record(image),),
        mounts=tuple(
            Mount(point, device, "8:0", "ext4", "rw", order, ("sda",)) for order, (point, device) in enumerate(mounts.items())
        ),
        nics=(nic,),
        kernel=Kernel(release, ""),
    )


def plan_record(machine: Machine) -> Plan:
    disks = tuple(
        PlanDisk(
            index=index,
            name=disk.name,
            path=disk.path,
            devno=disk.devno,
            size=disk.size,
            sector_size=512,
            file=f"{disk.name}.img",
            format="raw",
            subformat="dynamic",
            regions=(Region(0, disk.size, Action.COPY, "boot"),),
            boot_order=index + 1,
        )
        for index, disk in enumerate(machine.disks)
    )
    nics = tuple(VmNic(nic.mac, "virtio-net-pci", nic.name) for nic in machine.nics)
    vm = Vm("oldbox", "", 2, 1, 2, 1, 1 << 30, Firmware.BIOS, "q35", "virtio", nics, True)
    return Plan("oldbox", SnapshotSpec("tracked", disks, 1.0, 5.0), vm, 0, ())
