"""Network interfaces keep their names.

Predictable names follow the slot of the card: enp3s0 would become enp0s2 and its address would be lost, the complaint that
converters hear most (virt-v2v#62, forklift#1354). The VM keeps the MAC addresses, so each name is pinned to its own:
by a .link file (systemd.link(5)), which wins over udev rules on RHEL 9 and 10 (MTV-5530), and where there is no systemd by
70-persistent-net.rules. ``Type=ether`` keeps VLANs and bridges, which inherit the MAC, from matching.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable

from ..context import Context
from ..guest import bytes_of

NAME = "nic-names"
CRITICAL = False
WHY = "the interface keeps its name, by its MAC address"
LINKS = "/etc/systemd/network/10-livep2v-*.link"
RULES = "/etc/udev/rules.d/70-persistent-net.rules"
# No name of a file or a shell word can be made of anything else: the record comes from another machine.
_NAME = re.compile(r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}$")
_MAC = re.compile(r"^[0-9a-f]{2}(:[0-9a-f]{2}){5}$")


def pins(ctx: Context) -> list[tuple[str, str]]:
    """(MAC, name) of every card of the VM whose name is known, each MAC and each name once."""
    found: dict[str, str] = {}
    for nic in ctx.plan.vm.nics:
        mac = nic.mac.lower()
        if _MAC.match(mac) and _NAME.match(nic.name) and mac not in found and nic.name not in found.values():
            found[mac] = nic.name
    return sorted(found.items(), key=lambda item: item[1])


def link_files(ctx: Context) -> dict[str, str]:
    """The .link files by path."""
    if ctx.init != "systemd":
        return {}
    return {
        LINKS.replace("*", name): "# The name that this interface had on the physical machine (livep2v)\n"
        f"[Match]\nMACAddress={mac}\nType=ether\n\n[Link]\nName={name}\n"
        for mac, name in pins(ctx)
    }


def stale(ctx: Context, paths: Iterable[str]) -> list[str]:
    """Those of ``paths`` that an earlier conversion made for cards that the machine has no more, or names otherwise now.

    Of an image no card is known: its files stay."""
    current = link_files(ctx)
    return [path for path in paths if ctx.machine.live and fnmatch.fnmatchcase(path, LINKS) and path not in current]


def _rules(ctx: Context, text: str) -> str:
    """The rules with those of our cards made true. Rules bound to a slot or a driver of the old machine are replaced."""
    lines = text.splitlines()
    for mac, name in pins(ctx):
        rule = (
            f'SUBSYSTEM=="net", ACTION=="add", DRIVERS=="?*", ATTR{{address}}=="{mac}", ATTR{{type}}=="1", NAME="{name}"'
        )
        kept = [line for line in lines if not _about(line, mac, name)]
        lines = lines if any(_good(line, mac, name) for line in lines) else [*kept, rule]
    return "\n".join(lines) + "\n" if lines else text


def _about(line: str, mac: str, name: str) -> bool:
    """A rule for this card, or one that gives its name to another."""
    if line.lstrip().startswith("#"):
        return False
    return mac in line.lower() or re.search(rf'NAME="{re.escape(name)}"', line) is not None


def _good(line: str, mac: str, name: str) -> bool:
    bound = re.search(r'KERNELS==|DRIVERS=="(?!\?\*)|ID==', line)
    return _about(line, mac, name) and mac in line.lower() and f'NAME="{name}"' in line and not bound


def needed(ctx: Context) -> str:
    return WHY if pins(ctx) or stale(ctx, ctx.guest.glob(LINKS)) else ""


def apply(ctx: Context) -> None:
    for path in stale(ctx, ctx.guest.glob(LINKS)):
        ctx.guest.remove(path, "an earlier conversion made it, for a card that is not there or has another name now")
    for path, text in link_files(ctx).items():
        ctx.guest.put(path, text.encode(), WHY)
    old = ctx.guest.text(RULES)
    if old or ctx.init != "systemd":
        new = _rules(ctx, old)
        if new != old:
            ctx.guest.put(RULES, bytes_of(new), WHY)
