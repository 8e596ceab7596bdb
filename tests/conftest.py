"""Fixtures that several test folders share."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab import ssh
from lab.build import Built, build
from lab.machine import Machine
from lab.recipe import OLDBOX

MACHINE_TIMEOUT = 1800  # s; a conversion under emulation on two cores, the build of the lab machine before it included


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("machine") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(MACHINE_TIMEOUT))


@pytest.fixture(scope="session")
def built_oldbox() -> Built:
    """The lab machine's disk, from the cache or made now (4 minutes)."""
    return build(OLDBOX)


@pytest.fixture(scope="module")
def oldbox(built_oldbox: Built) -> Iterator[Machine]:
    """A running lab machine, one for the tests of a module."""
    with Machine(built_oldbox) as machine:
        yield machine


@pytest.fixture
def free_port() -> int:
    return ssh.free_port()


@pytest.fixture
def sparse_disk(tmp_path: Path) -> Callable[..., Path]:
    """``sparse_disk(size, name="disk.raw")``: an empty file of ``size`` bytes."""

    def make(size: int, name: str = "disk.raw") -> Path:
        path = tmp_path / name
        path.touch()
        os.truncate(path, size)
        return path

    return make


@pytest.fixture
def loop_device() -> Iterator[Callable[..., str]]:
    """``loop_device(path, offset=0, size=0, sector_size=512)``: a loop device over a file or a part of it, "/dev/loopN".

    A partition is a device of its own, with offset and size: not every kernel scans loop devices for partitions. All are
    detached at the end of the test, whatever becomes of it; unmount before.
    """
    with contextlib.ExitStack() as stack:

        def attach(path: Path, offset: int = 0, size: int = 0, sector_size: int = 512) -> str:
            argv = ["losetup", "--find", "--show", f"--offset={offset}", f"--sector-size={sector_size}", str(path)]
            if size:
                argv.insert(-1, f"--sizelimit={size}")
            device = subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
            stack.callback(subprocess.run, ["losetup", "--detach", device], check=True)
            return device

        yield attach
