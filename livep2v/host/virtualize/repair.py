"""The repair: an overlay over the replica, all fixes in it, a check of the result, and only then the replica is written."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from ...errors import Livep2vError, RepairError
from ...model import Changes, Machine, Plan, PlanDisk
from ..run import run
from .boot import arguments, debconf, device_map, grub_default, initramfs, later_kernels, modules, removable, resume
from .context import Context, Fix
from .devices import Devices
from .entries import find
from .guest import Tree
from .guestfs_tree import GuestfsTree, open_guest
from .linux import cloud_init, console, crypttab, first_boot, fstab, lvm, module_lists, nic_names, services
from .mounts import mount_guest
from .recorder import Recorder
from .selfcheck import check

Progress = Callable[[str, dict[str, object]], None]
QEMU_FORMAT = {"vhd": "vpc", "raw": "raw"}  # named always: a raw disk whose first bytes look like qcow2 must not be probed
COMMIT_TIMEOUT = 3600.0  # s; an overlay holds a few MiB (1.3 MiB measured), committed in 0.4 s

FIXES: tuple[Fix, ...] = (
    initramfs,  # first: it decides the disk's bus, and with it the names that others write
    arguments,
    grub_default,
    device_map,
    removable,
    debconf,
    resume,
    later_kernels,
    fstab,
    crypttab,
    lvm,
    nic_names,
    console,
    module_lists,
    services,
    cloud_init,
    first_boot,
)


class GuestDisk(NamedTuple):
    """One disk of the replica."""

    path: Path
    format: str  # "vhd" or "raw"
    disk: PlanDisk


def virtualize(
    job: Path,
    disks: Sequence[GuestDisk],
    machine: Machine,
    plan: Plan,
    progress: Progress,
    accelerator: str = "tcg",
) -> Changes:
    """Repair the replica in ``job`` so that it boots in a VM, and say what was changed.

    ``disks``: in the order of ``plan.snapshot.disks``. ``accelerator``: "kvm" or "tcg", for the appliance. A repair that fails
    raises RepairError and leaves the replica as it was; a second run on a repaired one changes nothing."""
    started = time.monotonic()
    overlays = [job / f"repair-{item.disk.index}.qcow2" for item in disks]
    with tempfile.TemporaryDirectory(prefix="repair-", dir=job) as scratch:
        try:
            for item, overlay in zip(disks, overlays, strict=True):
                create_overlay(item, overlay)
            changes = _repair(overlays, machine, plan, progress, accelerator, Path(scratch), job)
        except BaseException:  # the overlay is the repair: without it nothing has happened
            for overlay in overlays:
                overlay.unlink(missing_ok=True)
            raise
    if changes.changes:
        progress("log", {"text": f"writing {len(changes.changes)} changes into the disks"})
        commit(overlays)
    for overlay in overlays:
        overlay.unlink(missing_ok=True)
    return changes._replace(seconds=time.monotonic() - started)


def create_overlay(item: GuestDisk, overlay: Path) -> None:
    backing = QEMU_FORMAT[item.format]
    run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", item.path.absolute(), "-F", backing, overlay], timeout=60)


def commit(overlays: Sequence[Path]) -> None:
    """Write overlays into the disks below them. If one fails, all are still there: committing again is harmless."""
    for overlay in overlays:
        run(["qemu-img", "commit", "-q", "-d", "-f", "qcow2", overlay], timeout=COMMIT_TIMEOUT)


def _repair(
    overlays: Sequence[Path],
    machine: Machine,
    plan: Plan,
    progress: Progress,
    accelerator: str,
    scratch: Path,
    job: Path,
) -> Changes:
    logs = job / "logs"
    logs.mkdir(exist_ok=True)
    progress("log", {"text": "starting the repair appliance"})
    devices = Devices(machine, plan)
    with _guest(overlays, accelerator, logs / "repair.log") as g:
        progress("log", {"text": "mounting the guest's file systems"})
        root = mount_guest(g, machine, plan, devices)
        tree = GuestfsTree(g)
        tree.labels = uses_selinux(tree)
        try:
            changes = repair_tree(tree, machine, plan, progress, scratch, devices)
        except RuntimeError as error:  # a libguestfs call outside of any fix
            raise RepairError(what="guest", reason=str(error)) from error
        g.umount_all()
        g.shutdown()  # an error of the last write would show here
    return changes._replace(root=devices.stable(root) or root)


@contextmanager
def _guest(overlays: Sequence[Path], accelerator: str, log: Path) -> Iterator[Any]:
    with log.open("a", encoding="utf-8", errors="replace") as sink:
        g = open_guest(overlays, accelerator, sink)
        try:
            yield g
        finally:
            g.close()


def uses_selinux(tree: Tree) -> bool:
    """The guest labels its files."""
    if not tree.exists("/etc/selinux/config"):
        return False
    return re.search(rb"(?m)^\s*SELINUX=(enforcing|permissive)", tree.read("/etc/selinux/config")) is not None


def init_system(tree: Tree) -> str:
    """ "systemd", "openrc", "upstart" or "sysvinit", by what is there."""
    if tree.exists("/usr/lib/systemd/systemd") or tree.exists("/lib/systemd/systemd"):
        return "systemd"
    if tree.exists("/sbin/openrc") or tree.exists("/sbin/openrc-run"):
        return "openrc"
    return "upstart" if tree.exists("/sbin/initctl") else "sysvinit"


def repair_tree(
    tree: Tree,
    machine: Machine,
    plan: Plan,
    progress: Progress,
    scratch: Path,
    devices: Devices | None = None,
) -> Changes:
    """Run all fixes on a mounted guest and check the result. Raises RepairError if one that the boot depends on fails."""
    ctx = Context(
        machine=machine,
        plan=plan,
        tree=tree,
        guest=Recorder(tree),
        devices=devices or Devices(machine, plan),
        scratch=scratch,
        entries=find(tree),
        init=init_system(tree),
    )
    for fix in FIXES:
        apply(fix, ctx, progress)
    _remarks(ctx)
    ctx.nic_model = modules.nic_model(modules.supply(tree, ctx.kernel), machine.nics) or _first_model(plan)
    wrong = check(ctx)
    if wrong:
        raise RepairError(what="self-check of the repaired guest", reason="; ".join(wrong))
    return Changes(
        changes=tuple(ctx.guest.changes),
        root="",
        kernel=ctx.kernel,
        disk_bus=ctx.disk_bus,
        nic_model=ctx.nic_model,
        initramfs=tuple(ctx.initramfs),
        warnings=tuple(ctx.warnings),
    )


def apply(fix: Fix, ctx: Context, progress: Progress) -> None:
    """One fix: run if it is needed; a failure is an error or a warning, as the fix says."""
    ctx.guest.fix = fix.NAME
    try:
        why = fix.needed(ctx)
        if why:
            before = len(ctx.guest.changes)
            fix.apply(ctx)
            count = len(ctx.guest.changes) - before
            if count:
                progress("log", {"text": f"{fix.NAME}: {count} files changed ({why})"})
    except (Livep2vError, OSError, RuntimeError, ValueError, LookupError) as error:
        # RuntimeError is libguestfs; ValueError and LookupError are guest files in a shape that the fix did not expect.
        if fix.CRITICAL:
            raise error if isinstance(error, RepairError) else RepairError(what=fix.NAME, reason=str(error)) from error
        ctx.warn(f"{fix.NAME}: not done: {error}")


def _remarks(ctx: Context) -> None:
    """What no fix can do and a person should know."""
    if not ctx.machine.live and not nic_names.pins(ctx):
        ctx.warn("an image does not say which network cards the machine had: interfaces may get other names in the VM")
    if any(holder.kind == "multipath" for holder in ctx.machine.holders):
        ctx.warn("the machine uses multipath; the VM has one path to each disk: check /etc/multipath.conf after the first boot")


def _first_model(plan: Plan) -> str:
    return plan.vm.nics[0].model if plan.vm.nics else ""
