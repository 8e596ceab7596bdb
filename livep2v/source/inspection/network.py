"""Physical network interfaces: permanent addresses, drivers, who manages them."""
import array
import fcntl
import os
import socket
import struct
from typing import Dict, List, Tuple

from ...model import Nic
from .tree import Tree

ARPHRD_ETHER = "1"  # linux/if_arp.h
SIOCETHTOOL = 0x8946  # linux/sockios.h
ETHTOOL_GPERMADDR = 0x20  # linux/ethtool.h: struct ethtool_perm_addr {u32 cmd; u32 size; u8 data[]}
RTM_NEWADDR, RTM_GETADDR = 20, 22  # linux/rtnetlink.h
NLM_F_REQUEST_DUMP = 0x301
NLMSG_ERROR, NLMSG_DONE = 2, 3
IFA_ADDRESS, IFA_LOCAL = 1, 2
RT_SCOPE_LINK = 253
NETLINK_TIMEOUT = 5.0  # s; the kernel answers at once


def nics(tree: Tree) -> Tuple[Nic, ...]:
    """Ethernet interfaces with a device behind them; no virtual functions, those have no place in a VM."""
    addresses = interface_addresses() if tree.live else {}
    bonded = _bond_addresses(tree)
    found = []
    for name in tree.names("/sys/class/net"):
        base = "/sys/class/net/" + name
        if not tree.exists(base + "/device") or tree.text(base + "/type") != ARPHRD_ETHER:
            continue
        if tree.exists(base + "/device/physfn"):
            continue
        current = tree.text(base + "/address").lower()
        permanent = permanent_address(name) if tree.live else ""
        master = os.path.basename(tree.link(base + "/master"))
        found.append(
            Nic(
                name=name,
                mac=permanent or bonded.get(name) or current,
                current_mac=current,
                driver=os.path.basename(tree.real(base + "/device/driver")) if tree.exists(base + "/device/driver") else "",
                # a slave of a bond or bridge has none itself: those of its master are what it is reached by
                addresses=tuple(addresses.get(name) or addresses.get(master) or []),
                master=master,
                up=tree.text(base + "/operstate") in ("up", "unknown") and tree.number(base + "/flags") & 1 == 1,
                managed_by=managed_by(tree, master or name),
            )
        )
    return tuple(found)


def permanent_address(name: str) -> str:
    """The MAC address in the hardware, which a bond or an administrator may have hidden; empty if the driver has none."""
    data = array.array("B", struct.pack("II32x", ETHTOOL_GPERMADDR, 32))
    address, _ = data.buffer_info()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        try:
            fcntl.ioctl(control.fileno(), SIOCETHTOOL, struct.pack("16sP16x", name.encode(), address))
        except OSError:
            return ""
    size = struct.unpack_from("I", data, 4)[0]
    mac = data.tobytes()[8:14]
    return ":".join("{:02x}".format(byte) for byte in bytearray(mac)) if size == 6 and any(bytearray(mac)) else ""


def _bond_addresses(tree: Tree) -> Dict[str, str]:
    """Permanent MAC of each slave as the bonding driver remembers it."""
    found = {}
    for bond in tree.names("/proc/net/bonding"):
        slave = ""
        for line in tree.lines("/proc/net/bonding/" + bond):
            key, _, value = line.partition(": ")
            if key == "Slave Interface":
                slave = value.strip()
            elif key == "Permanent HW addr" and slave:
                found[slave] = value.strip().lower()
    return found


def interface_addresses() -> Dict[str, List[str]]:
    """Interface -> "192.0.2.7/24" ...: all IPv4 and IPv6 addresses but link-local ones (rtnetlink(7))."""
    found: Dict[str, List[str]] = {}
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as link:
        link.settimeout(NETLINK_TIMEOUT)
        link.send(struct.pack("=IHHIIBBBBI", 24, RTM_GETADDR, NLM_F_REQUEST_DUMP, 1, 0, socket.AF_UNSPEC, 0, 0, 0, 0))
        while True:
            data = link.recv(65536)
            at = 0
            while at + 16 <= len(data):
                length, kind = struct.unpack_from("=IH", data, at)
                if kind in (NLMSG_DONE, NLMSG_ERROR) or length < 16:
                    return found
                if kind == RTM_NEWADDR:
                    _address(data[at + 16:at + length], found)
                at += (length + 3) & ~3


def _address(message: bytes, found: Dict[str, List[str]]) -> None:
    family, prefix, _, scope, index = struct.unpack_from("=BBBBI", message)
    values = {}
    at = 8
    while at + 4 <= len(message):
        length, kind = struct.unpack_from("=HH", message, at)
        if length < 4:
            break
        values[kind] = message[at + 4:at + length]
        at += (length + 3) & ~3
    raw = values.get(IFA_LOCAL) or values.get(IFA_ADDRESS)  # of a point-to-point link IFA_ADDRESS is the other end
    if scope == RT_SCOPE_LINK or raw is None or len(raw) != {socket.AF_INET: 4, socket.AF_INET6: 16}.get(family):
        return
    try:
        name = socket.if_indextoname(index)
    except OSError:
        return
    found.setdefault(name, []).append("{}/{}".format(socket.inet_ntop(family, raw), prefix))


def managed_by(tree: Tree, name: str) -> str:
    """Which of the network services owns the interface; empty if none says so."""
    if any(
        name in tree.read("/etc/netplan/" + file).decode("utf-8", "replace")
        for file in tree.names("/etc/netplan")
        if file.endswith(".yaml")
    ):
        return "netplan"
    interfaces = ["/etc/network/interfaces"]
    interfaces += ["/etc/network/interfaces.d/" + file for file in tree.names("/etc/network/interfaces.d")]
    if any(line.split()[:2] == ["iface", name] for file in interfaces for line in tree.lines(file)):
        return "ifupdown"
    index = tree.text("/sys/class/net/{}/ifindex".format(name))
    manager = tree.exists("/run/NetworkManager") or tree.exists("/etc/NetworkManager/NetworkManager.conf")
    if tree.exists("/etc/sysconfig/network-scripts/ifcfg-" + name):
        return "NetworkManager" if manager else "network-scripts"
    if tree.exists("/etc/sysconfig/network/ifcfg-" + name):
        return "wicked"
    if "ADMIN_STATE=configured" in tree.lines("/run/systemd/netif/links/" + index):
        return "networkd"
    connections = "/etc/NetworkManager/system-connections"
    named = any(
        "interface-name=" + name in tree.lines("{}/{}".format(connections, file)) for file in tree.names(connections)
    )
    if manager and (named or "managed=true" in tree.lines("/run/NetworkManager/devices/" + index)):
        return "NetworkManager"
    return ""
