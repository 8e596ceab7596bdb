"""The operating system: distribution, init, time zone, identity."""
from ...model import Os
from .tree import Tree, settings

RELEASE_FILES = (  # of systems older than os-release (2012), with the id that os-release would give
    ("/etc/redhat-release", "rhel"), ("/etc/SuSE-release", "sles"), ("/etc/alpine-release", "alpine"),
    ("/etc/debian_version", "debian"),
)  # fmt: skip


def hostname(tree: Tree) -> str:
    return tree.text("/proc/sys/kernel/hostname") or tree.text("/etc/hostname") or "unnamed"


def system(tree: Tree) -> Os:
    release = settings(tree.lines("/etc/os-release") or tree.lines("/usr/lib/os-release"))
    found = Os(release.get("ID", ""), release.get("VERSION_ID", ""), release.get("PRETTY_NAME", ""))
    if not found.id:
        for path, identity in RELEASE_FILES:
            text = tree.text(path)
            if text:
                line = text.splitlines()[0]
                name = "CentOS" if line.startswith("CentOS") else identity
                version = next((word for word in line.split() if word[:1].isdigit()), "")
                found = Os(name.lower(), version, line if " " in line else "{} {}".format(identity.capitalize(), line))
                break
    return found._replace(
        init=init(tree),
        timezone=timezone(tree),
        machine_id=tree.text("/etc/machine-id") or tree.text("/var/lib/dbus/machine-id"),
    )


def init(tree: Tree) -> str:
    if tree.exists("/run/systemd/system"):  # sd_booted(3)
        return "systemd"
    if tree.exists("/run/openrc"):
        return "openrc"
    if tree.exists("/sbin/initctl") and any(name.endswith(".conf") for name in tree.names("/etc/init")):
        return "upstart"
    if tree.exists("/etc/inittab"):
        return "sysvinit"
    return "systemd" if "systemd" in tree.real("/sbin/init") else "sysvinit"


def timezone(tree: Tree) -> str:
    target = tree.link("/etc/localtime")
    if "zoneinfo/" in target:
        return target.partition("zoneinfo/")[2]
    return tree.text("/etc/timezone") or settings(tree.lines("/etc/sysconfig/clock")).get("ZONE", "")
