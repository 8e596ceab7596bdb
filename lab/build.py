"""Makes the disk of a lab machine, once, and keeps it.

A built machine is a folder of the cache (``~/.cache/livep2v-lab``, or ``LIVEP2V_LAB_CACHE``), named after a hash of its recipe.
It is made in a folder beside it under a lock and renamed when it is whole: a build that was killed half-way leaves nothing
that looks like a machine, and the next one clears it away. No file system is mounted on this host: mmdebstrap makes the tree,
mke2fs fills the file systems from it, and what only the machine itself can do (boot loader, database) runs on its first boot.
"""

from __future__ import annotations

import ast
import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from livep2v.errors import HostError
from livep2v.host.run import run

from . import recipe as recipe_module
from .recipe import MIB, Partition, Recipe

FIRST_PARTITION = 2048 * 512  # bytes; the gap before it holds GRUB's core image, as Debian's installer leaves it
OLD_DATA = b"livep2v lab: old data in a free block\n"  # begins every 4 KiB of old data, so that a test can look for it
NOISE_UNIT = 4096
BUILD_TIMEOUT = 1800.0  # s; a build takes 5 minutes on two idle cores


@dataclass(frozen=True)
class Built:
    """A machine in the cache. The disk is never written: a machine runs on an overlay of it."""

    recipe: Recipe
    folder: Path
    disk: Path  # raw
    key: Path  # private ssh key that root, admin and nobodyelse accept


def cache_folder() -> Path:
    override = os.environ.get("LIVEP2V_LAB_CACHE")
    return Path(override) if override else Path.home() / ".cache" / "livep2v-lab"


def recipe_key(recipe: Recipe) -> str:
    """Hash of everything that decides what the disk holds: the recipe and the code that carries it out, comments aside."""
    digest = hashlib.sha256(recipe.name.encode())
    for module in (recipe_module.__file__, __file__):
        digest.update(ast.dump(ast.parse(Path(module).read_text())).encode())
    return digest.hexdigest()[:12]


def build(recipe: Recipe, say: Callable[[str], None] = print) -> Built:
    """The machine of ``recipe``: from the cache, else made now (about 5 minutes). Raises HostError, ToolFailed, MissingTool."""
    if os.geteuid() != 0:
        raise HostError(reason=f"making the lab machine {recipe.name} needs root (mmdebstrap in root mode); use sudo")
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / f"{recipe.name}-{recipe_key(recipe)}"
    built = Built(recipe, folder, folder / "disk.raw", folder / "id_ed25519")
    with _lock(cache / f"{recipe.name}.lock"):
        if folder.is_dir():
            return built
        say(f"building the lab machine {recipe.name} (once; it is kept in {cache})")
        work = cache / f".building-{folder.name}"
        for left_over in cache.glob(f".building-{recipe.name}-*"):  # of a build that was killed: ours is the lock
            shutil.rmtree(left_over)
        work.mkdir()
        try:
            _build_in(work, recipe, say)
            work.rename(folder)
        except BaseException:
            _remove_but_logs(work)
            raise
    return built


def clean() -> list[Path]:
    """Drop every cached machine; the answer is what was removed."""
    cache = cache_folder()
    removed = [path for path in cache.glob("*") if path.is_dir()] if cache.is_dir() else []
    for path in removed:
        shutil.rmtree(path)
    return removed


def _build_in(work: Path, recipe: Recipe, say: Callable[[str], None]) -> None:
    tree, disk, key = work / "tree", work / "disk.raw", work / "id_ed25519"
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"lab {recipe.name}", "-f", key], timeout=60)
    say("  packages")
    _bootstrap(work, tree, recipe, key.with_suffix(".pub").read_text())
    say("  disk")
    _make_disk(disk, recipe)
    _fill_partitions(disk, tree, work, recipe)
    kernel = work / "vmlinuz"
    initrd = work / "initrd.img"
    say("  first boot")
    _first_boot(Built(recipe, work, disk, key), kernel, initrd, recipe)
    for offset, partition in layout(recipe):
        if partition.kind == "ext4":  # a machine that was not powered off cleanly is not kept
            run(["e2fsck", "-fn", f"{disk}?offset={offset}"], timeout=600)
    for path in (kernel, initrd):
        path.unlink()
    shutil.rmtree(tree)
    facts = {"recipe": recipe.name, "partitions": [{"offset": o, "length": p.size, "kind": p.kind} for o, p in layout(recipe)]}
    (work / "facts.json").write_text(json.dumps(facts, indent=2) + "\n")


def layout(recipe: Recipe) -> list[tuple[int, Partition]]:
    """Partitions with their byte offsets."""
    offset = FIRST_PARTITION
    placed = []
    for partition in recipe.partitions:
        placed.append((offset, partition))
        offset += partition.size
    if offset > recipe.disk_size:
        raise HostError(reason=f"the partitions of {recipe.name} end at byte {offset}, its disk at {recipe.disk_size}")
    return placed


def _bootstrap(work: Path, tree: Path, recipe: Recipe, public_key: str) -> None:
    early, late, script = work / "early", work / "late", work / "chroot.sh"
    _write_files(early, recipe.early_files)
    homes = {"/root": "root", "/home/admin": "admin", "/home/nobodyelse": "nobodyelse"}
    keys = tuple((f"{home}/.ssh/authorized_keys", public_key) for home in homes)
    _write_files(late, recipe.files)
    _write_files(work / "homes", keys)
    script.write_text(recipe.chroot_script)
    # mmdebstrap mounts /dev and others inside the tree. In namespaces of its own they are gone, and so is every process of it,
    # when this one is killed: whatever clears the folder away later never meets a mounted /dev.
    command = [
        "setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc",
        "mmdebstrap", "--mode=root", "--variant=important", "--format=directory",
        "--include=" + ",".join(recipe.packages),
        '--aptopt=Apt::Install-Recommends "false"',
        f"--essential-hook=sync-in {early} /",
        f"--customize-hook=sync-in {late} /",
        f"--customize-hook=upload {script} /root/chroot.sh",
        '--customize-hook=chroot "$1" sh /root/chroot.sh',
        '--customize-hook=rm "$1/root/chroot.sh"',
        f"--customize-hook=sync-in {work / 'homes'} /",
        *(f'--customize-hook=chroot "$1" chown -R {user}: {home}' for home, user in homes.items()),
        *(f'--customize-hook=chmod 0700 "$1{home}" "$1{home}/.ssh"' for home in homes),
        recipe.suite, str(tree),
    ]  # fmt: skip
    with (work / "mmdebstrap.log").open("w") as sink:
        done = run(command, timeout=BUILD_TIMEOUT, env={"DEBIAN_FRONTEND": "noninteractive"}, check=False)
        sink.write(done.stdout + done.stderr)
    if done.status != 0:
        tail = " / ".join(done.stderr.splitlines()[-4:])
        raise HostError(reason=f"mmdebstrap failed with status {done.status}: {tail}; its log is {work / 'mmdebstrap.log'}")
    _write_files(tree, (("/etc/machine-id", uuid.uuid4().hex + "\n"),))  # not a hook's task: mmdebstrap empties it at its end
    for folder in (early, late, work / "homes"):
        shutil.rmtree(folder)
    script.unlink()


def _write_files(root: Path, files: tuple[tuple[str, str], ...]) -> None:
    for name, text in files:
        path = root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def _make_disk(disk: Path, recipe: Recipe) -> None:
    """A disk with a partition table whose partitions are full of incompressible old data."""
    placed = layout(recipe)
    with disk.open("wb") as out:
        out.truncate(recipe.disk_size)
        for offset, partition in placed:
            out.seek(offset)
            left = partition.size
            while left:
                piece = bytearray(os.urandom(min(left, 4 * MIB)))
                for start in range(0, len(piece), NOISE_UNIT):
                    piece[start : start + len(OLD_DATA)] = OLD_DATA
                out.write(piece)
                left -= len(piece)
    lines = [f"label: dos\nlabel-id: 0x{secrets.randbits(32):08x}\nunit: sectors"]
    for offset, partition in placed:
        kind = "82" if partition.kind == "swap" else "83"
        boot = ", bootable" if partition.mountpoint == "/boot" else ""
        lines.append(f"start={offset // 512}, size={partition.size // 512}, type={kind}{boot}")
    run(["sfdisk", "--quiet", disk], input="\n".join(lines) + "\n", timeout=60)


def _fill_partitions(disk: Path, tree: Path, work: Path, recipe: Recipe) -> None:
    """File systems with the files of ``tree``, the kernel and initramfs beside them for the first boot.

    ``nodiscard`` keeps mke2fs from punching the old data out of the file; ``lazy_itable_init=0`` keeps the kernel from writing
    inode tables in the background for minutes after each boot of a fresh copy.
    """
    for name in ("vmlinuz", "initrd.img"):
        shutil.copy2(tree / (tree / name).readlink(), work / name)  # Debian's links at the root: boot/vmlinuz-...
    boot = work / "boot"
    (tree / "boot").rename(boot)
    (tree / "boot").mkdir()
    for offset, partition in layout(recipe):
        if partition.kind == "swap":
            _make_swap(disk, offset, partition.size, work / "swap")
            continue
        source = boot if partition.mountpoint == "/boot" else tree
        options = f"offset={offset},nodiscard,lazy_itable_init=0,lazy_journal_init=0"
        run(
            ["mke2fs", "-q", "-F", "-t", "ext4", "-E", options, "-d", source, disk, f"{partition.size // 1024}k"],
            timeout=600,
        )
    shutil.rmtree(boot)


def _make_swap(disk: Path, offset: int, size: int, scratch: Path) -> None:
    """mkswap knows no offset: make the header, one page, in a file of the same size and move it over."""
    with scratch.open("wb") as out:
        out.truncate(size)
    run(["mkswap", scratch], timeout=60)
    with disk.open("r+b") as out, scratch.open("rb") as made:
        out.seek(offset)
        out.write(made.read(4096))
    scratch.unlink()


def _first_boot(built: Built, kernel: Path, initrd: Path, recipe: Recipe) -> None:
    """Boot the unfinished disk with its own kernel, and let it make itself bootable."""
    from .machine import DirectBoot, Machine  # here: machine.py needs Built

    direct = DirectBoot(kernel, initrd, "root=/dev/sda2 ro console=ttyS0")
    with Machine(built, run_folder=built.folder / "run", direct_boot=direct, write_through=True) as machine:
        output = machine.run(recipe.first_boot_script, timeout=900)
        machine.stop()
    (built.folder / "first-boot.log").write_text(output)
    shutil.rmtree(built.folder / "run")


def _remove_but_logs(work: Path) -> None:
    """A failed build keeps only what tells why."""
    for path in work.iterdir():
        if path.is_dir() and path.name != "run":
            shutil.rmtree(path, ignore_errors=True)
        elif path.suffix in (".raw", ".img"):
            path.unlink()


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
