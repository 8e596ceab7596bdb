"""/etc/crypttab: encrypted volumes by UUID, and no waiting for a TPM that is not there.

UUID= of the LUKS header, not another /dev name, which systemd-cryptsetup then misses (RHEL-93583). A ``tpm2-*`` option makes
the boot hang where there is no such TPM (RHEL-85154); it is dropped, and the passphrase is asked for. Comment lines stay
(RHEL-178432).
"""

from __future__ import annotations

import re

from ..context import Context
from ..guest import bytes_of

NAME = "crypttab"
CRITICAL = True
WHY = "encrypted volumes by names that exist in the VM"
PATH = "/etc/crypttab"
_LINE = re.compile(r"^(\s*[^\s#]\S*\s+)(\S+)((?:\s+\S+)?)((?:\s+)?)(\S*)(\s*)$")


def edited(ctx: Context, text: str) -> str:
    """The table with its lines edited."""
    return "\n".join(_line(ctx, line) for line in text.split("\n"))


def _line(ctx: Context, line: str) -> str:
    match = _LINE.match(line)
    if match is None or line.lstrip().startswith("#"):
        return line
    start, device, key, gap, options, end = match.groups()
    missing = ctx.devices.absent(device) if device.startswith(("/dev/", "UUID=", "PARTUUID=", "LABEL=")) else ""
    words = [word for word in options.split(",") if word]
    if missing:
        if "nofail" not in words and "noauto" not in words:
            ctx.warn(f"{PATH}: {device} is not in the VM ({missing}); its line got nofail")
            words.append("nofail")
    elif ctx.devices.volatile(device):
        stable = ctx.devices.stable(device)
        if stable:
            device = stable
        else:
            ctx.warn(f"{PATH}: no lasting name is known for {device}; the line was left as it is")
    kept = [word for word in words if not word.startswith("tpm2-")]
    if len(kept) != len(words):
        ctx.warn(f"{PATH}: {device} was unlocked by the machine's TPM; the VM will ask for its passphrase")
        words = kept or ["luks"]
    if words != [word for word in options.split(",") if word]:
        options = ",".join(words)
        key, gap = key or " none", gap or " "
    return start + device + key + gap + options + end


def needed(ctx: Context) -> str:
    return WHY if ctx.tree.exists(PATH) else ""


def apply(ctx: Context) -> None:
    ctx.guest.put(PATH, bytes_of(edited(ctx, ctx.guest.text(PATH))), WHY)
