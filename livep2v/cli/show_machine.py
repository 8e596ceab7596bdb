"""The page that ``livep2v inspect`` prints: what the machine is, and what a conversion would do or what forbids it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ..errors import Refusal
from ..model import Disk, Firmware, Initramfs, Machine, Plan, Region, Volume
from ..plan.regions import region_bytes, volume_at
from ..plan.text import names, size


def show(machine: Machine, outcome: Plan | Refusal, console: Console) -> None:
    """Print the page. ``outcome``: the plan, or the refusal that took its place."""
    for title, parts in _sections(machine, outcome):
        shown = [part for part in parts if part is not None]
        if shown:
            console.print(Text(title, style="bold"))
            console.print(Padding(Group(*shown), (0, 0, 1, 2)))


def _sections(machine: Machine, outcome: Plan | Refusal) -> Iterator[tuple[str, list[RenderableType | None]]]:
    kind = "running machine" if machine.live else "disk image"
    yield _safe(f"{machine.hostname} ({kind})"), [_facts(_identity(machine))]
    yield "Disks", [part for disk in machine.disks for part in _disk(machine, disk, outcome)]
    yield "Volumes on other volumes", [_holders(machine)]
    yield "Mounted", [_mounts(machine)]
    if machine.live:
        yield "System", [_facts(_system(machine))]
        yield "Network", [_nics(machine)]
        yield "Services", [_facts(_services(machine))]
    if machine.warnings:
        yield "What could not be told", [_list(machine.warnings, "yellow")]
    if isinstance(outcome, Refusal):
        yield "It cannot be converted as it is", [_list(str(outcome).splitlines(), "red")]
        return
    rest = f"Up to {size(outcome.estimated_bytes)} would be sent, before compression and without blocks of zeros."
    yield "A conversion would", [_list(outcome.steps), Text(rest)]
    if outcome.warnings:
        yield "Note", [_list(outcome.warnings, "yellow")]


def _safe(text: str) -> str:
    """Names come from the source and may hold anything: control characters must not reach the terminal."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def _text(text: str, style: str = "") -> Text:
    return Text(_safe(text), style=style, overflow="fold")


def _facts(rows: Iterator[tuple[str, str]]) -> RenderableType | None:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", overflow="fold", max_width=20)
    table.add_column(overflow="fold")
    for key, value in rows:
        if value:
            table.add_row(_text(key), _text(value))
    return table if table.row_count else None


def _list(lines: tuple[str, ...] | list[str], style: str = "") -> RenderableType:
    table = Table.grid(padding=(0, 1))
    table.add_column(width=1)
    table.add_column(overflow="fold")
    for line in lines:
        table.add_row("-", _text(line, style))
    return table


def _table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return table


def _identity(machine: Machine) -> Iterator[tuple[str, str]]:
    smbios, cpu = machine.smbios, machine.cpu
    yield "machine", " ".join(part for part in (smbios.manufacturer, smbios.product) if part) + (
        " (already virtual)" if smbios.is_virtual else ""
    )
    yield "serial, UUID", names(part for part in (smbios.serial, smbios.uuid) if part)
    shape = f"{cpu.sockets} x {cpu.cores} cores x {cpu.threads} threads"
    yield "processors", " ".join(part for part in (f"{cpu.count} ({shape})", cpu.model, cpu.arch) if part)
    yield "memory", size(machine.memory)
    secure = ", Secure Boot on" if machine.secure_boot else ""
    vendor = f" ({smbios.bios_vendor})" if smbios.bios_vendor else ""
    yield "firmware", ("UEFI" if machine.firmware is Firmware.UEFI else "BIOS") + secure + vendor
    if machine.live:
        yield "hardware clock", "UTC" if machine.clock_utc else "local time"


def _disk(machine: Machine, disk: Disk, outcome: Plan | Refusal) -> Iterator[RenderableType | None]:
    facts = [
        size(disk.size), disk.transport, disk.model, f"serial {disk.serial}" if disk.serial else "",
        f"wwn {disk.wwn}" if disk.wwn else "", f"sectors {disk.sector_size}/{disk.physical_sector_size}",
        "rotating" if disk.rotational else "", "removable" if disk.removable else "", "read-only" if disk.read_only else "",
    ]  # fmt: skip
    table_name = {"mbr": "MBR", "gpt": "GPT", "none": "no partition table"}.get(disk.table, "partition table not readable")
    facts += [f"{table_name} {disk.table_id}".strip(), f"boot code: {disk.boot_code}" if disk.boot_code else ""]
    line = Text(_safe(disk.name), style="bold", overflow="fold")
    line.append(_safe("  " + ", ".join(fact for fact in facts if fact)), style="not bold")
    yield line
    planned = None
    if isinstance(outcome, Plan):
        planned = next((item for item in outcome.snapshot.disks if item.name == disk.name), None)
        if planned is None:
            yield Padding(_text("left out of the conversion", "yellow"), (0, 0, 0, 2))
            return
    last = "to copy" if planned else "used"
    table = _table("partition", "size", "holds", "label / UUID", last, right=("size", last))
    where = {region.offset: region for region in planned.regions} if planned else {}
    if disk.volume is not None:
        table.add_row(*_volume_row("whole disk", disk.size, disk.volume, where.get(0)))
    for part in disk.partitions:
        name = part.path.rpartition("/")[2] + (" *" if part.bootable else "")
        table.add_row(*_volume_row(name, part.length, part.volume, where.get(part.offset)))
    if planned is not None:
        total = sum(region_bytes(region, volume_at(disk, region)) for region in planned.regions)
        cells = ("in all", size(disk.size), "", "boot areas and gaps too", size(total))
        table.add_row(*(Text(cell, style="dim") for cell in cells))
    yield Padding(table, (0, 0, 0, 2))


def _volume_row(name: str, length: int, volume: Volume, region: Region | None) -> list[Text]:
    count = volume.used if region is None else region_bytes(region, volume)
    last = size(count) if count is not None and volume.kind != "extended" else ""
    title = " ".join(part for part in (volume.label, volume.uuid) if part)
    return [_text(cell) for cell in (name, size(length), volume.kind, title, last)]


def _holders(machine: Machine) -> RenderableType | None:
    if not machine.holders:
        return None
    table = _table("device", "kind", "on", "holds", "label / UUID")
    for holder in machine.holders:
        title = " ".join(part for part in (holder.volume.label, holder.volume.uuid) if part)
        cells = (holder.path, holder.kind, names(holder.slaves), holder.volume.kind, title)
        table.add_row(*(_text(cell) for cell in cells))
    return table


def _mounts(machine: Machine) -> RenderableType | None:
    if not machine.mounts and not machine.swaps:
        return None
    table = _table("mount point", "device", "type", "mode", "on disk")
    for mount in machine.mounts:
        mode = "ro" if "ro" in mount.options.split(",") else "rw"
        table.add_row(*(_text(cell) for cell in (mount.mountpoint, mount.device, mount.fstype, mode, names(mount.disks))))
    for swap in machine.swaps:
        table.add_row(*(_text(cell) for cell in ("swap", swap.path, swap.kind, "rw", size(swap.size))))
    return table


def _system(machine: Machine) -> Iterator[tuple[str, str]]:
    system, kernel, boot = machine.os, machine.kernel, machine.boot
    yield "operating system", " ".join(part for part in (system.name or system.id, f"(init: {system.init})") if part)
    yield "time zone", system.timezone
    yield "kernel", " ".join(part for part in (kernel.release, kernel.image) if part)
    yield "command line", kernel.cmdline
    yield "initramfs", _initramfs(kernel.initramfs)
    yield "virtio drivers", "in the kernel's modules" if kernel.virtio_available else "none for this kernel"
    yield "boot loader", " ".join(part for part in (boot.kind, boot.config) if part)
    yield "boot entries", "; ".join(boot.entries)
    able = machine.abilities
    yield "tracking writes", able.tracefs if able.tracefs else f"not possible: {able.tracefs_reason}"
    yield "Python there", able.python + (", zstd" if able.zstd else ", no zstd: zlib is used")
    yield "kernel lockdown", able.lockdown if able.lockdown not in ("", "none") else ""


def _initramfs(found: Initramfs) -> str:
    if found.kind == "none":
        return "none"
    virtio = {True: "virtio inside", False: "no virtio inside", None: "virtio: could not be read"}[found.has_virtio]
    compression = f", {found.compression}" if found.compression else ""
    return f"{found.path} ({found.kind}, {size(found.size)}{compression}; {virtio})"


def _nics(machine: Machine) -> RenderableType | None:
    if not machine.nics:
        return Text("no physical interface")
    table = _table("interface", "MAC address", "driver", "addresses", "of", "managed by")
    for nic in machine.nics:
        state = "" if nic.up else " (down)"
        changed = f" (now {nic.current_mac})" if nic.current_mac not in ("", nic.mac) else ""
        cells = (nic.name + state, nic.mac + changed, nic.driver, " ".join(nic.addresses), nic.master, nic.managed_by)
        table.add_row(*(_text(cell) for cell in cells))
    return table


def _services(machine: Machine) -> Iterator[tuple[str, str]]:
    running = [service for service in machine.services if service.state == "active"]
    yield "running", f"{len(running)} of {len(machine.services)}" if machine.services else ""
    failed = names(service.name for service in machine.services if service.state == "failed")
    yield "failed", failed
    for service in machine.services:
        if service.hardware_bound:
            yield re.sub(r"\.service$", "", service.name), f"bound to hardware: {service.hardware_bound}"
    for writer in machine.writers:
        yield writer.name, f"{writer.detail}: {writer.how}" if writer.detail else writer.how
