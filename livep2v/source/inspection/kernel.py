"""The running kernel: its image, its initramfs, and whether either knows virtio."""
import mmap
import re
from typing import Callable, List, Set

from ...formats import initramfs, kmod
from ...model import Initramfs, Kernel
from .tree import Tree

VIRTIO = {"virtio_blk", "virtio_pci"}
MAX_INDEX = 16 << 20  # bytes of modules.dep; 0.6 MiB in Debian 12
MAX_INITRAMFS = 1 << 30  # bytes of the file


def kernel(tree: Tree, machine_id: str, warn: Callable[[str], None]) -> Kernel:
    release = tree.text("/proc/sys/kernel/osrelease")
    cmdline = tree.text("/proc/cmdline")
    image = kernel_image(tree, release, cmdline)
    folder = "/lib/modules/" + release
    builtin = kmod.parse_builtin(tree.read(folder + "/modules.builtin", MAX_INDEX).decode("utf-8", "replace"))
    modules = set(kmod.parse_dep(tree.read(folder + "/modules.dep", MAX_INDEX).decode("utf-8", "replace")))
    return Kernel(
        release=release,
        cmdline=cmdline,
        image=image,
        initramfs=read_initramfs(tree, initramfs_path(tree, release, cmdline, image, machine_id), builtin, warn),
        virtio_available=VIRTIO.issubset(modules | builtin | _registered(tree)),
    )


def _registered(tree: Tree) -> Set[str]:
    """Drivers that the running kernel has now: a kernel without module folder may have them built in."""
    found = {name for bus in ("virtio", "pci") for name in tree.names("/sys/bus/{}/drivers".format(bus))}
    return {name.replace("-", "_") for name in found if name.startswith("virtio")}


def _boot_path(path: str) -> List[str]:
    """Where a path of a boot loader can be: it may be relative to /boot or to the EFI partition, with a device in front."""
    path = re.sub(r"^\([^)]*\)", "", path).replace("\\", "/")
    path = "/" + path.lstrip("/")
    return [path] if path.startswith("/boot/") else ["/boot" + path, "/boot/efi" + path, "/efi" + path, path]


def kernel_image(tree: Tree, release: str, cmdline: str) -> str:
    candidates: List[str] = []
    for word in cmdline.split():
        if word.startswith("BOOT_IMAGE="):
            candidates += _boot_path(word[len("BOOT_IMAGE="):])
    candidates += [pattern.format(release) for pattern in ("/boot/vmlinuz-{}", "/boot/vmlinux-{}", "/boot/kernel-{}")]
    candidates += ["/lib/modules/{}/vmlinuz".format(release)]
    flavour = release.rpartition("-")[2]  # Alpine: 6.6.7-0-lts is /boot/vmlinuz-lts; Arch: 6.6.7-arch1-1 is vmlinuz-linux
    candidates += ["/boot/vmlinuz-" + flavour, "/boot/vmlinuz-linux" + ("-" + flavour if not flavour.isdigit() else "")]
    candidates += ["/boot/vmlinuz-linux", "/boot/vmlinuz"]
    return tree.first(candidates)


def initramfs_path(tree: Tree, release: str, cmdline: str, image: str, machine_id: str) -> str:
    """The initramfs that goes with ``image``: as the command line names it, else by the name that its maker gives it."""
    candidates: List[str] = []
    for word in cmdline.split():
        if word.startswith("initrd="):  # EFI stub and syslinux; several are separated by commas, early microcode first
            candidates += [path for name in word[len("initrd="):].split(",")[::-1] for path in _boot_path(name)]
    for name in (release, image.rpartition("/")[2].partition("-")[2]):  # the second: Arch and Alpine name it by flavour
        if name:
            candidates += [
                pattern.format(name)
                for pattern in ("/boot/initrd.img-{}", "/boot/initramfs-{}.img", "/boot/initrd-{}", "/boot/initrd-{}.img",
                                "/boot/initramfs-{}")
            ]  # fmt: skip
    candidates += ["{}/{}/{}/initrd".format(esp, machine_id, release) for esp in ("/efi", "/boot", "/boot/efi")]
    candidates += ["/lib/modules/{}/initramfs.img".format(release), "/boot/initrd.img", "/boot/initrd"]
    return tree.first(candidates)


def read_initramfs(tree: Tree, path: str, builtin: Set[str], warn: Callable[[str], None]) -> Initramfs:
    if not path:
        return Initramfs("", "none", has_virtio=VIRTIO.issubset(builtin))
    size = tree.size(path)
    if not 0 < size <= MAX_INITRAMFS:
        warn("{}: {} bytes, not read".format(path, size))
        return Initramfs(path, "unknown", size=size)
    try:
        with open(tree.path(path), "rb") as file, mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as data:
            image = initramfs.read(data)
            if image.problem:
                warn("{}: {}".format(path, image.problem))
            return initramfs.describe(path, image, builtin)
    except (OSError, ValueError) as error:  # ValueError: it shrank meanwhile
        warn("{}: not readable: {}".format(path, error))
        return Initramfs(path, "unknown", size=size)
