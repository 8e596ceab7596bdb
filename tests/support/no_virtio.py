"""An initramfs of this machine's own kernel without virtio, as a generator in host-only mode makes it on real hardware."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

COMPRESSORS = {"zstd": ["zstd", "-q"], "gzip": ["gzip", "-1"], "lz4": ["lz4", "-l"], "none": ["cat"]}


def unpack(image: Path, to: Path) -> None:
    """With Debian's own tool."""
    to.mkdir(parents=True)
    subprocess.run(["unmkinitramfs", str(image), str(to)], check=True)


def without_virtio(image: Path, release: str, work: Path, keep: tuple[str, ...] = ()) -> Path:
    """The unpacked tree of ``image`` with its virtio modules and most others taken out and its indexes made anew by depmod.
    ``keep``: what else may stay, by module file name without suffix."""
    tree = work / "tree"
    unpack(image, tree)
    folder = tree / "usr/lib/modules" / release
    for path in [*folder.rglob("*.ko*")]:
        if path.name.partition(".")[0] not in keep:
            path.unlink()
    subprocess.run(["depmod", "-b", str(tree / "usr"), release], check=True)
    return tree


def repack(tree: Path, to: Path, compression: str) -> Path:
    names = "\n".join([".", *sorted(str(path.relative_to(tree)) for path in tree.rglob("*"))]) + "\n"
    archive = subprocess.run(
        ["cpio", "--quiet", "-o", "-H", "newc"], input=names.encode(), stdout=subprocess.PIPE, check=True, cwd=tree
    ).stdout
    to.write_bytes(subprocess.run(COMPRESSORS[compression], input=archive, stdout=subprocess.PIPE, check=True).stdout)
    return to


def guest_tree(root: Path, image: Path, kernel: Path, release: str, modules: Path) -> Path:
    """A guest's root directory with that initramfs and the kernel's virtio modules and indexes."""
    (root / "boot/grub").mkdir(parents=True)
    shutil.copy(kernel, root / "boot" / f"vmlinuz-{release}")
    shutil.copy(image, root / "boot" / f"initrd.img-{release}")
    entry = f"\tlinux /boot/vmlinuz-{release} root=/dev/sda2 ro quiet\n\tinitrd /boot/initrd.img-{release}\n"
    (root / "boot/grub/grub.cfg").write_text(f"menuentry 'Debian' {{\n{entry}}}\n")
    (root / "etc").mkdir()
    (root / "usr/lib/systemd").mkdir(parents=True)
    (root / "usr/lib/systemd/systemd").touch()
    (root / "lib").symlink_to("usr/lib")
    target = root / "usr/lib/modules" / release
    target.mkdir(parents=True)
    for name in ("modules.dep", "modules.alias", "modules.builtin"):
        shutil.copy(modules / name, target / name)
    for folder in ("virtio", "block", "net"):
        for path in (modules / "kernel/drivers" / folder).glob("virtio*.ko*"):
            copy = target / path.relative_to(modules)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
    return root
