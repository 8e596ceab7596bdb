"""Everything that forbids a conversion, each with the way out; found before anything is copied, and all at once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from ..model import Disk, Firmware, HostValues, Machine, Options, PlanDisk
from .text import names, size
from .vm import boot_disk

VHD_MAX = 2040 << 30  # Microsoft's limit of the format; qemu-img refuses 2041 GiB as well
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
FREEZE_RANGE = (0.05, 30.0)  # s; below, no disk copies anything in time; above, services give up on a machine that stands still
RESERVE = 256 << 20  # room for the overlays of repair and boot check, the logs and the screenshot
ARCHITECTURES = ("x86_64", "i386", "i486", "i586", "i686")
LEFT_OUT_TRANSPORTS = ("usb", "loop", "nbd")


def options(machine: Machine, values: HostValues, wanted: Options) -> Iterator[str]:
    if wanted.name and not NAME.fullmatch(wanted.name):
        yield (
            f"the name {wanted.name!r} cannot be used for a folder and a VM: take up to 63 letters, digits, '.', '_' and '-', "
            "the first a letter or digit"
        )
    if wanted.format not in values.formats:
        yield f"format {wanted.format!r} is not known: use --format {' or '.join(values.formats)}"
    elif wanted.format == "raw" and wanted.subformat == "fixed":
        yield "a raw file has no fixed kind (it is always sparse): leave --subformat out, or use --format vhd"
    elif wanted.subformat not in ("dynamic", "fixed"):
        yield f"subformat {wanted.subformat!r} is not known: use --subformat dynamic or fixed"
    low, high = FREEZE_RANGE
    if not low <= wanted.max_freeze <= high:
        yield f"--max-freeze {wanted.max_freeze:g} s is out of range: use {low:g} s to {high:g} s"
    if wanted.limit_rate is not None and wanted.limit_rate <= 0:
        yield f"--limit-rate {wanted.limit_rate} bytes/s would never end: leave it out for no limit"


def source(machine: Machine) -> Iterator[str]:
    """What the source itself forbids, whatever the disks."""
    if machine.cpu.arch not in ARCHITECTURES:
        yield f"it has {machine.cpu.arch} processors and the VM would be x86: convert it on a host of its own kind"
    if not machine.live:
        used = [f"mounted on {mount.mountpoint}" for mount in machine.mounts]
        used += [f"swap area {swap.path}" for swap in machine.swaps]
        used += [f"part of {holder.path}" for holder in machine.holders]
        if used:
            yield (
                f"{machine.disks[0].path if machine.disks else machine.hostname} is in use on this machine "
                f"({', '.join(used)}): unmount it first, or convert the running machine with the source 'local' and --disk"
            )
        return
    able = machine.abilities
    if not able.is_root:
        yield (
            f"user {able.user} is not root, so disks cannot be read nor writes tracked: log in as root, or give {able.user} "
            f"the line '{able.user} ALL=(root) NOPASSWD: ALL' in /etc/sudoers.d/livep2v"
        )
    elif not able.tracefs:
        yield (
            f"writes cannot be tracked, because tracefs is not there: {able.tracefs_reason}; or shut the machine down and "
            "convert its disk as an image"
        )


def disks(machine: Machine, values: HostValues, wanted: Options, chosen: tuple[Disk, ...]) -> Iterator[str]:
    known = {name for disk in machine.disks for name in (disk.name, disk.path)}
    unknown = [name for name in wanted.disks if name not in known]
    if unknown:
        there = names(f"{disk.name} ({size(disk.size)})" for disk in machine.disks)
        yield f"no disk {names(unknown)} there: choose with --disk among {there or 'none'}"
    if not chosen and not unknown:
        left = names(disk.name for disk in machine.disks)
        yield f"no disk to convert: {f'name one of {left} with --disk' if left else 'the machine shows none'}"
    for disk in chosen:
        yield from _disk(machine, wanted, disk)
    first = boot_disk(machine)
    if chosen and first is not None and first not in chosen:
        yield f"{first.name} is the disk that it boots from, and it is not among the chosen: add --disk {first.name}"
    yield from _groups(machine, chosen)
    yield from _encrypted(machine)
    if machine.live and values.same_machine:
        inside = [disk for disk in chosen if disk.path in values.output_disk_paths]
        if inside:
            yield (
                f"the output folder {values.output} lies on {names(disk.path for disk in inside)}, which is copied: it could "
                "not be written while that is frozen; give a folder on another disk with -o"
            )


def _disk(machine: Machine, wanted: Options, disk: Disk) -> Iterator[str]:
    if disk.size == 0:
        yield f"{disk.name} has no size: leave it out by naming the others with --disk"
    if wanted.format == "vhd" and disk.size > VHD_MAX:
        yield f"{disk.name} has {size(disk.size)}, a VHD ends at {size(VHD_MAX)}: use --format raw"
    if disk.sector_size != 512:
        if wanted.format == "vhd":
            yield f"{disk.name} has sectors of {disk.sector_size} bytes and a VHD has 512: use --format raw"
        if machine.firmware is Firmware.BIOS and disk == boot_disk(machine):
            yield (
                f"{disk.name} has sectors of {disk.sector_size} bytes, and no BIOS starts from those: leave it out by naming "
                "the others with --disk"
            )
    elif disk.size % 512:
        yield f"{disk.name} has {disk.size} bytes, no multiple of 512: is the image cut short? pad it with truncate"
    if disk.volume is not None and disk.volume.kind == "unreadable" and (machine.abilities.is_root or not machine.live):
        yield f"{disk.name} cannot be read ({disk.volume.detail}): leave it out by naming the others with --disk"
    if not machine.live:
        return
    if not disk.request_based:
        yield (
            f"{disk.name}: its driver reports no completed requests, so writes cannot be tracked (multipath NVMe: boot with "
            "nvme_core.multipath=N; else shut the machine down and convert the disk as an image)"
        )
    for holder in machine.holders:
        if holder.kind == "multipath" and disk.name in holder.slaves:
            yield (
                f"{disk.name} is one path of {holder.path}, and writes over the other paths would be missed: shut the machine "
                "down and convert the disk as an image"
            )
    volumes = [part.volume for part in disk.partitions] + ([disk.volume] if disk.volume else [])
    if any(volume.kind == "zfs_member" for volume in volumes):
        yield (
            f"{disk.name} holds a ZFS pool, and ZFS cannot be frozen: export the pool and shut the machine down, then convert "
            "the disk as an image"
        )


def _encrypted(machine: Machine) -> Iterator[str]:
    """What the repair has to open must not need a passphrase: known now, it is not found out after hours of copying."""
    by_name = {holder.name: holder for holder in machine.holders}
    by_path = {holder.path: holder for holder in machine.holders}
    for mount in machine.mounts:
        if mount.mountpoint not in ("/", "/boot", "/usr"):
            continue
        stack = [by_path[mount.device]] if mount.device in by_path else []
        seen: set[str] = set()
        while stack:
            holder = stack.pop()
            if holder.kind == "crypt":
                yield (
                    f"{mount.mountpoint} lies on the encrypted {holder.path}, which the repair of the copy cannot open (not "
                    "supported yet): its disks can be copied, but not made to boot"
                )
                break
            stack += [by_name[name] for name in holder.slaves if name in by_name and name not in seen]
            seen.update(holder.slaves)


def _groups(machine: Machine, chosen: tuple[Disk, ...]) -> Iterator[str]:
    """Volumes that lie on several disks, of which not all are chosen."""
    mine = {disk.name for disk in chosen}
    for what, members in groups(machine):
        missing = members - mine
        if members & mine and missing:
            yield (
                f"{what} lies on {names(sorted(members))}, and {names(sorted(missing))} is not chosen: add "
                f"{' '.join(f'--disk {name}' for name in sorted(missing))}"
            )


def groups(machine: Machine) -> list[tuple[str, set[str]]]:
    """What belongs together: volume groups, arrays and file systems with the names of the disks under each."""
    found: dict[str, set[str]] = {}
    for holder in machine.holders:
        if holder.kind == "loop":
            continue
        what = holder.path
        if holder.kind == "lvm":
            what = "volume group " + volume_group(holder.path)
        found.setdefault(what, set()).update(_disks_under(machine, holder.slaves))
    loops = {disk.name for disk in machine.disks if disk.transport == "loop"}
    for mount in machine.mounts:
        if mount.fstype == "btrfs" and not loops & set(mount.disks):
            found.setdefault(f"the file system on {mount.mountpoint}", set()).update(mount.disks)
    return [(what, members) for what, members in found.items() if len(members) > 1]


def volume_group(path: str) -> str:
    """ "/dev/mapper/my--vg-root" -> "my-vg": device mapper doubles the hyphens of the names it joins with one."""
    return path.rpartition("/")[2].replace("--", "\0").partition("-")[0].replace("\0", "-")


def _disks_under(machine: Machine, slaves: Iterable[str]) -> set[str]:
    owner = {part.path.removeprefix("/dev/"): disk.name for disk in machine.disks for part in disk.partitions}
    owner.update({disk.name: disk.name for disk in machine.disks})
    below = {holder.name: holder.slaves for holder in machine.holders}
    found: set[str] = set()
    seen: set[str] = set()
    queue = list(slaves)
    while queue:
        name = queue.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in below and name not in owner:
            queue += below[name]
        else:
            found.add(owner.get(name, name))
    return found


def host(machine: Machine, values: HostValues, wanted: Options, planned: tuple[PlanDisk, ...], needed: int) -> Iterator[str]:
    """``needed``: bytes of the output folder that will be used for certain."""
    if planned and needed > values.free_space:
        kind = "fixed disks need their full size; use --subformat dynamic, " if wanted.subformat == "fixed" else ""
        yield (
            f"{values.output or wanted.output} has {size(values.free_space)} free and {size(needed)} are needed: {kind}free "
            "some, or give another folder with -o"
        )
    if machine.firmware is Firmware.UEFI and not values.firmware_files:
        yield "it starts by UEFI and this host has no UEFI firmware for VMs: install the package ovmf"
