"""The decision: Machine + HostValues + Options -> Plan, or a Refusal that lists every blocker with its way out. Pure.

Read :func:`plan`; ``regions.py`` says what is copied of a disk, ``vm.py`` what the VM is, ``blockers.py`` what forbids it.
"""

from __future__ import annotations

import re

from ..errors import Refusal
from ..model import Action, Disk, Firmware, HostValues, Machine, Options, Plan, PlanDisk, SnapshotSpec, Vm
from . import blockers
from .regions import SWAP_KINDS, region_bytes, regions, volume_at
from .text import names, size
from .vm import boot_disk, job_name, virtual_machine

__all__ = ["boot_disk", "plan", "regions"]

FREEZABLE = ("ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "jfs", "reiserfs", "nilfs2", "gfs2", "ocfs2")
HARD_LIMIT_FLOOR = 5.0  # s; a loaded machine may stand still for seconds without anybody having done wrong
HARD_LIMIT_FACTOR = 4.0  # of the freeze budget: the prediction may be off by a slow disk, never by that much


def plan(machine: Machine, values: HostValues, options: Options) -> Plan:
    """Decide everything that can be decided before the copy. Raises Refusal with all blockers, one a line."""
    chosen = choose(machine, options)
    job = job_name(machine, options.name)
    planned = tuple(_plan_disk(machine, disk, index, options) for index, disk in enumerate(chosen))
    certain, estimated = _bytes(chosen, planned)
    fixed = options.format == "vhd" and options.subformat == "fixed"
    needed = (sum(disk.size for disk in chosen) if fixed else certain) + blockers.RESERVE
    found = [
        *blockers.source(machine),
        *blockers.options(machine, values, options),
        *blockers.disks(machine, values, options, chosen),
        *blockers.host(machine, values, options, planned, needed),
    ]
    if found:
        raise Refusal(reason="\n".join(found))
    vm = virtual_machine(machine, job)
    snapshot = SnapshotSpec(
        provider="tracked" if machine.live else "offline",
        disks=planned,
        max_freeze=options.max_freeze,
        hard_limit=max(HARD_LIMIT_FLOOR, HARD_LIMIT_FACTOR * options.max_freeze),
        compress=options.compress,
        limit_rate=options.limit_rate,
        tracker_buffer_kib=options.tracker_buffer_kib,
    )
    return Plan(
        job=job,
        snapshot=snapshot,
        vm=vm,
        estimated_bytes=estimated,
        steps=tuple(_steps(machine, options, snapshot, vm, estimated)),
        warnings=tuple(_warnings(machine, values, options, chosen, planned, vm, needed - certain + estimated)),
    )


def choose(machine: Machine, options: Options) -> tuple[Disk, ...]:
    """The disks named, else all but those that do not belong to the machine: removable, USB, read-only, loop and network
    block devices, unless the system itself runs from one."""
    if options.disks:
        return tuple(disk for disk in machine.disks if disk.name in options.disks or disk.path in options.disks)
    if not machine.live:
        return machine.disks
    under = {name for mount in machine.mounts if mount.mountpoint in ("/", "/boot") for name in mount.disks}
    system = {disk.name for disk in machine.disks if disk.name in under and disk.transport != "loop"}
    return tuple(disk for disk in machine.disks if disk.size and (_belongs(disk) or disk.name in system))


def _belongs(disk: Disk) -> bool:
    return not (disk.removable or disk.read_only or disk.transport in blockers.LEFT_OUT_TRANSPORTS)


def _plan_disk(machine: Machine, disk: Disk, index: int, options: Options) -> PlanDisk:
    first = boot_disk(machine)
    chosen = [item.name for item in choose(machine, options)]
    order = [name for name in chosen if first is None or name != first.name]
    if first is not None and first.name in chosen:
        order.insert(0, first.name)
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", disk.name).strip("-.") or "disk"
    return PlanDisk(
        index=index,
        name=disk.name,
        path=disk.path,
        devno=disk.devno,
        size=disk.size,
        sector_size=disk.sector_size,
        file=f"{stem}.{options.format}",
        format=options.format,
        subformat=options.subformat if options.format == "vhd" else "dynamic",
        regions=regions(disk),
        boot_order=order.index(disk.name) + 1,
        serial=disk.serial,
        wwn=disk.wwn,
        source_format=disk.format,
    )


def _bytes(chosen: tuple[Disk, ...], planned: tuple[PlanDisk, ...]) -> tuple[int, int]:
    """Bytes that are in use for certain, and bytes that would be read: volumes copied whole may be full of zeros."""
    certain = estimated = 0
    for disk, item in zip(chosen, planned, strict=True):
        for region in item.regions:
            count = region_bytes(region, volume_at(disk, region))
            estimated += count
            certain += count if region.action is Action.USED else 0
    return certain, estimated


def _warnings(
    machine: Machine,
    values: HostValues,
    options: Options,
    chosen: tuple[Disk, ...],
    planned: tuple[PlanDisk, ...],
    vm: Vm,
    room: int,
) -> list[str]:
    found = []
    mine = {disk.name for disk in chosen}
    for item in planned:
        for region in item.regions:
            if region.action is Action.COPY and (region.path or region.kind == "disk"):
                found.append(f"{region.path}: {region.kind}, {size(region.length)} copied whole: {region.reason}")
    for disk in chosen:
        for path, volume in [(part.path, part.volume) for part in disk.partitions] + [(disk.path, disk.volume)]:
            if volume is not None and volume.kind in SWAP_KINDS and volume.detail:
                found.append(f"{path}: {volume.detail}; a sleeping system's memory does not travel, the VM starts afresh")
    for mount in machine.mounts if machine.live else ():
        options_ = mount.options.split(",")
        if set(mount.disks) & mine and "rw" in options_ and mount.fstype not in FREEZABLE:
            found.append(f"{mount.mountpoint}: {mount.fstype} cannot be frozen; it is synced just before the instant instead")
    for disk in machine.disks:
        if disk.name in mine or disk.transport == "loop":
            continue
        used = [mount.mountpoint for mount in machine.mounts if disk.name in mount.disks]
        used += [f"swap {swap.path}" for swap in machine.swaps if swap.path in [part.path for part in disk.partitions]]
        why = f", which is in use ({names(used)}): its entries in fstab get nofail" if used else ""
        found.append(f"{disk.name} ({size(disk.size)}, {disk.transport or 'unknown'}) is left out{why}")
    if machine.secure_boot:
        found.append("Secure Boot is on; the VM starts without it")
    if machine.live and not any(nic.mac for nic in machine.nics):
        found.append("no physical network interface was found; the VM gets none")
    first = boot_disk(machine)
    if first is None:
        found.append("no disk shows boot code, an EFI system partition or /boot; the first one is started")
    if values.memory and vm.memory > values.memory:
        found.append(f"the VM has {size(vm.memory)} of memory and this host {size(values.memory)}: the boot check may fail")
    if room > values.free_space:
        found.append(
            f"{values.output or options.output} has {size(values.free_space)} free; up to {size(room)} are needed if the "
            "volumes copied whole hold no zeros"
        )
    if machine.kernel.release and vm.disk_bus != "virtio":
        found.append(f"its kernel has no virtio driver: the VM's disks hang on {vm.disk_bus}, which is slower")
    return found


def _steps(machine: Machine, options: Options, spec: SnapshotSpec, vm: Vm, estimated: int) -> list[str]:
    total = sum(disk.size for disk in spec.disks)
    kind = f"{options.subformat} VHD" if options.format == "vhd" else "sparse raw"
    rest = [nic.name for nic in vm.nics if nic.name]
    bound = [service.name for service in machine.services if service.hardware_bound and service.enabled]
    found = [
        f"make {len(spec.disks)} {kind} file{'s' if len(spec.disks) > 1 else ''} for {names(disk.name for disk in spec.disks)} "
        f"({size(total)})",
    ]
    if spec.provider == "tracked":
        found += [
            f"track every write to the disks and copy up to {size(estimated)} while the machine works, then what was written "
            "meanwhile, in shorter and shorter passes",
            f"freeze its file systems for at most {spec.max_freeze:g} s (a watchdog thaws them after {spec.hard_limit:g} s "
            "whatever happens), copy the last writes: that is the instant",
        ]
    else:
        found.append(f"copy up to {size(estimated)}; nobody writes to it")
    found.append("compare all of the copy with the digests of what was read")
    mend = "make the copy boot on virtual hardware: boot loader, fstab, initramfs"
    if machine.kernel.initramfs.has_virtio is False and machine.kernel.virtio_available:
        mend += " (virtio drivers of its own kernel are added)"
    found.append(mend + (f", names of {names(rest)}" if rest else "") + (f"; disable {names(bound)}" if bound else ""))
    firmware = "UEFI" if vm.firmware is Firmware.UEFI else "BIOS"
    many = f"{len(vm.nics)} network interfaces with their MAC addresses"
    nics = {0: "no network interface", 1: "1 network interface with its MAC address"}.get(len(vm.nics), many)
    found.append(f"define the VM {vm.name!r}: {vm.cpus} CPUs, {size(vm.memory)}, {firmware}, {nics}")
    if options.boot_check:
        found.append("start it once on a throw-away overlay, cut off from the network, and wait for its report")
    return found
