"""UEFI: a boot loader at the path that firmware tries when its memory is empty.

The entries of the old firmware (NVRAM) do not travel with the disk. Debian and older Ubuntu put nothing at
\\EFI\\BOOT\\BOOTX64.EFI, so their copies do not boot (RHEL-144467, migration-manager#372): the vendor's shim is copied there
with what it loads. UEFI specification 2.10, 3.5.1.1. An existing file of that name is left alone. So that the copy does not
grow older than the modules in /boot/grub (LP#1928674), Debian's own switch for it is set by ``debconf.py``.
"""

from __future__ import annotations

import re

from ....model import Firmware
from ..context import Context

NAME = "removable-loader"
CRITICAL = False
WHY = "the VM's firmware has no boot entry yet and tries this path"
ESP = ("/boot/efi", "/efi", "/boot")
FALLBACK = "BOOTX64.EFI"
# First the shim, which Secure Boot trusts and which loads grubx64.efi from its own folder; systemd-boot stands alone.
LOADERS = ("shimx64.efi", "grubx64.efi", "systemd-bootx64.efi", "grub.efi")
COMPANIONS = ("grubx64.efi", "mmx64.efi", "grub.cfg")  # not fbx64.efi: it would restart the VM to write boot entries
_NOT_VENDORS = re.compile(r"^(boot|microsoft|dell|hp|lenovo|tools|linux)$", re.IGNORECASE)


def _entry(ctx: Context, folder: str, name: str) -> str:
    """The path of ``name`` in ``folder``, whatever its case: FAT does not tell."""
    for item in ctx.tree.listdir(folder):
        if item.lower() == name.lower():
            return f"{folder}/{item}"
    return ""


def _efi(ctx: Context) -> str:
    """The EFI folder of the mounted ESP, or ""."""
    return next((path for esp in ESP if (path := _entry(ctx, esp, "EFI"))), "")


def _vendor(ctx: Context, efi: str) -> tuple[str, str]:
    """(folder, loader) of the installed system: the one whose loader comes first in LOADERS."""
    folders = [f"{efi}/{name}" for name in ctx.tree.listdir(efi) if not _NOT_VENDORS.match(name)]
    for loader in LOADERS:
        for folder in folders:
            path = _entry(ctx, folder, loader)
            if path:
                return folder, path
    return "", ""


def needed(ctx: Context) -> str:
    efi = _efi(ctx) if ctx.machine.firmware is Firmware.UEFI else ""
    if not efi:
        return ""
    boot = _entry(ctx, efi, "BOOT")
    return "" if boot and _entry(ctx, boot, FALLBACK) else WHY


def apply(ctx: Context) -> None:
    efi = _efi(ctx)
    folder, loader = _vendor(ctx, efi)
    if not loader:
        ctx.warn(f"{efi}: no boot loader of a known name was found; the VM needs a boot entry of its own")
        return
    boot = _entry(ctx, efi, "BOOT") or f"{efi}/BOOT"
    ctx.guest.put(f"{boot}/{FALLBACK}", ctx.tree.read(loader), WHY)
    if not loader.lower().endswith("/shimx64.efi"):
        return
    for name in COMPANIONS:
        path = _entry(ctx, folder, name)
        if path and not _entry(ctx, boot, name):
            ctx.guest.put(f"{boot}/{name}", ctx.tree.read(path), "the shim loads it from its own folder")
