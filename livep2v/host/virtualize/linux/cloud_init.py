"""cloud-init stays out of the way: this is the same machine, not a new instance.

With other firmware strings it finds a new instance, and may replace the SSH host keys, lock users and write the network anew.
Its own switch is a file: https://docs.cloud-init.io/en/latest/howto/disable_cloud_init.html
"""

from __future__ import annotations

from ..context import Context

NAME = "cloud-init"
CRITICAL = False
WHY = "the machine keeps its identity, keys and network"
SWITCH = "/etc/cloud/cloud-init.disabled"


def needed(ctx: Context) -> str:
    if not ctx.tree.exists("/etc/cloud/cloud.cfg") or ctx.tree.exists(SWITCH) or ctx.machine.smbios.is_virtual:
        return ""
    if not ctx.machine.live:  # it may be the image of a cloud instance, which gets its keys and network from cloud-init
        ctx.warn(f"cloud-init is installed; it may change host keys and network in the VM unless {SWITCH} exists")
        return ""
    return WHY


def apply(ctx: Context) -> None:
    ctx.guest.put(SWITCH, b"Disabled by livep2v: " + WHY.encode() + b"\n", WHY)
