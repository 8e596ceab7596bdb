"""The main job on the lab machine, its figures ready for docs/measurements.md.

Everything comes from outside the converter where it can: commit pauses from the writer's clock, file sizes from the host's file
system; the rest from the job's report.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from lab.demo import MainJob, main_job

from .table import Table

RUNS = 1
MIB = 1024 * 1024


def measure(runs: int) -> Table:
    """``runs``: conversions of a freshly booted machine each."""
    good = True
    jobs: list[dict[str, str]] = []
    with tempfile.TemporaryDirectory(prefix="livep2v-bench-") as folder:
        for number in range(runs):
            job = main_job(Path(folder), f"run{number}", churn=True, say=lambda text: print(text, file=sys.stderr))
            jobs.append(dict(rows(job)))
            good = good and job.proof.ok
    return Table(
        "Conversion of the lab machine over ssh, under a PostgreSQL writer and file churn",
        ("", *(f"run {number + 1}" for number in range(runs))),
        tuple((name, *(job.get(name, "") for job in jobs)) for name in dict.fromkeys(name for job in jobs for name in job)),
        good,
    )


def rows(job: MainJob) -> list[tuple[str, str]]:
    """Figures of one job: what, how much."""
    report = job.report
    found = [("conversion, seconds", f"{job.seconds:.0f}")]
    found += [(f"phase: {phase.name}, seconds", f"{phase.seconds:.1f}") for phase in report.phases]
    if report.freeze_ms is not None:
        found.append(("file systems frozen, ms", f"{report.freeze_ms:.0f}"))
    found.append(("longest commit pause, ms", f"{job.longest_pause * 1000:.0f}"))
    counts = (job.proof.before, len(job.proof.missing), len(job.proof.too_new), len(job.proof.gaps))
    found.append(("rows committed / lost / too new / gaps", " / ".join(map(str, counts))))
    for disk in report.disks:
        ratio = (disk.sent_bytes - disk.resent_bytes) / disk.used_bytes if disk.used_bytes else 0.0
        allocated = (job.folder / disk.file).stat().st_blocks * 512
        found += [
            (f"{disk.name}: size / used, MiB", f"{disk.virtual_size / MIB:.0f} / {disk.used_bytes / MIB:.0f}"),
            (f"{disk.name}: sent / of it again, MiB", f"{disk.sent_bytes / MIB:.0f} / {disk.resent_bytes / MIB:.0f}"),
            (f"{disk.name}: (sent - again) / used", f"{ratio:.3f}"),
            (f"{disk.name}: virtual disk on the host, MiB", f"{allocated / MIB:.0f}"),
        ]
    if report.instant is not None:
        found.append(("sent over ssh after compression, MiB", f"{report.instant.wire_bytes / MIB:.0f}"))
        found.append(("passes: blocks", ", ".join(str(one.blocks) for one in report.instant.passes)))
        found.append(("agent's memory, MiB", f"{report.instant.peak_memory / MIB:.0f}"))
    if report.repair is not None:
        found.append(("repair, seconds", f"{report.repair.seconds:.1f}"))
    if report.boot_check is not None:
        found.append((f"boot check ({report.boot_check.accelerator}), seconds", f"{report.boot_check.seconds:.0f}"))
    return found
