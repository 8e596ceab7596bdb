"""SMBIOS strings of a lab machine, as qemu options.

QEMU sets "this is a virtual machine" in the BIOS record (type 0, characteristics extension byte 2, bit 4) and has no option to
clear it; systemd then takes the guest for a VM and starts nothing that belongs to hardware. So that record is written here.
"""

from __future__ import annotations

import struct
from pathlib import Path

from .recipe import Hardware

# DMTF DSP0134 (SMBIOS 3.x), 7.1 "BIOS Information (Type 0)", formatted area of version 2.4: 24 bytes
BIOS_RECORD = struct.Struct(
    "<BBH"  # type, length, handle
    "BB"  # string numbers: vendor, version
    "H"  # starting segment
    "BB"  # string number: release date; ROM size in 64 KiB, less 1
    "Q"  # characteristics
    "2s"  # characteristics extension
    "BBBB"  # release of BIOS and embedded controller, 0xff: none
)
assert BIOS_RECORD.size == 24
CHARACTERISTICS_UNSUPPORTED = 1 << 3  # "BIOS characteristics are not supported"


def bios_record(vendor: str, version: str, date: str) -> bytes:
    """A whole type 0 record with its strings."""
    fixed = BIOS_RECORD.pack(
        0, BIOS_RECORD.size, 0, 1, 2, 0xE800, 3, 0, CHARACTERISTICS_UNSUPPORTED, b"\0\0", 0xFF, 0xFF, 0xFF, 0xFF
    )
    return fixed + b"".join(text.encode() + b"\0" for text in (vendor, version, date)) + b"\0"


def options(hardware: Hardware, scratch: Path) -> list[str]:
    """qemu's ``-smbios`` options; the BIOS record is written to ``scratch``."""
    scratch.write_bytes(bios_record(hardware.bios_vendor, "1.07", "03/14/2009"))
    maker = f"manufacturer={hardware.manufacturer}"
    return [
        "-smbios", f"file={scratch}",
        "-smbios", f"type=1,{maker},product={hardware.product},serial={hardware.serial},uuid={hardware.uuid}",
        "-smbios", f"type=2,{maker},product=OC-B500",
        "-smbios", f"type=3,{maker}",
        "-smbios", "type=4,manufacturer=Intel,version=Intel(R) Core(TM) i7 CPU 920",
        "-smbios", f"type=17,{maker}",
    ]  # fmt: skip
