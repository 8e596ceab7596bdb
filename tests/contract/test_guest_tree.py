"""One contract over both trees: a directory, and a real file system behind libguestfs."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from livep2v.host.run import run
from livep2v.host.virtualize.guest import DirTree, Tree, glob
from livep2v.host.virtualize.guestfs_tree import GuestfsTree, open_guest

LABEL = "system_u:object_r:etc_t:s0"


@pytest.fixture(scope="module")
def appliance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("appliance")
    disks = [folder / "root.qcow2", folder / "esp.qcow2"]
    for disk in disks:
        run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "64M"], timeout=30)
    with (folder / "log").open("w") as log:
        g = open_guest(disks, "tcg", log)
        g.mkfs("ext4", "/dev/sda")
        g.mkfs("vfat", "/dev/sdb")
        g.mount("/dev/sda", "/")
        g.lsetxattr("security.selinux", LABEL, len(LABEL), "/")
        g.mkdir_p("/boot/efi")
        g.mount("/dev/sdb", "/boot/efi")
        yield g
        g.close()


@pytest.fixture(params=["directory", pytest.param("libguestfs", marks=pytest.mark.machine)])
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> Tree:
    if request.param == "directory":
        (tmp_path / "boot/efi").mkdir(parents=True)
        return DirTree(tmp_path)
    return GuestfsTree(request.getfixturevalue("appliance"))


def test_the_contract(tree: Tree, tmp_path: Path) -> None:
    assert tree.kind("/etc/a") == "" and not tree.exists("/etc/a") and tree.listdir("/etc/a") == []
    for read in (tree.read, tree.size):
        with pytest.raises(FileNotFoundError):
            read("/etc/a")
    with pytest.raises(FileNotFoundError):
        tree.fetch("/etc/a", tmp_path / "fetched")

    tree.mkdir_p("/etc/b/c")
    tree.mkdir_p("/etc/b/c")
    content = b"\0\xff" + b"x" * 3_000_000
    tree.write("/etc/a", content)
    assert tree.read("/etc/a") == content and tree.size("/etc/a") == len(content) and tree.kind("/etc/a") == "file"
    assert tree.digest("/etc/a") == hashlib.sha256(content).hexdigest()
    tree.fetch("/etc/a", tmp_path / "fetched")
    assert (tmp_path / "fetched").read_bytes() == content
    tree.splice("/etc/a", len(content), b"behind")
    assert tree.read("/etc/a") == content + b"behind"
    tree.splice("/etc/a", 2, b"cut")
    assert tree.read("/etc/a") == b"\0\xffcut"

    tree.symlink("../a", "/etc/b/link")
    tree.symlink("/etc/b", "/absolute")
    assert tree.kind("/etc/b/link") == "link" and tree.readlink("/etc/b/link") == "../a"
    assert tree.read("/absolute/link") == b"\0\xffcut" and tree.listdir("/absolute") == ["c", "link"]
    tree.write("/absolute/link", b"through the link")
    assert tree.read("/etc/a") == b"through the link" and tree.kind("/etc/b/link") == "link"
    assert glob(tree, "/etc/*/l?nk") == ["/etc/b/link"]
    tree.remove("/etc/b/link")
    assert tree.kind("/etc/b/link") == "" and tree.exists("/etc/a")
    tree.symlink("/nowhere", "/dangling")
    assert tree.kind("/dangling") == "link" and not tree.exists("/dangling")

    tree.mkdir_p("/boot/efi/EFI/BOOT")  # FAT, in the appliance: no modes, no labels
    tree.write("/boot/efi/EFI/BOOT/BOOTX64.EFI", b"loader")
    assert tree.read("/boot/efi/EFI/BOOT/BOOTX64.EFI") == b"loader"


@pytest.mark.machine
def test_labels_and_modes_on_a_real_file_system(appliance: Any) -> None:
    tree = GuestfsTree(appliance)
    tree.labels = True
    tree.mkdir_p("/labelled/deep")
    tree.write("/labelled/deep/file", b"text", 0o755)
    tree.symlink("file", "/labelled/deep/link")
    for path in ("/labelled/deep", "/labelled/deep/file", "/labelled/deep/link"):
        assert appliance.lgetxattr(path, "security.selinux") == LABEL.encode()
    assert appliance.statns("/labelled/deep/file")["st_mode"] & 0o7777 == 0o755
    appliance.chown(12, 34, "/labelled/deep/file")
    tree.write("/labelled/deep/file", b"edited")
    status = appliance.statns("/labelled/deep/file")
    assert (status["st_mode"] & 0o7777, status["st_uid"], status["st_gid"]) == (0o755, 12, 34)
    tree.mkdir_p("/boot/efi/deep")
    tree.write("/boot/efi/deep/file", b"no label there")


INTERRUPTED = """
import sys
from pathlib import Path
from livep2v.host.virtualize.guestfs_tree import open_guest
try:
    print("starting", flush=True)
    open_guest([Path(sys.argv[1])], "tcg", sys.stderr)
    print("started", flush=True)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.mark.machine
def test_an_interrupt_while_the_appliance_starts_is_not_lost(tmp_path: Path) -> None:
    """The binding of libguestfs drops exceptions that are raised inside its callbacks; the user has pressed Ctrl-C."""
    disk = tmp_path / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(disk), "16M"], check=True)
    child = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(disk)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "starting\n"
    time.sleep(3)
    child.send_signal(signal.SIGINT)
    said, _ = child.communicate(timeout=200)
    assert said == "interrupted\n"
