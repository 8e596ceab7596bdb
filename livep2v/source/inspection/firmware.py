"""What the machine's firmware says: BIOS or UEFI, Secure Boot, SMBIOS identity, time zone of the hardware clock."""
from ...model import Firmware, Smbios
from .tree import Tree, settings

GLOBAL_VARIABLE = "8be4df61-93ca-11d2-aa0d-00e098032b8c"  # EFI_GLOBAL_VARIABLE, UEFI specification 3.3
HYPERVISORS = (  # sys_vendor or product_name of virtual machines, as systemd's detect-virt knows them
    "qemu", "kvm", "vmware", "virtualbox", "innotek", "xen", "virtual machine", "parallels", "bochs", "bhyve", "openstack",
    "google compute engine", "amazon ec2", "ovirt", "rhev", "nutanix ahv",
)  # fmt: skip
EMPTY = ("to be filled by o.e.m.", "not specified", "default string", "system serial number", "none", "n/a", "0")


def efi_variable(tree: Tree, name: str, guid: str = GLOBAL_VARIABLE) -> bytes:
    """Content of a variable without its 4 bytes of attributes; empty if there is none."""
    data = tree.read("/sys/firmware/efi/efivars/{}-{}".format(name, guid))
    if data:
        return data[4:]
    return tree.read("/sys/firmware/efi/vars/{}-{}/data".format(name, guid))  # kernels before 3.10


def firmware(tree: Tree) -> Firmware:
    return Firmware.UEFI if tree.exists("/sys/firmware/efi") else Firmware.BIOS


def secure_boot(tree: Tree) -> bool:
    return efi_variable(tree, "SecureBoot")[:1] == b"\1"


def smbios(tree: Tree) -> Smbios:
    def field(name: str) -> str:
        value = tree.text("/sys/class/dmi/id/" + name)
        return "" if value.lower() in EMPTY else value

    manufacturer, product = field("sys_vendor"), field("product_name")
    named = any(word in text.lower() for word in HYPERVISORS for text in (manufacturer, product))
    flags = next((line for line in tree.lines("/proc/cpuinfo") if line.startswith("flags")), "")
    return Smbios(
        uuid=field("product_uuid").lower(),
        manufacturer=manufacturer,
        product=product,
        serial=field("product_serial"),
        bios_vendor=field("bios_vendor"),
        is_virtual=named or "hypervisor" in flags.split(),
    )


def clock_utc(tree: Tree) -> bool:
    """Whether the hardware clock runs in UTC: /etc/adjtime (hwclock(8)), else the files of older distributions."""
    lines = tree.lines("/etc/adjtime")
    if len(lines) >= 3:
        return lines[2].strip().upper() != "LOCAL"
    if settings(tree.lines("/etc/default/rcS")).get("UTC", "").lower() == "no":  # Debian up to 7
        return False
    clock = settings(tree.lines("/etc/sysconfig/clock"))  # RHEL up to 5 has UTC=, SLES up to 11 HWCLOCK=
    return clock.get("UTC", "true").lower() not in ("false", "no", "0") and "--localtime" not in clock.get("HWCLOCK", "")
