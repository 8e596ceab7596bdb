"""/etc/default/grub: the source from which the next kernel update makes grub.cfg.

Without it the first update brings ``root=/dev/sda2`` back. GRUB_DISABLE_LINUX_UUID and GRUB_DISABLE_UUID are commented out, the
arguments get the same edits as in grub.cfg, and a serial GRUB terminal on the second port (serial over LAN of a real
machine) moves to the first, which is the one that the VM has.
"""

from __future__ import annotations

import re

from ..cmdline import console_tokens, device_tokens
from ..context import Context
from ..guest import bytes_of

NAME = "grub-default"
CRITICAL = False
WHY = "so that the next kernel update keeps the repaired arguments"
_FILES = ("/etc/default/grub", "/etc/default/grub.d/*.cfg")
_VALUE = re.compile(r"^(\s*GRUB_CMDLINE_LINUX(_\w+)?=)([\"']?)(.*?)(\3\s*)$")
_NO_UUID = re.compile(r"^\s*GRUB_DISABLE_(?:LINUX_)?UUID=[\"']?true\b", re.IGNORECASE)
_UNIT = re.compile(r"^(\s*GRUB_SERIAL_COMMAND=.*--unit=)[1-9]\b")


def edited(ctx: Context, text: str, console: bool) -> str:
    """The text with its settings edited; ``console``: this file is the one that gets the console arguments."""
    lines = text.split("\n")
    has_console = re.search(r"(?m)^\s*GRUB_CMDLINE_LINUX(?:_DEFAULT)?=.*\bconsole=ttyS0", text) is not None
    for index, line in enumerate(lines):
        if _NO_UUID.match(line):
            lines[index] = f"#{line}  # livep2v: this machine's disks have other names now"
            continue
        value = _VALUE.match(line)
        if value:
            arguments = device_tokens(value[4], ctx.devices)
            if re.search(r"\bconsole=ttyS[1-9]", arguments) or (console and not value[2] and not has_console):
                arguments = console_tokens(arguments)
            quote = value[3] or ('"' if " " in arguments else "")
            lines[index] = value[1] + quote + arguments + (value[5] if value[3] else quote)
        lines[index] = _UNIT.sub(r"\g<1>0", lines[index])
    if console and not has_console and not re.search(r"(?m)^\s*GRUB_CMDLINE_LINUX=", text):
        lines[-1:] = [f'GRUB_CMDLINE_LINUX="{console_tokens("")}"', lines[-1]]
    return "\n".join(lines)


def needed(ctx: Context) -> str:
    return WHY if ctx.tree.exists("/etc/default/grub") else ""


def apply(ctx: Context) -> None:
    for pattern in _FILES:
        for path in ctx.guest.glob(pattern):
            text = ctx.guest.text(path)
            ctx.guest.put(path, bytes_of(edited(ctx, text, path == "/etc/default/grub")), WHY)
