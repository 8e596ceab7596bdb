"""Lists of modules to load at boot: lines for sensors and management hardware are commented out.

systemd-modules-load.service fails as a whole when one module finds no hardware, and the system is "degraded" for ever.
"""

from __future__ import annotations

import re

from ..context import Context
from ..guest import bytes_of

NAME = "module-lists"
CRITICAL = False
WHY = "the module needs hardware that a VM does not have"
_FILES = ("/etc/modules", "/etc/modules-load.d/*.conf")
MODULES = frozenset(
    (
        "coretemp", "k10temp", "k8temp", "fam15h_power", "it87", "it8728", "nct6775", "nct6683", "w83627ehf", "w83627hf",
        "w83795", "f71882fg", "f71805f", "adt7475", "lm75", "lm78", "lm85", "lm90", "jc42", "i2c_i801", "i2c_piix4",
        "eeprom", "at24", "ipmi_si", "ipmi_devintf", "ipmi_msghandler", "ipmi_watchdog", "ipmi_poweroff", "iTCO_wdt",
        "i6300esb_wdt", "hpwdt", "sp5100_tco", "acpi_power_meter", "acpi_ipmi", "dcdbas", "dell_rbu", "hpilo", "mei",
        "mei_me", "intel_rapl_msr", "edac_core", "sb_edac", "i7core_edac", "ie31200_edac", "skx_edac", "amd64_edac",
        "nvidia", "nvidia_drm", "nvidia_uvm", "ib_umad", "ib_ipoib", "mlx4_ib",
    )
)


def edited(text: str) -> str:
    """The list with lines of such modules commented out."""
    lines = text.split("\n")
    for index, line in enumerate(lines):
        match = re.match(r"^\s*([A-Za-z0-9_-]+)", line)
        if match and match.group(1).replace("-", "_") in MODULES:
            lines[index] = f"# livep2v: {line}"
    return "\n".join(lines)


def needed(ctx: Context) -> str:
    return WHY


def apply(ctx: Context) -> None:
    for pattern in _FILES:
        for path in ctx.guest.glob(pattern):
            if ctx.tree.kind(path) == "file":
                ctx.guest.put(path, bytes_of(edited(ctx.guest.text(path))), WHY)
