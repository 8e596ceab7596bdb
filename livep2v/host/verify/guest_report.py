"""What the first-boot unit of the guest reports on its second serial port.

One statement a line, between ``LIVEP2V-BEGIN 1`` and ``LIVEP2V-END``: ``hostname X``, ``kernel X``, ``root SOURCE``,
``mount SOURCE TARGET FSTYPE``, ``failed UNIT``, ``address IFNAME ADDRESS/PREFIX``, ``state SYSTEM-STATE``. Other lines, and
whatever a getty or a modem daemon says on the port, are passed over. The guest is not trusted: lengths and counts are bounded,
and only printable characters are kept.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

BEGIN = "LIVEP2V-BEGIN 1"
END = "LIVEP2V-END"
MAX_BYTES = 1 << 20  # of the port's output that are looked at
MAX_ITEMS = 1000  # mounts, units or addresses that are kept
MAX_LENGTH = 500  # characters of a line that are kept


class GuestReport(NamedTuple):
    complete: bool
    hostname: str = ""
    kernel: str = ""
    root: str = ""
    mounts: tuple[str, ...] = ()
    failed_units: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    state: str = ""


def printable(text: str, limit: int = MAX_LENGTH) -> str:
    """``text`` on one line without control characters: what a guest says must not drive the user's terminal."""
    return "".join(c if c.isprintable() else " " for c in text[:limit]).strip()


def read_report(path: Path) -> GuestReport | None:
    """The report in the port's output at ``path``; None before it begins."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES)
    except FileNotFoundError:
        return None
    return parse(data.decode(errors="replace"))


def parse(text: str) -> GuestReport | None:
    """The last report in ``text`` (a guest that restarted reports again); None without one."""
    lines = [printable(line) for line in text.replace("\r", "\n").split("\n")]
    if BEGIN not in lines:
        return None
    start = len(lines) - lines[::-1].index(BEGIN)
    single = {"hostname": "", "kernel": "", "root": "", "state": ""}
    several: dict[str, list[str]] = {"mount": [], "failed": [], "address": []}
    for line in lines[start:]:
        if line == END:
            return _report(single, several, True)
        word, _, rest = line.partition(" ")
        if word in single:
            single[word] = rest.strip()
        elif word in several and rest.strip() and len(several[word]) < MAX_ITEMS:
            several[word].append(" ".join(rest.split()))
    return _report(single, several, False)


def _report(single: dict[str, str], several: dict[str, list[str]], complete: bool) -> GuestReport:
    return GuestReport(
        complete=complete,
        hostname=single["hostname"],
        kernel=single["kernel"],
        root=single["root"],
        mounts=tuple(several["mount"]),
        failed_units=tuple(several["failed"]),
        addresses=tuple(several["address"]),
        state=single["state"],
    )
