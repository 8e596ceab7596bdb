"""What can be done on this machine, found out without doing it."""
import os
import platform
import pwd
from typing import Tuple

from ...formats import zstd
from ...model import Abilities
from .tree import Tree

TRACEFS_PLACES = ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")
CAP_SYS_ADMIN = 1 << 21  # linux/capability.h
EVENT = "events/block/block_rq_complete/format"


def abilities(tree: Tree) -> Abilities:
    uid = os.geteuid()
    try:
        user = pwd.getpwuid(uid).pw_name
    except KeyError:
        user = str(uid)
    lockdown = tree.text("/sys/kernel/security/lockdown")  # "none [integrity] confidentiality"
    place, reason = tracefs(tree, uid == 0, _chosen(lockdown))
    return Abilities(
        user=user,
        is_root=uid == 0,
        python=platform.python_version(),
        tracefs=place,
        tracefs_reason=reason,
        zstd=zstd.available(),
        lockdown=_chosen(lockdown),
    )


def _chosen(text: str) -> str:
    return text.partition("[")[2].partition("]")[0]


def _may_administer(tree: Tree) -> bool:
    """Tracing, mounting and FIFREEZE all need CAP_SYS_ADMIN, and not every root has it."""
    for line in tree.text("/proc/self/status").splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) & CAP_SYS_ADMIN)
    return True


def tracefs(tree: Tree, is_root: bool, lockdown: str) -> Tuple[str, str]:
    """Where block events can be read: a folder, "mountable" for our own mount namespace, or "" and why not."""
    if is_root and not _may_administer(tree):
        return "", "root lacks CAP_SYS_ADMIN here, as in a container; log in to the machine itself"
    for place in TRACEFS_PLACES:
        if tree.exists(place + "/" + EVENT):
            return place, ""
    if not is_root:
        return "", "only root may look into it"
    if lockdown == "confidentiality":
        return "", "kernel lockdown is 'confidentiality', which closes tracefs; boot without lockdown=confidentiality"
    for place in TRACEFS_PLACES:
        if tree.exists(place + "/events"):
            return "", "{} has no {} (CONFIG_BLK_DEV_IO_TRACE is off in this kernel)".format(place, EVENT)
    if "tracefs" in tree.text("/proc/filesystems").split():
        return "mountable", ""
    if "debugfs" in tree.text("/proc/filesystems").split():  # kernels before 4.1 have it inside debugfs only
        return "", "it is inside debugfs, which is not mounted; mount -t debugfs debugfs /sys/kernel/debug"
    return "", "this kernel has no tracefs (CONFIG_FTRACE is off)"
