"""The initramfs: drivers of the VM's disk inside, proven by reading it again, and its copies of repaired settings.

Where virtio is missing (dracut in host-only mode, initramfs-tools with MODULES=dep) the guest's own modules are put behind the
image as one more cpio archive: no guest program runs, so nothing can fail for want of dracut (virt-v2v#91) or because it does
not like the environment (RHEL-39077). The kernel unpacks all archives one over the other, init/initramfs.c. If virtio cannot
be proven inside, the VM gets the controller whose driver is.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import posixpath
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ....errors import RepairError
from ....formats import cpio, initramfs
from ....model import Initramfs
from ..cmdline import device_tokens
from ..context import Context
from ..entries import BootEntry
from ..guest import bytes_of, text_of
from ..linux import crypttab, fstab, lvm, nic_names
from . import modules, resume

NAME = "initramfs"
CRITICAL = True
WHY = "drivers of the virtual disk, and names of disks that exist in the VM"
IMAGES = 3  # images repaired: reading one costs about 3 s under emulation; the default entry and the running kernel come first
BUSES = (  # controllers that every hypervisor emulates, best first, with the drivers that must be there
    ("sata", {"ahci", "sd_mod"}),
    ("nvme", {"nvme"}),
    ("ide", {"ata_piix", "sd_mod"}),
)
_WANTED = re.compile(
    r"^(conf/|config$|cryptroot/crypttab$|etc/(crypttab|fstab|modules)$|etc/(cmdline|modules-load)\.d/|etc/systemd/network/"
    r"|etc/lvm/(lvm(local)?\.conf$|devices/)|(usr/)?lib/modules/[^/]+/modules\.(dep|alias)(\.bin)?$)"
)


@dataclass
class Loaded:
    """One image of the guest, read."""

    entry: BootEntry
    path: str
    copy: Path  # on the host
    image: initramfs.Image
    supply: modules.Supply  # modules of its kernel


def needed(ctx: Context) -> str:
    return WHY


def apply(ctx: Context) -> None:
    if not ctx.entries or not ctx.entries[0].initrds:
        _without_initramfs(ctx)
        return
    proven: list[bool] = []
    drivers: set[str] | None = None
    for loaded in _load_all(ctx):
        problem = _repair(ctx, loaded)
        if problem:
            ctx.warn(f"{loaded.path}: {problem}")
        required = not proven or loaded.entry.release == ctx.machine.kernel.release
        if required:
            inside = set(loaded.image.modules()) | loaded.supply.builtin
            drivers = inside if drivers is None else drivers & inside
            proven.append(not loaded.supply.missing(loaded.image))
        ctx.kernel = ctx.kernel or loaded.supply.release or loaded.entry.release
        ctx.initramfs.append(initramfs.describe(loaded.path, loaded.image, loaded.supply.builtin))
        ctx.images[loaded.path] = loaded.image
    ctx.disk_bus = choose_bus(ctx, all(proven), drivers or set())


def choose_bus(ctx: Context, virtio: bool, drivers: set[str]) -> str:
    """The disk controller whose driver is proven for the kernels that matter. Raises RepairError if there is none."""
    if virtio:
        return "virtio"
    for bus, need in BUSES:
        if need <= drivers:
            ctx.warn(f"virtio could not be proven in the initramfs: the VM gets a {bus} controller, whose driver is inside")
            return bus
    transports = {disk.transport for disk in ctx.machine.disks if disk.name in ctx.devices.order}
    for bus, names in (("sata", {"sata", "ata"}), ("nvme", {"nvme"}), ("ide", {"ide"})):
        if transports & names and any(item.has_virtio is None for item in ctx.initramfs):
            ctx.warn(f"the initramfs could not be read: the VM gets a {bus} controller, as the machine has")
            return bus
    raise RepairError(
        what="initramfs",
        reason=f"it has no driver for any disk controller of a VM (virtio, AHCI, NVMe, PIIX; it has "
        f"{', '.join(sorted(drivers & initramfs.STORAGE)) or 'none'}), and the kernel's module folder cannot supply virtio; "
        "build an initramfs with virtio_blk and virtio_pci on the machine and convert again",
    )


def _without_initramfs(ctx: Context) -> None:
    """The default entry has none: its kernel itself has the drivers, or nobody has."""
    if not ctx.entries:
        raise RepairError(what="boot loader", reason="no entry with a kernel that exists was found in any of its files")
    supply = modules.supply(ctx.tree, ctx.entries[0].release)
    ctx.kernel = supply.release or ctx.entries[0].release
    ctx.initramfs.append(Initramfs("", "none", has_virtio=supply.wanted() <= supply.builtin))
    ctx.disk_bus = choose_bus(ctx, supply.wanted() <= supply.builtin, supply.builtin)


def _load_all(ctx: Context) -> Iterator[Loaded]:
    """The images of the boot entries, each once, the default's first, then the running kernel's."""
    order = sorted(ctx.entries[1:], key=lambda entry: entry.release != ctx.machine.kernel.release)
    seen: set[str] = set()
    for entry in [*ctx.entries[:1], *order]:
        if not entry.initrds or entry.initrds[-1] in seen:
            continue
        path = entry.initrds[-1]
        if len(seen) == IMAGES:
            ctx.warn(f"{path}: one of more than {IMAGES} initramfs files, not looked at; its kernel may not boot in the VM")
            continue
        seen.add(path)
        copy = ctx.scratch / f"initramfs-{len(seen)}"
        ctx.tree.fetch(path, copy)
        image = read(copy)
        folders = [posixpath.basename(folder) for folder in image.module_folders()]
        yield Loaded(entry, path, copy, image, modules.supply(ctx.tree, entry.release, folders))


def read(copy: Path, also: frozenset[str] = frozenset()) -> initramfs.Image:
    """The image in a file of the host, with the files that the repair looks at and those in ``also``."""
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(copy.open("rb"))
        if copy.stat().st_size == 0:
            return initramfs.read(b"")
        data = stack.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        return initramfs.read(data, lambda name: name in also or _WANTED.match(name) is not None)


def _repair(ctx: Context, loaded: Loaded) -> str:
    """Append what is missing and read it again. The answer says why it could not be done, or ""."""
    image, supply = loaded.image, loaded.supply
    if image.problem:
        return f"it could not be read to its end ({image.problem}) and was left as it is"
    if image.hidden:
        return "its content is a file system image inside, which cannot be added to; it was left as it is"
    missing = supply.missing(image)
    unavailable = [name for name in missing if name not in supply.dep]
    members = dict(_texts(ctx, image))
    if missing and not unavailable:
        members.update(modules.members(image, supply, missing, ctx.tree))
    if members:
        _append(ctx, loaded, members, [] if unavailable else missing)
    if unavailable:
        return f"it lacks {', '.join(unavailable)}, and the kernel {supply.release or loaded.entry.release} has no such module"
    return ""


def _texts(ctx: Context, image: initramfs.Image) -> Iterator[tuple[str, bytes]]:
    """Copies of settings inside the image that have to change."""
    for name, data in sorted(image.files.items()):
        text = text_of(data)
        if re.match(r"conf/(conf\.d/|initramfs\.conf$)", name):
            new = resume.edited(ctx, text)
        elif re.match(r"etc/cmdline\.d/.*\.conf$", name):
            new = "\n".join(device_tokens(line, ctx.devices) for line in text.split("\n"))
        elif name in ("cryptroot/crypttab", "etc/crypttab"):
            new = crypttab.edited(ctx, text)
        elif name == "etc/fstab":
            new = fstab.edited(ctx, text)
        elif name in lvm.INSIDE:
            new = lvm.edited(text)
        else:
            continue
        if new != text:
            yield name, bytes_of(new)
    if any(re.match(r"(?:usr/)?(?:lib|etc)/systemd/network/.", name) for name in image.entries):
        # udev in the initramfs renames the NIC first, and older systemd (< 240) never renames it again.
        for path, text in nic_names.link_files(ctx).items():
            name = path.lstrip("/")
            if image.files.get(name) != text.encode():
                yield name, text.encode()
        for name in nic_names.stale(ctx, ["/" + name for name, data in image.files.items() if data]):
            # Nothing can be taken out of an image, but an empty file counts as none: systemd.link(5).
            yield name.lstrip("/"), b""
    if any(name.startswith("etc/lvm/devices/") and not entry.is_directory for name, entry in image.entries.items()):
        # The list of known disks cannot be taken out of an image, but it can be switched off: lvmlocal.conf comes last.
        local = lvm.edited(text_of(image.files.get("etc/lvm/lvmlocal.conf", b"")))
        line = "devices/use_devicesfile = 0"
        if line not in local:
            yield "etc/lvm/lvmlocal.conf", bytes_of(f"{local}\n{line}\n".lstrip("\n"))


def _append(ctx: Context, loaded: Loaded, members: dict[str, bytes], added: list[str]) -> None:
    image = loaded.image
    final = {image.resolve(name): data for name, data in members.items()}
    archive = cpio.build([*((name, stat.S_IFDIR | 0o755, b"") for name in _missing_folders(image, final)), *_files(final)])
    offset, data = initramfs.behind(image, archive)
    with loaded.copy.open("r+b") as file:
        file.truncate(offset)
        file.seek(offset)
        file.write(data)
    again = read(loaded.copy, frozenset(final))
    _prove(loaded, again, final, added)
    what = [f"modules {', '.join(added)}"] if added else []
    what += sorted(name for name in final if "lib/modules/" not in name)
    ctx.guest.splice(loaded.path, offset, data, WHY, f"{len(data)} bytes appended at {offset}: {'; '.join(what)}")
    _compare(ctx, loaded)
    ctx.added_modules += [name for name in added if name not in ctx.added_modules]
    loaded.image = again


def _files(final: dict[str, bytes]) -> list[tuple[str, int, bytes]]:
    return [(name, stat.S_IFREG | 0o644, data) for name, data in sorted(final.items())]


def _missing_folders(image: initramfs.Image, final: dict[str, bytes]) -> list[str]:
    """Folders that the image lacks, outer ones first. The kernel makes no parents; and it deletes a symbolic link that meets a
    folder of its name (tried: "lib" -> panic "No working init found"), so nothing that exists is named again."""
    folders: set[str] = set()
    for name in final:
        folder = posixpath.dirname(name)
        while folder and folder not in image.entries:
            folders.add(folder)
            folder = posixpath.dirname(folder)
    return sorted(folders)


def _prove(loaded: Loaded, again: initramfs.Image, final: dict[str, bytes], added: list[str]) -> None:
    """The image with its new part says what it must: every archive to its end, every file, the indexes."""
    wrong = ""
    if again.problem:
        wrong = again.problem
    elif len(again.segments) < len(loaded.image.segments):
        wrong = f"{len(again.segments)} archives instead of {len(loaded.image.segments)}"
    elif any(again.files.get(name) != data for name, data in final.items()):
        wrong = "a file that was added does not come out as it went in"
    elif any(
        name in again.entries and again.entries[name].mode >> 12 != entry.mode >> 12
        for name, entry in loaded.image.entries.items()
    ):
        wrong = "an entry changed its type"
    elif added:
        wrong = modules.unproven(again, loaded.supply)
    if wrong:
        raise RepairError(what=loaded.path, reason=f"reading it again after the repair: {wrong}")


def _compare(ctx: Context, loaded: Loaded) -> None:
    with loaded.copy.open("rb") as file:
        ours = hashlib.file_digest(file, "sha256").hexdigest()
    theirs = ctx.tree.digest(loaded.path)
    if ours != theirs:
        raise RepairError(what=loaded.path, reason=f"the guest's file has digest {theirs} after writing, not {ours}")
