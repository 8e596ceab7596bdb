"""Times, sizes and rates as people write them on the command line."""

from __future__ import annotations

import re

from ..errors import UsageError

_SECONDS = {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_POWER = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_DURATION = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*([a-z]*)", re.I)
_SIZE = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*([kmgt]?)(i?b)?(?:/s)?", re.I)


def seconds(text: str, option: str) -> float:
    """ "1s", "500ms", "1.5", "2m" in seconds, more than 0. Raises UsageError naming ``option``."""
    match = _DURATION.fullmatch(text.strip())
    unit = _SECONDS.get(match[2].lower()) if match else None
    if match is None or unit is None or float(match[1]) <= 0:
        raise UsageError(reason=f"{option} {text!r} is no time; write for instance 500ms, 1s or 2m")
    return float(match[1]) * unit


def rate(text: str, option: str) -> int:
    """ "50M" in bytes per second, at least 1. K, M, G and T are powers of 1024, as for rsync and qemu-img; with "B" ("50MB")
    powers of 1000. Raises UsageError naming ``option``."""
    match = _SIZE.fullmatch(text.strip())
    value = 0
    if match:
        base = 1000 if (match[3] or "").lower() == "b" and match[2] else 1024
        value = int(float(match[1]) * base ** _POWER[match[2].lower()])
    if value < 1:
        raise UsageError(reason=f"{option} {text!r} is no rate; write bytes per second, for instance 50M or 800K")
    return value


def clock(duration: float) -> str:
    """Seconds for people: "8 s", "2 min 5 s", "1 h 4 min"."""
    whole = round(duration)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
