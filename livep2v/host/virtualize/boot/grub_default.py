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
# The file is sourced by sh: a line is edited only if its value is one word for sh, quoted or bare, and nothing but a comment
# follows. A "#" without space before it would be part of the word.
_VALUE = re.compile(
    r"^(?P<start>\s*GRUB_CMDLINE_LINUX(?P<suffix>_\w+)?=)"
    r"(?:\"(?P<double>(?:[^\"\\]|\\.)*)\"|'(?P<single>[^']*)'|(?P<bare>[^\s\"'\\`$;&|<>()#]*))"
    r"(?P<end>\s+#.*|\s*)$"
)
_SETTING = re.compile(r"^\s*(?:export\s+)?(GRUB_CMDLINE_LINUX\w*)=")
_QUOTES = {"double": '"', "single": "'", "bare": ""}
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
        value, setting = _VALUE.match(line), _SETTING.match(line)
        if value:
            quote, old = next((sign, value[name]) for name, sign in _QUOTES.items() if value[name] is not None)
            arguments = device_tokens(old, ctx.devices)
            if re.search(r"\bconsole=ttyS[1-9]", arguments) or (console and not value["suffix"] and not has_console):
                arguments = console_tokens(arguments)
            quote = quote or ('"' if " " in arguments else "")
            lines[index] = value["start"] + quote + arguments + quote + value["end"]
        elif setting:
            ctx.warn(f"GRUB's settings: {setting[1]} is not one plain value on one line; it was left as it is")
        lines[index] = _UNIT.sub(r"\g<1>0", lines[index])
    settings = {match[1] for line in lines if (match := _SETTING.match(line))}
    if console and not has_console and "GRUB_CMDLINE_LINUX" not in settings:
        lines[-1:] = [f'GRUB_CMDLINE_LINUX="{console_tokens("")}"', lines[-1]]
    return "\n".join(lines)


def needed(ctx: Context) -> str:
    return WHY if ctx.tree.exists("/etc/default/grub") else ""


def apply(ctx: Context) -> None:
    for pattern in _FILES:
        for path in ctx.guest.glob(pattern):
            text = ctx.guest.text(path)
            ctx.guest.put(path, bytes_of(edited(ctx, text, path == "/etc/default/grub")), WHY)
