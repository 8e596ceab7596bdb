"""Kernel modules that an initramfs lacks, as files to be added to it: the module, what it needs, the indexes, the load list."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from ....formats import initramfs, kmod
from ....model import Nic
from ..guest import Tree, text_of

# virtio_pci needs virtio_pci_modern_dev and virtio_pci_legacy_dev since Linux 5.13; modules.dep says so.
WANTED = ("virtio_pci", "virtio_blk")
# What udev asks for when it sees the VM's disk: Linux include/uapi/linux/virtio_ids.h (2 is a disk), virtio_pci.c.
ALIASES = ("virtio:d00000002v*", "pci:v00001AF4d*sv*sd*bc*sc*i*")
_SUFFIX = {".xz": "xz", ".zst": "zstd", ".gz": "gzip"}


@dataclass
class Supply:
    """The modules of one kernel in the guest's root file system."""

    release: str = ""  # "" if its folder is not there
    folder: str = ""
    builtin: set[str] = field(default_factory=set)
    dep: dict[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict)

    def wanted(self) -> set[str]:
        return set(WANTED)

    def missing(self, image: initramfs.Image) -> list[str]:
        """What a virtio disk needs and neither ``image`` nor the kernel has; needed ones first."""
        there = set(image.modules()) | self.builtin
        names: list[str] = []
        for name in WANTED:
            names += kmod.closure(self.dep, [name]) if name in self.dep else [name]
        return [name for index, name in enumerate(names) if name not in there and name not in names[:index]]

    def has(self, name: str) -> bool:
        return name in self.dep or name in self.builtin


def supply(tree: Tree, release: str, others: Iterable[str] = ()) -> Supply:
    """Modules of ``release``, or of the first of ``others`` that has a folder."""
    for name in [release, *others]:
        for folder in (f"/lib/modules/{name}", f"/usr/lib/modules/{name}"):
            if name and tree.exists(folder + "/modules.dep"):
                dep = {
                    key: (_relative(path), tuple(_relative(item) for item in needs))
                    for key, (path, needs) in kmod.parse_dep(text_of(tree.read(folder + "/modules.dep"))).items()
                }
                return Supply(name, folder, _builtin(tree, folder), dep)
    return Supply()


def _builtin(tree: Tree, folder: str) -> set[str]:
    path = folder + "/modules.builtin"
    return kmod.parse_builtin(text_of(tree.read(path))) if tree.exists(path) else set()


def _relative(path: str) -> str:
    """module-init-tools before 3.8 wrote absolute paths."""
    return re.sub(r"^/lib/modules/[^/]+/", "", path)


def members(image: initramfs.Image, stock: Supply, missing: list[str], tree: Tree) -> dict[str, bytes]:
    """Files to add to ``image`` so that the modules ``missing`` are inside and get loaded."""
    folder = target_folder(image, stock.release)
    files: dict[str, bytes] = {}
    paths = {name: posixpath.relpath(path, folder) for name, path in image.modules().items() if path.startswith(folder + "/")}
    for name in missing:
        path = stock.dep[name][0]
        content, plain = tree.read(f"{stock.folder}/{path}"), path
        suffix = posixpath.splitext(path)[1]
        if suffix in _SUFFIX:  # stored unpacked: the loader inside may not know the compression
            content, plain = b"".join(initramfs.unpack(content, 0, _SUFFIX[suffix], [])), path[: -len(suffix)]
        paths[name] = plain
        files[f"{folder}/{plain}"] = content
    needs = {name: _present(stock, name, paths) for name in missing}
    files.update(_indexes(image, stock, folder, missing, paths, needs, tree))
    files.update(_load_list(image, missing))
    return files


def _present(stock: Supply, name: str, paths: dict[str, str]) -> list[str]:
    """Paths in the image of what ``name`` needs; what is built in has none."""
    needs = stock.dep[name][1] if name in stock.dep else ()
    return [paths[kmod.name_of(item)] for item in needs if kmod.name_of(item) in paths]


def target_folder(image: initramfs.Image, release: str) -> str:
    """Where modules live in the image: the prefix seen there; else as its "lib" says."""
    for folder in image.module_folders():
        if posixpath.basename(folder) == release:
            return folder
    lib = image.entries.get("lib")
    return f"{'usr/lib' if lib is not None and lib.is_symlink else 'lib'}/modules/{release}"


def _indexes(
    image: initramfs.Image,
    stock: Supply,
    folder: str,
    missing: list[str],
    paths: dict[str, str],
    needs: dict[str, list[str]],
    tree: Tree,
) -> dict[str, bytes]:
    """The image's own indexes and the new lines. Not the guest's whole indexes: those name modules, and suffixes, that the
    image does not have."""
    lines = {name: f"{paths[name]}: {' '.join(needs[name])}".rstrip() for name in missing}
    aliases = _aliases(stock, tree, set(missing))
    files: dict[str, bytes] = {}
    dep_old = _old(image, f"{folder}/modules.dep", "dep")
    if dep_old is None:  # an image without indexes: name what it has
        dep_old = []
        for order, (name, path) in enumerate(sorted(paths.items())):
            if name not in missing:
                dep_old.append(kmod.Value(name, order, f"{path}: {' '.join(_present(stock, name, paths))}".rstrip()))
    alias_old = _old(image, f"{folder}/modules.alias", "alias") or []
    top = max([value.priority for value in dep_old] + [0]) + 1
    dep_new = dep_old + [kmod.Value(name, top + order, lines[name]) for order, name in enumerate(missing)]
    top = max([value.priority for value in alias_old] + [0]) + 1
    known_aliases = {(value.key, value.text) for value in alias_old}
    alias_new = alias_old + [
        kmod.Value(kmod.normal(key), top + order, name)
        for order, (key, name) in enumerate(aliases)
        if (kmod.normal(key), name) not in known_aliases
    ]
    files[f"{folder}/modules.dep.bin"] = kmod.write_index(dep_new)
    files[f"{folder}/modules.alias.bin"] = kmod.write_index(alias_new)
    if f"{folder}/modules.dep" in image.entries or f"{folder}/modules.dep.bin" not in image.entries:
        start = image.files.get(f"{folder}/modules.dep") or _joined(value.text for value in dep_old)
        files[f"{folder}/modules.dep"] = start + _joined(lines[name] for name in missing)
        start = image.files.get(f"{folder}/modules.alias") or _joined(f"alias {v.key} {v.text}" for v in alias_old)
        files[f"{folder}/modules.alias"] = start + _joined(f"alias {key} {name}" for key, name in aliases)
    return files


def _joined(lines: Iterable[str]) -> bytes:
    return "".join(line + "\n" for line in lines).encode("utf-8", "surrogateescape")


def _old(image: initramfs.Image, path: str, kind: str) -> list[kmod.Value] | None:
    """An index of the image, from its binary form, else from its text; None if it has neither."""
    if path + ".bin" in image.files:
        return kmod.read_index(image.files[path + ".bin"])
    if path not in image.files:
        return None
    text = text_of(image.files[path])
    if kind == "alias":
        return [kmod.Value(kmod.normal(key), order, name) for order, (key, name) in enumerate(kmod.parse_alias(text))]
    lines = [line for line in text.splitlines() if ":" in line]
    return [kmod.Value(kmod.name_of(line.partition(":")[0]), order, line) for order, line in enumerate(lines)]


def _aliases(stock: Supply, tree: Tree, names: set[str]) -> list[tuple[str, str]]:
    text, binary = f"{stock.folder}/modules.alias", f"{stock.folder}/modules.alias.bin"
    if tree.exists(text):
        pairs = kmod.parse_alias(text_of(tree.read(text)))
    elif tree.exists(binary):
        pairs = [(value.key, value.text) for value in kmod.read_index(tree.read(binary))]
    else:
        pairs = []
    return [(key, name) for key, name in pairs if name.replace("-", "_") in names]


def _load_list(image: initramfs.Image, missing: list[str]) -> dict[str, bytes]:
    """How the image's own program is told to load them, beside the aliases that its udev follows."""
    kind = image.kind
    if kind in ("initramfs-tools", "mkinitfs"):
        path = "conf/modules" if kind == "initramfs-tools" else "etc/modules"
        text = text_of(image.files.get(path, b""))
        start = text if not text or text.endswith("\n") else text + "\n"
        return {path: (start + "".join(name + "\n" for name in missing)).encode("utf-8", "surrogateescape")}
    files = {"etc/modules-load.d/90-livep2v.conf": "".join(name + "\n" for name in missing).encode()}
    if kind == "dracut":  # dracut.cmdline(7): where systemd is not in the image
        files["etc/cmdline.d/90-livep2v.conf"] = " ".join(f"rd.driver.pre={name}" for name in missing).encode() + b"\n"
    if kind == "mkinitcpio" and "config" in image.files:  # sourced by its init, mkinitcpio(8)
        line = f'MODULES="${{MODULES}} {" ".join(missing)}"\n'
        files["config"] = image.files["config"].rstrip(b"\n") + b"\n" + line.encode()
    return files


def unproven(image: initramfs.Image, stock: Supply) -> str:
    """What is still wrong with the image as one that finds a virtio disk, or ""."""
    missing = stock.missing(image)
    if missing:
        return f"it lacks {', '.join(missing)}"
    folder = target_folder(image, stock.release)
    dep = {value.key: value.text for value in kmod.read_index(image.files.get(f"{folder}/modules.dep.bin", b""))}
    alias = {(value.key, value.text) for value in kmod.read_index(image.files.get(f"{folder}/modules.alias.bin", b""))}
    for name in set(WANTED) - stock.builtin:
        if name not in dep:
            return f"its modules.dep.bin does not know {name}"
        for path in dep[name].replace(":", " ").split():
            if f"{folder}/{path}" not in image.entries:
                return f"its modules.dep.bin names {path}, which is not there"
    for key, name in zip(ALIASES, ("virtio_blk", "virtio_pci"), strict=True):
        if name not in stock.builtin and (key, name) not in alias:
            return f"its modules.alias.bin does not lead from {key} to {name}"
    return ""


def nic_model(stock: Supply, nics: tuple[Nic, ...]) -> str:
    """The network card whose driver the root file system has; it is not needed before."""
    if not stock.release:
        return "e1000" if any(nic.driver == "e1000" for nic in nics) else ""
    for driver, model in (("virtio_net", "virtio-net-pci"), ("e1000e", "e1000e"), ("e1000", "e1000")):
        if stock.has(driver) and (driver != "virtio_net" or stock.has("virtio_pci")):
            return model
    return ""
