"""The boot loader: which one, its configuration, and the firmware's own boot entries."""
import struct
import uuid
from typing import List, Tuple

from ...model import BootLoader
from .firmware import efi_variable
from .tree import Tree

LOADER_GUID = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"  # variables of the Boot Loader Interface, systemd.io/BOOT_LOADER_INTERFACE
CONFIGS = (  # first match wins; a RHEL /boot/loader holds entries of GRUB, so systemd-boot is told by loader.conf
    ("grub2", ("/boot/grub2/grub.cfg", "/boot/grub/grub.cfg")),
    ("grub-legacy", ("/boot/grub/menu.lst", "/boot/grub/grub.conf")),
    ("systemd-boot", ("/efi/loader/loader.conf", "/boot/efi/loader/loader.conf", "/boot/loader/loader.conf")),
    ("extlinux", ("/boot/extlinux.conf", "/boot/extlinux/extlinux.conf", "/boot/syslinux/syslinux.cfg")),
    ("lilo", ("/etc/lilo.conf",)),
)
LOAD_OPTION_ACTIVE = 1  # UEFI specification 3.1.3
MEDIA_DEVICE_PATH, HARD_DRIVE, FILE_PATH, END = 4, 1, 4, 0x7F  # types and sub-types of device path nodes, 10.3


def boot_loader(tree: Tree) -> BootLoader:
    entries = efi_entries(tree)
    stated = efi_variable(tree, "LoaderInfo", LOADER_GUID).decode("utf-16-le", "replace").lower()
    for kind, candidates in CONFIGS:
        config = tree.first(list(candidates))
        if kind == "grub2" and not config:
            config = _grub_on_esp(tree)
        if config and not (stated.startswith("systemd-boot") and kind != "systemd-boot"):
            return BootLoader(kind, config, entries)
    return BootLoader("unknown", "", entries)


def _grub_on_esp(tree: Tree) -> str:
    """RHEL 7 and 8 keep the only grub.cfg of a UEFI machine in its vendor folder."""
    return tree.first(["/boot/efi/EFI/{}/grub.cfg".format(name) for name in tree.names("/boot/efi/EFI")])


def efi_entries(tree: Tree) -> Tuple[str, ...]:
    """``Boot0001* debian HD(1,GPT,...)/File(\\EFI\\debian\\shimx64.efi)``, in boot order; "*" marks the active ones."""
    order = efi_variable(tree, "BootOrder")
    found = []
    for (number,) in struct.iter_unpack("<H", order[:len(order) & ~1]):
        data = efi_variable(tree, "Boot{:04X}".format(number))
        if len(data) >= 8:
            found.append("Boot{:04X}{}".format(number, load_option(data)))
    return tuple(found)


def load_option(data: bytes) -> str:
    """EFI_LOAD_OPTION: u32 attributes, u16 length of the device path, description in UTF-16 up to NUL, device path."""
    attributes, length = struct.unpack_from("<IH", data)
    end = 6
    while end + 2 <= len(data) and data[end:end + 2] != b"\0\0":
        end += 2
    description = data[6:end].decode("utf-16-le", "replace")
    path = "/".join(_nodes(data[end + 2:end + 2 + length]))
    return "{} {} {}".format("*" if attributes & LOAD_OPTION_ACTIVE else "", description, path).rstrip()


def _nodes(path: bytes) -> List[str]:
    found = []
    at = 0
    while at + 4 <= len(path):
        kind, sub, length = struct.unpack_from("<BBH", path, at)
        if length < 4 or kind == END:
            break
        body = path[at + 4:at + length]
        if (kind, sub) == (MEDIA_DEVICE_PATH, HARD_DRIVE) and len(body) >= 38:
            number, _, _ = struct.unpack_from("<IQQ", body)
            found.append("HD({},{},{})".format(
                number, {1: "MBR", 2: "GPT"}.get(body[36], body[36]), _signature(body[20:36], body[37])
            ))  # fmt: skip
        elif (kind, sub) == (MEDIA_DEVICE_PATH, FILE_PATH):
            found.append("File({})".format(body.decode("utf-16-le", "replace").rstrip("\0")))
        at += length
    return found


def _signature(raw: bytes, kind: int) -> str:
    return str(uuid.UUID(bytes_le=raw)) if kind == 2 else "0x{:08x}".format(struct.unpack_from("<I", raw)[0])
