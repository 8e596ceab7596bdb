"""The main job, end to end: a running machine under a database writer and file churn becomes a VM that boots."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from lab.build import Built, layout
from lab.demo import MainJob, describe, main_job

pytestmark = pytest.mark.machine


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> MainJob:
    done = main_job(tmp_path_factory.mktemp("jobs"), "oldbox", churn=True)
    print(describe(done))
    return done


@pytest.fixture(scope="module")
def raw_disk(job: MainJob, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The VM's disk as qemu-img reads it."""
    disk = job.report.disks[0]
    raw = tmp_path_factory.mktemp("raw") / "disk.raw"
    driver = "vpc" if disk.format == "vhd" else disk.format
    subprocess.run(
        ["qemu-img", "convert", "-f", driver, "-O", "raw", str(job.folder / disk.file), str(raw)], check=True
    )
    assert raw.stat().st_size == disk.virtual_size
    return raw


def test_every_acknowledged_row_is_there_and_none_from_after(job: MainJob) -> None:
    assert job.proof.ok, describe(job)


def test_it_runs_on_virtio(job: MainJob) -> None:
    assert job.guest.root == "/dev/vda2"
    assert job.guest.hostname == "oldbox"
    assert {tuple(line.split()) for line in job.guest.mounts.splitlines()} == {
        ("/dev/vda2", "/", "ext4"),
        ("/dev/vda1", "/boot", "ext4"),
    }
    assert "enp0s2" in job.guest.addresses and "10.0.2.15/24" in job.guest.addresses
    assert job.guest.failed_units == ""


def test_commits_hardly_waited(job: MainJob) -> None:
    assert job.longest_pause < 2.0


def test_only_used_blocks_travelled(job: MainJob, raw_disk: Path, built_oldbox: Built) -> None:
    """The disk's free space is full of old data, so a copy that took it would be three times as large. What is used, dumpe2fs
    says."""
    used = 1 << 20  # MBR and the gap with GRUB
    for offset, partition in layout(built_oldbox.recipe):
        if partition.kind == "ext4":
            facts = dumpe2fs(raw_disk, offset)
            used += (int(facts["Block count"]) - int(facts["Free blocks"])) * int(facts["Block size"])
    (disk,) = job.report.disks
    assert disk.sent_bytes <= 1.10 * used + disk.resent_bytes
    print(f"sent {disk.sent_bytes}, of that {disk.resent_bytes} again; used {used}: {disk.sent_bytes / used:.3f}")


def dumpe2fs(image: Path, offset: int) -> dict[str, str]:
    text = subprocess.run(
        ["dumpe2fs", "-h", f"{image}?offset={offset}"], check=True, capture_output=True, text=True
    ).stdout
    return dict(map(str.strip, line.split(":", 1)) for line in text.splitlines() if ":" in line)  # type: ignore[misc]


def test_the_virtual_disk_has_the_source_size(job: MainJob, built_oldbox: Built) -> None:
    assert [disk.virtual_size for disk in job.report.disks] == [built_oldbox.recipe.disk_size]


def test_file_systems_are_clean(raw_disk: Path, built_oldbox: Built) -> None:
    for offset, partition in layout(built_oldbox.recipe):
        if partition.kind == "ext4":
            done = subprocess.run(["e2fsck", "-fn", f"{raw_disk}?offset={offset}"], capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout


def test_the_report_tells_of_success(job: MainJob) -> None:
    report = job.report
    assert report.state == "done" and report.exit_code == 0
    assert report.verify is not None and report.verify.ok
    assert report.boot_check is not None and report.boot_check.ok
    assert report.boot_check.root.startswith("/dev/vda")
    assert report.freeze_ms is not None and 0 < report.freeze_ms < 2000
    assert report.changes and report.phases
