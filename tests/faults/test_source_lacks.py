"""What a source may lack: root, Python, tracefs. Each is one sentence with the way out, before anything is done there."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from livep2v.errors import TrackingUnavailable
from livep2v.model import to_json
from livep2v.source.local import LocalSource
from livep2v.source.snapshot import tracefs
from tests.support.faults import CLI, MIB, ROOT, assert_nothing_left, is_frozen, other_ssh, receiving
from tests.support.loopdisk import loop_disk

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")

BUSYBOX = ("busybox-static",)
# Debian's python3-minimal and all that it depends on
MINIMAL = ("python3-minimal", "python3.11-minimal", "libpython3.11-minimal", "libc6", "libexpat1", "zlib1g", "libssl3")


@pytest.fixture(scope="session")
def unpacked(pytestconfig: pytest.Config) -> Callable[..., Path]:
    """``unpacked(root, *packages)``: Debian packages as they are, fetched once, unpacked into a folder that can be chrooted
    into: with device nodes, no /proc."""
    assert pytestconfig.cache is not None
    store = pytestconfig.cache.mkdir("debian-packages")

    def make(root: Path, *packages: str) -> Path:
        for package in packages:
            if not list(store.glob(f"{package}_*.deb")):
                subprocess.run(["apt-get", "-q", "download", package], cwd=store, check=True, capture_output=True, timeout=120)
            (file,) = store.glob(f"{package}_*.deb")
            subprocess.run(["dpkg", "-x", str(file), str(root)], check=True)
        for folder in ("dev", "tmp", "proc", "etc"):
            (root / folder).mkdir(exist_ok=True)
        subprocess.run(["mknod", "-m", "666", str(root / "dev/null"), "c", "1", "3"], check=True)
        busybox = root / "bin/busybox"
        if busybox.exists():
            for applet in ("sh", "id", "tail", "cat", "ls"):
                if not (root / "bin" / applet).exists():
                    (root / "bin" / applet).symlink_to("busybox")
        return root

    return make


def inspect(login: tuple[str, ...], folder: Path) -> tuple[int, str]:
    """Exit code and error of ``livep2v inspect root@oldbox``, where ``ssh`` leads to whatever ``login`` makes of it."""
    path = other_ssh(folder / "bin", login)
    done = subprocess.run(
        [*CLI, "inspect", "root@oldbox"], capture_output=True, text=True, check=False, timeout=60, cwd=ROOT,
        env={**os.environ, "PATH": f"{path}:{os.environ['PATH']}"},
    )
    return done.returncode, done.stderr


def assert_no_python(root: Path, folder: Path, package: str, *words: str) -> None:
    """Exit code 13, one sentence that names the package; and the tree is as it was."""
    before = listing(root)
    code, said = inspect(("chroot", str(root)), folder)
    assert code == 13, said
    (line,) = [text for text in said.splitlines() if text.startswith("NoPython:")]
    assert said.strip() == line, "one sentence, nothing else"
    assert f"install the package {package} there" in line
    for word in ("root@oldbox", *words):
        assert word in line
    assert listing(root) == before


def listing(root: Path) -> list[str]:
    return sorted(f"{path} {path.lstat().st_mtime_ns}" for path in root.rglob("*"))


@pytest.mark.parametrize(
    ("os_id", "package"),
    [("debian", "python3"), ("arch", "python"), ("sles", "python3"), ("opensuse-leap", "python3"), ("", "python3")],
)
def test_no_python_at_all(os_id: str, package: str, unpacked: Callable[..., Path], tmp_path: Path) -> None:
    root = unpacked(tmp_path / "root", *BUSYBOX)
    if os_id:
        (root / "etc/os-release").write_text(f'NAME="Some system"\nID={os_id}\nVERSION_ID="1"\n')
    assert_no_python(root, tmp_path, package, "there is none")


def test_debians_minimal_python(unpacked: Callable[..., Path], tmp_path: Path) -> None:
    """The real one: it starts, and has neither json nor mmap."""
    root = unpacked(tmp_path / "root", *BUSYBOX, *MINIMAL)
    (root / "etc/os-release").write_text('NAME="Debian GNU/Linux"\nID=debian\nVERSION_ID="12"\n')
    if not (root / "usr/bin/python3").exists():
        (root / "usr/bin/python3").symlink_to("python3.11")
    alone = ["chroot", str(root), "/usr/bin/python3", "-c"]
    assert subprocess.run([*alone, "import sys; sys.exit(sys.version_info < (3, 6))"], check=False).returncode == 0
    for module in ("json", "mmap"):
        done = subprocess.run([*alone, f"import {module}"], capture_output=True, text=True, check=False)
        assert f"No module named '{module}'" in done.stderr
    for path in root.rglob("__pycache__"):
        shutil.rmtree(path)
    assert_no_python(root, tmp_path, "python3", "/usr/bin/python3", "No module named 'json'", "minimal")


def test_a_python_older_than_3_6(unpacked: Callable[..., Path], tmp_path: Path) -> None:
    """Ubuntu 16.04 has 3.5.2: it fails the version test without a word, and says its version when asked."""
    root = unpacked(tmp_path / "root", *BUSYBOX)
    (root / "etc/os-release").write_text('ID=ubuntu\nVERSION_ID="16.04"\n')
    (root / "usr/bin").mkdir(parents=True, exist_ok=True)
    python = root / "usr/bin/python3"
    python.write_text('#!/bin/sh\nif [ "$1" = -V ]; then echo "Python 3.5.2"; exit 0; fi\nexit 1\n')
    python.chmod(0o755)
    assert_no_python(root, tmp_path, "python3", "/usr/bin/python3 is Python 3.5.2")


def test_the_source_keeps_no_bytecode_of_ours(tmp_path: Path) -> None:
    """A Python whose standard library was never compiled would compile it now, into the source's own folders."""
    cache = tmp_path / "bytecode"
    code, said = inspect(("env", "-u", "PYTHONDONTWRITEBYTECODE", f"PYTHONPYCACHEPREFIX={cache}"), tmp_path)
    assert code == 0, said
    assert not cache.exists()


def test_neither_root_nor_sudo(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    code, said = inspect(("runuser", "-u", "nobody", "--"), tmp_path)
    assert code == 12, said
    (line,) = said.strip().splitlines()
    assert line.startswith("NotRoot: root@oldbox: user nobody is not root")
    assert "sudo" in line and "nobody ALL=(root) NOPASSWD: ALL" in line and "/etc/sudoers.d/" in line


POWERLESS = ("setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin")  # as root in most containers


def test_no_tracefs_is_told_by_inspect() -> None:
    argv = [*POWERLESS, *CLI, "inspect", "local", "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    (found,) = [event for event in map(json.loads, done.stdout.splitlines()) if event["event"] == "inspection"]
    assert found["machine"]["abilities"]["tracefs"] == ""
    assert found["plan"] is None
    assert "writes cannot be tracked" in found["refusal"]
    assert "CAP_SYS_ADMIN" in found["refusal"] and "convert its disk as an image" in found["refusal"]


def test_no_tracefs_is_refused_before_anything_is_copied(tmp_path: Path) -> None:
    argv = [*POWERLESS, *CLI, "convert", "local", "-o", str(tmp_path / "jobs")]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 3, done.stderr
    assert "writes cannot be tracked" in done.stderr and "CAP_SYS_ADMIN" in done.stderr
    assert not (tmp_path / "jobs").exists()


TRY = """
import os, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from livep2v.errors import TrackingUnavailable, to_wire
from livep2v.model import SnapshotSpec, from_json
from livep2v.source.local import LocalSource
from tests.support.faults import receiving
import json, threading
spec = from_json(SnapshotSpec, json.loads(sys.argv[1]))
source = LocalSource()
with receiving(Path(sys.argv[2]), spec.disks[0].size) as (receiver, held, path):
    try:
        source.copy(spec, receiver, lambda name, facts: None)
    except TrackingUnavailable as error:
        print(json.dumps([str(error), error.exit_code, os.getpid(), source._guardian.pid, path.stat().st_blocks]))
    source.close()
assert threading.active_count() == 1, threading.enumerate()
open_files = [os.path.realpath("/proc/self/fd/" + name) for name in os.listdir("/proc/self/fd")]
assert spec.disks[0].path not in open_files, open_files
"""


def test_tracking_refused_at_the_copy_leaves_nothing(tmp_path: Path) -> None:
    """The plan said yes and the kernel says no."""
    with loop_disk(tmp_path, 64 * MIB, MIB, old_data=False) as disk:
        done = subprocess.run(
            [*POWERLESS, CLI[0], "-c", TRY.format(root=str(ROOT)), json.dumps(to_json(disk.spec())), str(tmp_path)],
            capture_output=True, text=True, check=False, cwd=ROOT, timeout=60,
        )
        assert done.returncode == 0, done.stderr
        message, code, agent, watchdog, blocks = json.loads(done.stdout)
        assert code == 21 and "tracefs cannot be mounted" in message and "are you root, outside a container?" in message
        assert blocks == 0, "nothing was copied"
        assert not is_frozen(disk.mountpoint)
        assert_nothing_left({agent, watchdog})


def test_no_room_for_an_instance_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """tracefs is there, but making an instance fails: here its name is taken, by a folder that only looks like one."""
    place = tmp_path / "tracing"
    (place / "instances" / f"livep2v-{os.getpid()}").mkdir(parents=True)
    monkeypatch.setattr(tracefs, "find", lambda: str(place))
    with loop_disk(tmp_path, 64 * MIB, MIB, old_data=False) as disk:
        source = LocalSource()
        assert source._guardian is not None
        watchdog = source._guardian.pid
        with (
            contextlib.closing(source),
            receiving(tmp_path, disk.size, disk.name) as (receiver, _, _),
            pytest.raises(TrackingUnavailable, match="File exists"),
        ):
            source.copy(disk.spec(), receiver, lambda name, facts: None)
        assert not is_frozen(disk.mountpoint)
    assert_nothing_left({watchdog})
