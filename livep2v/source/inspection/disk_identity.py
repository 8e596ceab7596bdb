"""What a disk calls itself and how it is attached: model, serial number, WWN, transport."""
from typing import Dict

from .tree import Tree

TRANSPORTS = (  # of names that say it; SCSI disks are told apart by where they hang in /sys/devices
    ("nvme", "nvme"), ("vd", "virtio"), ("xvd", "xen"), ("mmcblk", "mmc"), ("hd", "ide"), ("loop", "loop"), ("nbd", "nbd"),
    ("pmem", "pmem"), ("rbd", "rbd"),
)  # fmt: skip


def udev(tree: Tree, devno: str) -> Dict[str, str]:
    """Properties of a block device from udev's database."""
    found = {}
    for line in tree.lines("/run/udev/data/b" + devno):
        if line.startswith("E:"):
            key, _, value = line[2:].partition("=")
            found[key] = value
    return found


def model(tree: Tree, base: str) -> str:
    name = " ".join(tree.text(base + "/device/model").split()) or tree.text(base + "/device/name")  # the latter: SD cards
    vendor = tree.text(base + "/device/vendor")
    if vendor and vendor != "ATA" and not vendor.startswith("0x") and name:
        return vendor + " " + name
    return name


def serial(tree: Tree, base: str, facts: Dict[str, str]) -> str:
    page = tree.read(base + "/device/vpd_pg80")  # SPC-4 7.8.16 unit serial number: 4 bytes of header, then ASCII
    return (
        facts.get("ID_SCSI_SERIAL", "")
        or facts.get("ID_SERIAL_SHORT", "")
        or tree.text(base + "/device/serial")
        or tree.text(base + "/serial")
        or page[4:].decode("ascii", "replace").strip(" \0")
    )


def wwn(tree: Tree, base: str, facts: Dict[str, str]) -> str:
    known = facts.get("ID_WWN_WITH_EXTENSION") or facts.get("ID_WWN")
    if known:
        return known
    wwid = tree.text(base + "/wwid") or tree.text(base + "/device/wwid")
    if wwid.startswith("naa."):
        return "0x" + wwid[4:]
    return wwid if wwid.startswith("eui.") else ""


def transport(tree: Tree, name: str) -> str:
    for prefix, bus in TRANSPORTS:
        if name.startswith(prefix):
            return bus
    where = tree.real("/sys/block/" + name) + "/"
    for pattern, bus in (("/usb", "usb"), ("/ata", "sata"), ("/session", "iscsi"), ("/rport-", "fc"),
                         ("/end_device-", "sas"), ("/vmbus", "hyperv")):  # fmt: skip
        if pattern in where:
            return bus
    return "scsi"


def request_based(tree: Tree, base: str) -> bool:
    """Whether the driver handles requests and so emits block_rq_* events. Drivers of bios only (multipath NVMe heads, pmem,
    zram) do not: they have neither the ``mq`` folder of blk-mq (kernel 3.13 and newer) nor a choice of schedulers."""
    return tree.exists(base + "/mq") or "[" in tree.text(base + "/queue/scheduler")
