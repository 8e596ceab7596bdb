"""/etc/fstab: volumes by names that exist in the VM.

/dev/sda3 is not there on virtio, and a missing device without ``nofail`` ends the boot in emergency mode. Names are mapped by
what the inspected machine had under them, not by disk order. Lines are edited in their first and fourth field only; comments,
odd lines and spacing stay byte for byte.
"""

from __future__ import annotations

import re

from ..context import Context
from ..guest import bytes_of

NAME = "fstab"
CRITICAL = True
WHY = "volumes by UUID; those that are not in the VM do not stop its boot"
PATH = "/etc/fstab"
_NEEDED = ("/", "/usr", "/boot")  # a system that comes up without them is not the machine: the self-check says so
_LINE = re.compile(r"^(\s*)([^\s#]\S*)(\s+)(\S+)(\s+)(\S+)(\s+)(\S+)(.*)$")
_SHORT = re.compile(r"^(\s*)([^\s#]\S*)(\s+)(\S+)(\s+)(\S+)(\s*)()()$")  # options may be left out: fstab(5) of util-linux


def edited(ctx: Context, text: str) -> str:
    """The table with its lines edited."""
    return "\n".join(_line(ctx, line) for line in text.split("\n"))


def _line(ctx: Context, line: str) -> str:
    match = _LINE.match(line) or _SHORT.match(line)
    if match is None:
        return line
    fields = list(match.groups())
    spec, mountpoint, kind, options = fields[1], fields[3], fields[5], fields[7]
    if not spec.startswith("/dev/") and spec.partition("=")[0] not in ("UUID", "LABEL", "PARTUUID"):
        return line
    if kind == "swap":
        mountpoint = ""
    missing = ctx.devices.absent(spec, _unescape(mountpoint))
    if missing:
        words = options.split(",") if options else ["defaults"]
        if "noauto" in words or kind in ("iso9660", "udf"):
            return line
        if mountpoint in ("/", "/usr"):
            ctx.warn(f"{PATH}: {mountpoint} is on {spec}: {missing}")
            return line
        added = _add_optional(ctx, fields)
        if not added:
            return line
        ctx.warn(f"{PATH}: {spec} on {mountpoint or 'swap'} is not in the VM ({missing}); its line got {added}")
    elif ctx.devices.volatile(spec):
        stable = ctx.devices.stable(spec)
        if stable:
            fields[1] = stable
        elif "noauto" in options.split(",") or kind in ("iso9660", "udf"):
            return line
        else:
            added = "" if _unescape(mountpoint) in _NEEDED else _add_optional(ctx, fields)
            done = f"its line got {added}" if added else "the line was left as it is"
            ctx.warn(f"{PATH}: no lasting name is known for {spec} on {mountpoint or 'swap'}; {done}")
    return "".join(fields)


def _add_optional(ctx: Context, fields: list[str]) -> str:
    """Let the boot go on without the volume of a line (its matched ``fields``). The answer is what had to be added."""
    words = fields[7].split(",") if fields[7] else ["defaults"]
    have = {word.partition("=")[0] for word in words}
    added = [word for word in _optional(ctx) if word.partition("=")[0] not in have]
    if added:
        fields[7] = ",".join(words + added)
        fields[6] = fields[6] or " "
    return ",".join(added)


def _optional(ctx: Context) -> tuple[str, ...]:
    # systemd waits 90 s for a device even with nofail; other init systems would hand the option to mount(8), which may refuse.
    return ("nofail", "x-systemd.device-timeout=10s") if ctx.init == "systemd" else ("nofail",)


def _unescape(path: str) -> str:
    """fstab(5): a space is \\040."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), path)


def needed(ctx: Context) -> str:
    return WHY if ctx.tree.exists(PATH) else ""


def apply(ctx: Context) -> None:
    ctx.guest.put(PATH, bytes_of(edited(ctx, ctx.guest.text(PATH))), WHY)
