"""A small Linux guest for boot tests: GRUB, this host's kernel, an initramfs of initramfs-tools, and a root file system
with nothing in it but dash, whose init is a script given by the test. All parts are the real ones; only user space is small.

Needs the packages linux-image-amd64, initramfs-tools, grub-pc-bin, grub-common, e2fsprogs and fdisk.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

MIB = 1024 * 1024
SIZE = 96 * MIB
PARTITION = 1 * MIB
GRUB = Path("/usr/lib/grub/i386-pc")
GRUB_MODULES = ("biosdisk", "part_msdos", "ext2", "normal", "linux", "echo")
MODULES = "virtio_pci\nvirtio_blk\nahci\nsd_mod\next4\n"

REPORT = """\
exec >/dev/ttyS1
echo noise before
echo LIVEP2V-BEGIN 1
echo hostname tiny
read -r version </proc/sys/kernel/osrelease
echo kernel $version
while read -r source target kind rest; do
    case $source in /dev/*) echo mount $source $target $kind; [ $target = / ] && echo root $source;; esac
done </proc/mounts
echo failed broken.service
echo address enp0s2 192.0.2.7/24
echo state degraded
echo LIVEP2V-END
"""
HANG = "while :; do read -r line; done </dev/null\n"


def _run(*argv: str | Path, data: str | None = None) -> str:
    done = subprocess.run([str(a) for a in argv], input=data, text=True, check=True, capture_output=True)
    return done.stdout


def kernel_release() -> str:
    images = sorted(Path("/boot").glob("vmlinuz-*"))
    assert images, "no kernel in /boot; install linux-image-amd64"
    return images[-1].name.removeprefix("vmlinuz-")


def initramfs(folder: Path) -> Path:
    """A small initramfs of the host's own initramfs-tools, made once per folder."""
    image = folder / "initrd.img"
    if not image.exists():
        conf = folder / "initramfs-conf"
        shutil.copytree("/etc/initramfs-tools", conf)
        (conf / "conf.d").mkdir(exist_ok=True)
        (conf / "conf.d" / "small").write_text("MODULES=list\nBUSYBOX=n\nCOMPRESS=gzip\nRESUME=none\nFSTYPE=ext4\n")
        (conf / "modules").write_text(MODULES)
        _run("/usr/sbin/mkinitramfs", "-d", conf, "-o", image, kernel_release())
    return image


def _core(folder: Path, prefix: str, modules: tuple[str, ...]) -> bytes:
    image = folder / "core.img"
    _run("grub-mkimage", "-O", "i386-pc", "-p", prefix, "-o", image, *modules)
    return image.read_bytes()


def build(
    folder: Path,
    disk: Path,
    init: str,
    *,
    root: str = "/dev/vda1",
    options: str = "",
    prefix: str = "(hd0,msdos1)/boot/grub",
    modules: tuple[str, ...] = GRUB_MODULES,
) -> Path:
    """A raw disk image at ``disk`` that boots; ``init`` is the body of /sbin/init. ``folder`` keeps what images share."""
    tree = folder / f"{disk.name}.tree"
    for name in ("proc", "sys", "dev", "run", "tmp", "sbin", "bin", "boot/grub", "lib/x86_64-linux-gnu", "lib64", "etc"):
        (tree / name).mkdir(parents=True)
    shutil.copy("/bin/dash", tree / "bin/sh")
    shutil.copy("/lib/x86_64-linux-gnu/libc.so.6", tree / "lib/x86_64-linux-gnu")
    shutil.copy("/lib64/ld-linux-x86-64.so.2", tree / "lib64")
    (tree / "sbin/init").write_text(f"#!/bin/sh\n{init}")
    (tree / "sbin/init").chmod(0o755)
    shutil.copy(f"/boot/vmlinuz-{kernel_release()}", tree / "boot/vmlinuz")
    shutil.copy(initramfs(folder), tree / "boot/initrd.img")
    (tree / "boot/grub/grub.cfg").write_text(
        f"linux /boot/vmlinuz root={root} ro console=tty0 console=ttyS0,115200 {options}\ninitrd /boot/initrd.img\nboot\n"
    )
    with disk.open("wb") as file:
        file.truncate(SIZE)
    _run("/usr/sbin/sfdisk", "-q", disk, data="label: dos\nstart=2048, type=83, bootable\n")
    blocks = (SIZE - PARTITION) // 4096
    _run("/usr/sbin/mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-d", tree, "-E", f"offset={PARTITION}", disk, str(blocks))
    shutil.rmtree(tree)
    core = _core(folder, prefix, modules)
    assert len(core) < PARTITION - 512
    with disk.open("r+b") as file:
        file.write((GRUB / "boot.img").read_bytes()[:440])  # its default is a core image that begins at sector 1
        file.seek(512)
        file.write(core)
    return disk
