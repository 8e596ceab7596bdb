"""Kernel command lines, edited token by token: nothing is generated, so nothing that an administrator wrote is lost."""

from __future__ import annotations

import re
from collections.abc import Callable

from .devices import Devices

SERIAL = "console=ttyS0,115200"
SCREEN = "console=tty0"
_TOKEN = re.compile(r'((?:"[^"]*"|[^\s"])+)')


def device_tokens(text: str, devices: Devices, initramfs: bool = True) -> str:
    """``root=`` and ``resume=`` by names that the VM knows too. ``initramfs``: something there resolves UUID=; the kernel alone
    knows only PARTUUID=. A ``resume=`` whose device is gone is dropped: waiting for it costs 30 to 90 s at each boot."""

    def one(token: str) -> str | None:
        key, equals, value = token.partition("=")
        if key not in ("root", "resume") or not equals:
            return token
        if key == "resume" and devices.absent(value):
            return None
        if not devices.volatile(value):
            return token
        stable = devices.stable(value, kernel=not initramfs)
        return f"{key}={stable}" if stable else token

    return each_token(text, one)


def console_tokens(text: str) -> str:
    """Add a serial console to a command line (the VM's first serial port is its log), keeping the screen.

    Serial-over-LAN consoles of real machines are ttyS1 or ttyS2; the VM's is ttyS0. The last console= is /dev/console, so the
    serial one comes last, as in Linux Documentation/admin-guide/serial-console.rst."""
    consoles = re.findall(r"(?:^|\s)console=(\S+)", text)
    if any(re.match(r"ttyS0\b", item) for item in consoles):
        return text
    if any(re.match(r"ttyS\d", item) for item in consoles):
        replaced = each_token(text, lambda token: re.sub(r"^console=ttyS\d+", "console=ttyS0", token))
        words = replaced.split()
        once = {word for word in words if words.count(word) > 1 and word.startswith("console=ttyS0")}
        for word in once:
            first = replaced.index(word) + len(word)
            replaced = replaced[:first] + replaced[first:].replace(" " + word, "")
        return replaced
    added = SERIAL if consoles else f"{SCREEN} {SERIAL}"
    body = text.rstrip()
    return (f"{body} {added}" if body else added) + text[len(body) :]


def each_token(text: str, edit: Callable[[str], str | None]) -> str:
    """``edit`` each token; None drops it with the space before it. All other space stays."""
    parts = _TOKEN.split(text)  # even: space, odd: token
    out: list[str] = []
    for index, part in enumerate(parts):
        if index % 2 == 0:
            out.append(part)
            continue
        new = edit(part)
        if new is None:
            if out and out[-1].isspace():
                out.pop()
            continue
        out.append(new)
    return "".join(out)
