"""The job folder: made once, written atomically, visibly failed."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from livep2v.errors import BootCheckError, HostDiskFull, HostError, JobExists, UsageError, VerifyError
from livep2v.host.job import Job, create, failed_report, write_atomically
from livep2v.model import BootCheck, Report, Verification, from_json

REPORT = Report("done", "0.1.0", "root@oldbox", "oldbox", warnings=("größer",))


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    job = create(tmp_path / "out" / "deep", "oldbox")
    yield job
    job.close()


def test_finished_job(job: Job) -> None:
    assert (job.folder / "RUNNING").read_text().startswith("livep2v, process ")
    job.event("phase", {"name": "Copying", "number": 1, "of": 2})
    job.event("bytes", {"done": 1})
    logging.getLogger("livep2v.host.run").error("failed with status 1: false")
    job.finish(REPORT)
    assert sorted(path.name for path in job.folder.iterdir()) == ["logs", "report.json"]
    assert from_json(Report, json.loads(job.report_file.read_text())) == REPORT
    (line,) = (job.logs / "events.jsonl").read_text().splitlines()
    event = json.loads(line)
    assert event["event"] == "phase" and event["name"] == "Copying" and event["time"] > 1.7e9
    assert "failed with status 1: false" in (job.logs / "livep2v.log").read_text()
    job.event("log", {"text": "late"})  # after the end: nothing happens
    assert "late" not in (job.logs / "events.jsonl").read_text()
    assert not [h for h in logging.getLogger("livep2v").handlers if isinstance(h, logging.FileHandler)]


def test_existing_job_is_left_alone(tmp_path: Path) -> None:
    for name in ("folder", "file", "link"):
        target = tmp_path / name
        {"folder": target.mkdir, "file": target.touch, "link": lambda: (tmp_path / "link").symlink_to("nowhere")}[name]()
        with pytest.raises(JobExists, match=name):
            create(tmp_path, name)
    assert not list((tmp_path / "folder").iterdir())


def test_of_two_conversions_one_gets_the_name(tmp_path: Path) -> None:
    jobs: list[Job] = []
    errors: list[JobExists] = []
    barrier = threading.Barrier(8)

    def make() -> None:
        barrier.wait()
        try:
            jobs.append(create(tmp_path, "same"))
        except JobExists as error:
            errors.append(error)

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for job in jobs:
        job.close()
    assert (len(jobs), len(errors)) == (1, 7)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", "a\nb", "a\0b"])
def test_names_that_are_none(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError):
        create(tmp_path, name)
    assert not list(tmp_path.iterdir())


def test_output_that_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HostError, match="-o"):
        create(tmp_path / "file", "x")
    with pytest.raises(HostError):
        create(tmp_path / "file" / "below", "x")


def test_failed_before_it_was_tried(job: Job) -> None:
    job.start_script.write_text("#!/bin/sh\n")
    report = failed_report(REPORT, VerifyError(disk="sda", blocks=3, offset=65536))
    job.fail(report)
    assert sorted(path.name for path in job.folder.iterdir()) == ["FAILED.txt", "logs", "report.json"]
    text = (job.folder / "FAILED.txt").read_text()
    assert "VerifyError: sda: 3 blocks of the replica differ" in text and "do not use them" in text and str(job.folder) in text
    written = json.loads(job.report_file.read_text())
    assert (written["state"], written["exit_code"]) == ("failed", 60)


def test_failed_boot_check_keeps_the_start_script(job: Job) -> None:
    job.start_script.write_text("#!/bin/sh\n")
    verified = Verification(True, 1, 0, 65536, 0.1)
    tried = REPORT._replace(verify=verified, boot_check=BootCheck(False, "the kernel panicked", 9.0, "tcg"))
    job.fail(failed_report(tried, BootCheckError(reason="the kernel panicked", log="logs/serial.log")))
    assert job.start_script.exists()
    assert "not a VM that is known to boot" in (job.folder / "FAILED.txt").read_text()
    assert json.loads(job.report_file.read_text())["exit_code"] == 80


def test_unexpected_error_is_a_failure_too(job: Job) -> None:
    assert failed_report(REPORT, ValueError("x"))[-2:] == ("ValueError: x", 1)


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A real file system with 64 KiB."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a tmpfs")
    folder = tmp_path / "tiny"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_full_disk_keeps_the_old_file(tiny: Path) -> None:
    path = tiny / "report.json"
    write_atomically(path, "old")
    with pytest.raises(HostDiskFull) as caught:
        write_atomically(path, "x" * 100_000)
    assert caught.value.facts["needed"] == 100_000
    assert path.read_text() == "old" and [entry.name for entry in tiny.iterdir()] == ["report.json"]


def test_failure_on_a_full_disk_is_still_visible(tiny: Path) -> None:
    job = create(tiny, "full")
    try:
        (job.folder / "sda.raw").write_bytes(bytes(1))
        with pytest.raises(OSError, match="No space"), (job.folder / "sda.raw").open("ab") as file:
            file.write(bytes(100_000))
            file.flush()
        job.fail(failed_report(REPORT, HostDiskFull(path="sda.raw", needed=100_000, free=0)))
        assert (job.folder / "FAILED.txt").exists() and not (job.folder / "RUNNING").exists()
    finally:
        job.close()
