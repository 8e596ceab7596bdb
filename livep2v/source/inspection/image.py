"""A disk image, or a block device that nobody uses: what can be told from its content alone."""
import os
import stat
from typing import Callable, List, Optional, Tuple

from ...errors import FormatError, Livep2vError, SourceReadError, UsageError
from ...formats import vhd
from ...model import Cpu, Disk, Firmware, Machine
from ..diskio import DiskReader
from . import blocks, disks, mounts, volumes
from .abilities import abilities
from .tree import Tree

FOREIGN = (  # images that another tool has to turn into raw first: (offset, magic, name)
    (0, b"QFI\xfb", "qcow2"), (0, b"KDMV", "vmdk"), (0, b"vhdxfile", "vhdx"), (0x40, b"\x7f\x10\xda\xbe", "vdi"),
)  # fmt: skip
ESP_TYPE = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"  # UEFI specification 5.3.3
BIOS_BOOT_TYPE = "21686148-6449-6e6f-744e-656564454649"  # GRUB manual, "BIOS installation"
DEFAULT_CPUS, DEFAULT_MEMORY = 2, 2 << 30  # an image does not say what its machine had


def inspect_image(path: str) -> Machine:
    """The machine in a raw or VHD image or an unused block device: disks, tables, volumes; the operating system is read later,
    where its files can be. ``mounts``, ``swaps`` and ``holders`` are those of this machine that use it now: none should.

    Raises UsageError for a path that is neither, SourceReadError where it cannot be read, FormatError for a damaged VHD."""
    tree = Tree("/")
    warnings: List[str] = []
    path = os.path.realpath(path)
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise UsageError(reason="{}: {}".format(path, error.strerror))
    if stat.S_ISBLK(mode):
        disk = _device(tree, path, warnings.append)
        users = {blocks.name_of(tree, path)}
    elif stat.S_ISREG(mode):
        disk = _file(path, warnings.append)
        loops = [name for name in tree.names("/sys/block") if name.startswith("loop")]
        users = {name for name in loops if mounts.backing_file(tree, name) == path}
    else:
        raise UsageError(reason="{}: neither a disk image nor a block device".format(path))
    firmware = guess_firmware(disk)
    warnings.append(
        "an image does not say which processors and how much memory its machine had: the VM gets {} and {} MiB".format(
            DEFAULT_CPUS, DEFAULT_MEMORY >> 20
        )
    )
    disk_names = {name.replace("!", "/") for name in users}
    inside = {name for user in users for name in [user] + tree.names("/sys/block/" + user)}
    return Machine(
        hostname=os.path.basename(path).rpartition(".")[0] or os.path.basename(path),
        live=False,
        firmware=firmware,
        cpu=Cpu(os.uname().machine, "", "", DEFAULT_CPUS, 1, DEFAULT_CPUS, 1),
        memory=DEFAULT_MEMORY,
        disks=(disk,),
        mounts=tuple(mount for mount in mounts.mounts(tree) if disk_names & set(mount.disks)),
        swaps=tuple(swap for swap in mounts.swaps(tree) if blocks.name_of(tree, swap.path) in inside),
        holders=tuple(holder for holder in volumes.holders(tree) if inside & set(holder.slaves)),
        abilities=abilities(tree),
        warnings=tuple(warnings),
    )


def guess_firmware(disk: Disk) -> Firmware:
    """UEFI if there is an EFI system partition, unless boot code or a BIOS boot partition says that a BIOS started it."""
    types = {part.type.lower() for part in disk.partitions}
    efi = ESP_TYPE in types or "0xef" in types
    return Firmware.UEFI if efi and BIOS_BOOT_TYPE not in types and not disk.boot_code else Firmware.BIOS


def _not_mounted(_path: str) -> Optional[int]:
    return None


def _device(tree: Tree, path: str, warn: Callable[[str], None]) -> Disk:
    name = blocks.name_of(tree, path)
    linked = disks.links(tree)
    if name in tree.names("/sys/block"):
        return disks.disk(tree, name, linked, warn, _not_mounted)
    raise UsageError(
        reason="{}: a partition is no disk and would not boot; give the whole disk, {}".format(
            path, blocks.path_of(tree, blocks.disk_of(tree, name)) if name else "that it is on"
        )
    )


def _file(path: str, warn: Callable[[str], None]) -> Disk:
    size = os.stat(path).st_size
    name = os.path.basename(path).rpartition(".")[0] or os.path.basename(path)
    record = Disk(name=name, path=path, size=size, sector_size=512, transport="file", format="raw")
    with DiskReader(path, path, size) as reader:
        for offset, magic, kind in FOREIGN:
            if size >= offset + len(magic) and reader.read(offset, len(magic)) == magic:
                raise UsageError(
                    reason="{0}: a {1} image; make a raw one first: qemu-img convert -O raw {0} {0}.raw".format(path, kind)
                )
        is_vhd, at = _vhd_footer(reader.read, size)
    if not is_vhd:
        with DiskReader(path, path, size) as reader:
            return disks.with_content(record, reader.read, [], {}, warn, _not_mounted)
    try:
        with open(path, "rb") as file:
            image = vhd.VhdReader(file)
            record = record._replace(size=image.size, format="vhd")
            return disks.with_content(record, image.read, [], {}, warn, _not_mounted)
    except FormatError:
        raise
    except OSError as error:
        raise SourceReadError(disk=path, offset=at, length=512, reason=error.strerror or str(error))


def _vhd_footer(read: Callable[[int, int], bytes], size: int) -> Tuple[bool, int]:
    """A VHD has its cookie in the last 512 bytes, a dynamic one also in the first."""
    for at in (size - 512, 0):
        try:
            if at >= 0 and read(at, 8) == b"conectix":
                return True, at
        except Livep2vError:
            pass
    return False, 0
