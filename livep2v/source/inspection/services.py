"""Services that run or start at boot, and the applications whose data must be consistent."""
import os
import re
import subprocess
from typing import Dict, Set, Tuple

from ...hardware_services import reason
from ...model import Service, Writer
from .tree import Tree

SYSTEMCTL_TIMEOUT = 10.0  # s; it answers within 0.1 s unless PID 1 hangs
SEARCH = "/usr/sbin:/usr/bin:/sbin:/bin"
WAL = "crash-safe: its log and its data share the instant, so it starts as after a power cut and loses nothing acknowledged"
WRITERS = (  # (names of the process, name, what makes the copy good)
    (("postgres", "postmaster"), "postgresql", WAL),
    (("mysqld", "mariadbd"), "mysql", WAL + " (InnoDB; MyISAM tables may need REPAIR TABLE)"),
    (("mongod",), "mongodb", "crash-safe: its journal and its data share the instant (WiredTiger)"),
    (
        ("redis-server", "valkey-server"),
        "redis",
        "the copy holds what it last wrote to disk: with appendonly at most 1 s is missing, else all since the last save; "
        "run BGSAVE shortly before",
    ),
    (("oracle", "tnslsnr"), "oracle", WAL + "; with ASM disks use RMAN instead"),
    (("slapd", "ns-slapd"), "ldap", "crash-safe: LMDB or the database's log share the instant"),
    (("etcd",), "etcd", WAL),
    (("influxd",), "influxdb", WAL),
    (("beam.smp",), "erlang", "crash-safe as far as the application syncs (RabbitMQ: durable queues with confirms)"),
)


def services(tree: Tree, init: str) -> Tuple[Service, ...]:
    """Active, failed or enabled services, sorted by name."""
    found: Dict[str, Service] = {}
    if init == "systemd":
        enabled = _enabled_units(tree)
        for name, state in _unit_states(tree).items():
            if state in ("active", "failed", "activating", "reloading") or name in enabled:
                found[name] = Service(name, state, name in enabled)
    else:
        enabled = _boot_scripts(tree)
    for name in enabled - set(found):
        if not name.endswith("@.service"):  # a template is not a service
            found[name] = Service(name, "" if init != "systemd" else "inactive", True)
    return tuple(found[name]._replace(hardware_bound=reason(name)) for name in sorted(found))


def _unit_states(tree: Tree) -> Dict[str, str]:
    """Unit -> "active", "inactive", "failed" ...; empty where systemctl is not there or does not answer."""
    if not tree.live:
        return {}
    argv = ["systemctl", "list-units", "--type=service", "--all", "--full", "--no-legend", "--no-pager"]
    try:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env={"PATH": SEARCH, "LC_ALL": "C"},
        )  # fmt: skip
    except OSError:
        return {}
    try:
        out, _ = process.communicate(timeout=SYSTEMCTL_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return {}
    found = {}
    for line in out.decode("utf-8", "replace").splitlines():
        words = re.sub(r"^[^A-Za-z0-9_-]+", "", line).split()  # UNIT LOAD ACTIVE SUB ...; a dot in front marks failed ones
        if len(words) >= 3 and words[0].endswith(".service"):
            found[words[0]] = words[2]
    return found


def _enabled_units(tree: Tree) -> Set[str]:
    """Enabled units by the links that ``systemctl enable`` makes: WantedBy=, RequiredBy= and Alias=. (``systemctl
    list-unit-files`` says the same, but reads every unit for it: 0.3 s here, seconds on an old machine.)"""
    base = "/etc/systemd/system"
    found: Set[str] = set()
    for name in tree.names(base):
        if name.endswith((".wants", ".requires", ".upholds")):
            found.update(unit for unit in tree.names(base + "/" + name) if unit.endswith(".service"))
        elif name.endswith(".service"):
            target = tree.link(base + "/" + name).rpartition("/")[2]
            if target.endswith(".service"):  # not /dev/null, which masks
                found.add(target)
    return found


def _boot_scripts(tree: Tree) -> Set[str]:
    """Names started at boot by SysV rc folders, OpenRC runlevels or upstart jobs."""
    found: Set[str] = set()
    for level in ("2", "3", "5", "S"):
        for folder in ("/etc/rc{}.d".format(level), "/etc/rc.d/rc{}.d".format(level), "/etc/init.d/rc{}.d".format(level)):
            found.update(name[3:] for name in tree.names(folder) if re.match(r"S\d\d.", name))
    for runlevel in tree.names("/etc/runlevels"):
        found.update(tree.names("/etc/runlevels/" + runlevel))
    for job in tree.names("/etc/init"):
        if job.endswith(".conf") and any(line.startswith("start on") for line in tree.lines("/etc/init/" + job)):
            found.add(job[:-len(".conf")])
    return found


def writers(tree: Tree) -> Tuple[Writer, ...]:
    """Databases that run now, found by process name. ``detail``: the program and its data folder as its command line says."""
    found: Dict[str, Writer] = {}
    for pid in tree.names("/proc"):
        if not pid.isdigit():
            continue
        command = tree.text("/proc/{}/comm".format(pid))
        for commands, name, how in WRITERS:
            oracle = name == "oracle" and command.startswith("ora_pmon_")
            if (command in commands or oracle) and name not in found:
                found[name] = Writer(name, _data_folder(tree, pid) or command, how)
    return tuple(found[name] for name in sorted(found))


def _data_folder(tree: Tree, pid: str) -> str:
    words = tree.read("/proc/{}/cmdline".format(pid)).decode("utf-8", "replace").split("\0")
    for index, word in enumerate(words):
        for option in ("--datadir=", "--dbpath=", "--data-dir=", "-D"):
            if word.startswith(option):
                value = word[len(option):] or (words[index + 1] if index + 1 < len(words) else "")
                return "{} with data in {}".format(os.path.basename(words[0]), value) if value else ""
    return ""
