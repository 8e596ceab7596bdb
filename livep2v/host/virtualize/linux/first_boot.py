"""The first boot: the guest itself says how it came up.

A script, run once, writes a report to /var/log/livep2v-first-boot.log and to the second serial port, where the boot check
listens. Lines: ``LIVEP2V-BEGIN 1``, ``hostname``, ``kernel``, ``root SOURCE``, ``mount SOURCE TARGET FSTYPE``, ``failed UNIT``,
``address INTERFACE ADDRESS/PREFIX``, ``state``, ``LIVEP2V-END``. The unit lies where the distribution's own lie, as old systemd
does not start one that is only in /etc (RHBZ1250955). It is ``Type=simple``: with oneshot the boot would wait for the script
and the script for the boot.
"""

from __future__ import annotations

from pathlib import Path

from ..context import Context

NAME = "first-boot"
CRITICAL = False
WHY = "the first boot reports how the machine came up"
SCRIPT = "/usr/lib/livep2v/first-boot"
UNIT = "livep2v-first-boot.service"
INIT_SCRIPT = "/etc/init.d/livep2v-first-boot"
_SOURCE = Path(__file__).with_name("first-boot.sh")
_UNIT_TEXT = """[Unit]
Description=Report how this machine came up as a virtual machine (livep2v)
ConditionPathExists=!/var/lib/livep2v/first-boot.done

[Service]
Type=simple
ExecStart=/usr/lib/livep2v/first-boot

[Install]
WantedBy=multi-user.target
"""
_INIT_TEXT = """#!/bin/sh
### BEGIN INIT INFO
# Provides:          livep2v-first-boot
# Required-Start:    $all
# Required-Stop:
# Default-Start:     2 3 4 5
# Default-Stop:
# Short-Description: report how this machine came up as a virtual machine
### END INIT INFO
# chkconfig: 2345 99 01
[ "$1" = start ] || exit 0
/usr/lib/livep2v/first-boot </dev/null >/dev/null 2>&1 &
exit 0
"""


def _unit_folder(ctx: Context) -> str:
    for folder in ("/usr/lib/systemd/system", "/lib/systemd/system"):
        if ctx.tree.exists(folder + "/multi-user.target"):
            return folder
    return "/etc/systemd/system"


def needed(ctx: Context) -> str:
    return WHY


def apply(ctx: Context) -> None:
    like = next((path for path in ("/usr/bin/env", "/bin/sh") if ctx.tree.exists(path)), "")  # bin_t: init may run it
    ctx.guest.put(SCRIPT, _SOURCE.read_bytes(), WHY, 0o755, like)
    if ctx.init == "systemd":
        path = f"{_unit_folder(ctx)}/{UNIT}"
        ctx.guest.put(path, _UNIT_TEXT.encode(), WHY)
        ctx.guest.link(f"/etc/systemd/system/multi-user.target.wants/{UNIT}", path, WHY)
        return
    if ctx.tree.exists("/etc/init.d"):
        ctx.guest.put(INIT_SCRIPT, _INIT_TEXT.encode(), WHY, 0o755)
        for level in "235":
            folder = f"/etc/rc{level}.d" if ctx.tree.exists(f"/etc/rc{level}.d") else f"/etc/rc.d/rc{level}.d"
            if ctx.tree.exists(folder):
                ctx.guest.link(f"{folder}/S99livep2v-first-boot", INIT_SCRIPT, WHY)
