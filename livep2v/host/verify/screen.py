"""What is on the screen of a running guest: as text, and as a picture."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

from ...errors import FormatError, HostError
from ..qmp import Qmp, QmpError

TEXT_BUFFER = 0xB8000  # VGA text mode: 80 x 25 cells, a character of code page 437 and its colour
COLUMNS, ROWS = 80, 25
MAX_PIXELS = 64 << 20


def text(qmp: Qmp, scratch: Path) -> str:
    """The 25 lines of a VGA text screen; empty when the guest shows something else. ``scratch``: a file qemu may write."""
    try:
        qmp.execute("pmemsave", val=TEXT_BUFFER, size=COLUMNS * ROWS * 2, filename=str(scratch))
        cells = scratch.read_bytes()[::2]
    except (HostError, OSError):
        return ""
    # In graphics mode the same bytes are pixels or nothing.
    if sum(0x20 <= byte < 0x7F or byte == 0 for byte in cells) < len(cells) * 9 // 10:
        return ""
    shown = cells.replace(b"\0", b" ").decode("cp437")
    lines = (shown[start : start + COLUMNS].rstrip() for start in range(0, len(shown), COLUMNS))
    return "\n".join(lines).strip("\n")


def picture(qmp: Qmp, path: Path) -> bool:
    """Write the screen to ``path`` as PNG. False when no picture can be had: it is no part of the verdict."""
    try:
        qmp.execute("screendump", filename=str(path), format="png")
        return True
    except QmpError:  # qemu before 7.1, or built without libpng
        pass
    ppm = path.with_suffix(".ppm")
    try:
        qmp.execute("screendump", filename=str(ppm))
        path.write_bytes(png(ppm.read_bytes()))
        return True
    except (HostError, FormatError, OSError):
        return False
    finally:
        ppm.unlink(missing_ok=True)


def png(ppm: bytes) -> bytes:
    """A PNG (https://www.w3.org/TR/png/, 8-bit RGB, no filter) of a binary PPM (P6, 255 levels). Raises FormatError."""
    fields = ppm.split(maxsplit=4)
    if len(fields) < 4 or fields[0] != b"P6" or not all(field.isdigit() for field in fields[1:4]) or int(fields[3]) != 255:
        raise FormatError(what="PPM picture", offset=0, reason=f"header {ppm[:16]!r} is not P6 with 255 levels")
    width, height = int(fields[1]), int(fields[2])
    body = sum(len(field) for field in fields[:4]) + 4  # each field is followed by one white space as qemu writes it
    stride = width * 3
    if not 0 < width * height <= MAX_PIXELS or len(ppm) < body + stride * height:
        raise FormatError(what="PPM picture", offset=body, reason=f"{len(ppm) - body} bytes for {width} x {height} pixels")
    rows = b"".join(b"\0" + ppm[at : at + stride] for at in range(body, body + stride * height, stride))
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", zlib.compress(rows, 6)) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
