"""Drivers for later kernels: the initramfs of the next update has them too.

Only where an initramfs had to be given drivers: its generator left them out once (dracut in host-only mode, initramfs-tools
with MODULES=dep) and would again wherever it is run outside the VM. dracut wants spaces inside the quotes: dracut.conf(5).
"""

from __future__ import annotations

from ..context import Context
from ..guest import bytes_of

NAME = "later-kernels"
CRITICAL = False
WHY = "the initramfs had no virtio drivers; those of later kernels will"
DRIVERS = ("virtio_pci", "virtio_blk", "virtio_scsi")
DRACUT = "/etc/dracut.conf.d/90-livep2v.conf"
TOOLS = "/etc/initramfs-tools/modules"


def needed(ctx: Context) -> str:
    return WHY if ctx.added_modules else ""


def apply(ctx: Context) -> None:
    kinds = {item.kind for item in ctx.initramfs}
    if "dracut" in kinds:
        text = f'# livep2v: this machine became a virtual one\nadd_drivers+=" {" ".join(DRIVERS)} "\n'
        ctx.guest.put(DRACUT, text.encode(), WHY)
    if "initramfs-tools" in kinds:
        text = ctx.guest.text(TOOLS)
        present = {line.split()[0] for line in text.splitlines() if line.strip() and not line.startswith("#")}
        missing = [name for name in DRIVERS if name not in present]
        if missing:
            start = text if not text or text.endswith("\n") else text + "\n"
            ctx.guest.put(TOOLS, bytes_of(start + "# livep2v\n" + "\n".join(missing) + "\n"), WHY)
