"""Services of hardware that a VM does not have: masked, not removed.

They fail (the system is "degraded" for ever), wait for devices, or, as with the UPS daemons, could shut the VM down. Removing
packages offline broke somebody each time it was tried (RHEL-71522, RHEL-233944); a mask is one symbolic link and
``systemctl unmask`` undoes it. Only units that are there and enabled are masked.
"""

from __future__ import annotations

import posixpath
import re

from .... import hardware_services
from ..context import Context

NAME = "services"
CRITICAL = False
UNIT_FOLDERS = ("/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system")
# Guest tools of other hypervisors: they do nothing here, and some wait for a device of theirs.
HYPERVISOR_TOOLS = frozenset(
    (
        "vmtoolsd", "open-vm-tools", "vgauthd", "vgauth", "vboxadd", "vboxadd-service", "vboxservice",
        "virtualbox-guest-utils", "xe-daemon", "xe-linux-distribution", "hypervkvpd", "hypervvssd", "hypervfcopyd",
        "hv-kvp-daemon", "hv-vss-daemon", "hv-fcopy-daemon", "prltoolsd", "waagent", "walinuxagent",
    )
)  # fmt: skip
_UNIT = re.compile(r"^[A-Za-z0-9:_.@\\-]+$")


def reason_of(ctx: Context, unit: str) -> str:
    """Why the unit has no place in the VM, or ""."""
    base = unit.rpartition(".")[0] or unit
    if base == "multipathd" and any(holder.kind == "multipath" for holder in ctx.machine.holders):
        return ""  # the root may be on it; a warning says so
    if base in HYPERVISOR_TOOLS:
        return "belongs to another hypervisor"
    known = {service.name: service.hardware_bound for service in ctx.machine.services}
    return hardware_services.reason(unit) or known.get(unit, "")


def _enabled(ctx: Context) -> dict[str, list[str]]:
    """Unit -> links that start it: WantedBy and RequiredBy folders, and aliases."""
    links: dict[str, list[str]] = {}
    for pattern in ("/etc/systemd/system/*.wants/*", "/etc/systemd/system/*.requires/*", "/etc/systemd/system/*"):
        for path in ctx.guest.glob(pattern):
            if ctx.tree.kind(path) == "link":
                target = ctx.tree.readlink(path)
                for unit in {posixpath.basename(path), posixpath.basename(target)}:
                    if target != "/dev/null":
                        links.setdefault(unit, []).append(path)
    return links


def _found(ctx: Context) -> dict[str, str]:
    """Units to mask -> why."""
    reasons = {unit: reason_of(ctx, unit) for unit in _enabled(ctx) if _UNIT.match(unit)}
    return {unit: reason for unit, reason in reasons.items() if reason and _unit_file(ctx, unit)}


def _unit_file(ctx: Context, unit: str) -> str:
    """The unit's own file; a template's for an instance; "" if there is none, or only an alias of another."""
    template = re.sub(r"@[^.]*\.", "@.", unit)
    for folder in UNIT_FOLDERS:
        for name in {unit, template}:
            if ctx.tree.kind(f"{folder}/{name}") == "file":
                return f"{folder}/{name}"
    return ""


def needed(ctx: Context) -> str:
    if ctx.init != "systemd":
        return "services of absent hardware start from rc folders" if _started(ctx) else ""
    found = _found(ctx)
    return f"{len(found)} enabled services have no place in a VM" if found else ""


def apply(ctx: Context) -> None:
    if ctx.init != "systemd":
        for path, reason in _started(ctx).items():
            ctx.guest.remove(path, reason)
        return
    links = _enabled(ctx)
    for unit, reason in sorted(_found(ctx).items()):
        mask = f"/etc/systemd/system/{unit}"
        if ctx.tree.kind(mask) == "file":  # the administrator's own unit: switched off, the file stays
            for path in links[unit]:
                ctx.guest.remove(path, reason)
            continue
        ctx.guest.link(mask, "/dev/null", reason)


def _started(ctx: Context) -> dict[str, str]:
    """Start links of System V init for services of the table -> why."""
    found = {}
    for pattern in ("/etc/rc?.d/S*", "/etc/rc.d/rc?.d/S*", "/etc/runlevels/*/*"):
        for path in ctx.guest.glob(pattern):
            reason = reason_of(ctx, re.sub(r"^S\d+", "", posixpath.basename(path)))
            if reason and ctx.tree.kind(path) == "link":
                found[path] = reason
    return found
