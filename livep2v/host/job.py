"""The job folder: everything that one conversion leaves behind, and how it went, visible at a glance.

::

    NAME/            made by this conversion, never an existing folder
      sda.vhd ...    the virtual disks
      start.sh       starts the VM
      boot.png       what its screen showed at the end of the boot check
      report.json    model.Report, written at the end
      logs/          livep2v.log, events.jsonl, serial.log and other logs
      .reserve       while it runs: room in which to write the report of a failure that a full disk is the cause of
      RUNNING        while the conversion runs; one that is left over says that livep2v was killed
      FAILED.txt     why it failed and what may be deleted
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from pathlib import Path

from ..errors import HostDiskFull, HostError, JobExists, Livep2vError, UsageError
from ..model import Report, to_json

RUNNING = "RUNNING"
FAILED = "FAILED.txt"
REPORT = "report.json"
RESERVE = ".reserve"
RESERVE_SIZE = 512 << 10  # bytes; report.json of a machine with one disk and 60 services has 60 KiB
START = "start.sh"
FREQUENT_EVENTS = ("bytes", "boot")  # many a second; the log keeps the others


class Job:
    """A job folder that this process has made. Not for use by two threads at once, but for :meth:`event`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._events = (self.logs / "events.jsonl").open("a", encoding="utf-8")
        self._handler = logging.FileHandler(self.logs / "livep2v.log", encoding="utf-8")
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        self._logger = logging.getLogger("livep2v")
        self._logger.addHandler(self._handler)

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    @property
    def start_script(self) -> Path:
        return self.folder / START

    @property
    def report_file(self) -> Path:
        return self.folder / REPORT

    @property
    def screenshot(self) -> Path:
        return self.folder / "boot.png"

    def event(self, name: str, facts: dict[str, object]) -> None:
        """Keep a progress event in ``logs/events.jsonl``. A log that cannot be written never stops a conversion."""
        if name in FREQUENT_EVENTS or self._events.closed:
            return
        with contextlib.suppress(OSError, ValueError):
            self._events.write(event_line(name, facts) + "\n")
            self._events.flush()

    def finish(self, report: Report) -> None:
        """The job is good: write the report and take the RUNNING mark away."""
        (self.folder / RESERVE).unlink(missing_ok=True)
        self._write_report(report)
        (self.folder / RUNNING).unlink(missing_ok=True)
        self.close()

    def fail(self, report: Report) -> None:
        """Make the failure visible: ``report.error`` says why. The start script stays only where the VM has been tried, so
        that what was never proven to boot does not look as if it were. Works as far as it can on a full disk."""
        (self.folder / RESERVE).unlink(missing_ok=True)
        if report.boot_check is None:
            self.start_script.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            (self.folder / RUNNING).rename(self.folder / FAILED)  # needs no room, so the mark is there in any case
        with contextlib.suppress(OSError):
            (self.folder / FAILED).write_text(_failed_text(self.folder, report))
        with contextlib.suppress(HostError):
            self._write_report(report)
        self.close()

    def close(self) -> None:
        self._logger.removeHandler(self._handler)
        with contextlib.suppress(OSError):
            self._handler.close()
        with contextlib.suppress(OSError):
            self._events.close()

    def _write_report(self, report: Report) -> None:
        write_atomically(self.report_file, json.dumps(to_json(report), indent=2, ensure_ascii=False) + "\n")


def create(output: Path, name: str) -> Job:
    """Make the job folder ``output/name``. Raises JobExists if anything has that name, UsageError for a name that is not one
    of a folder, HostDiskFull or HostError if it cannot be made."""
    if name in ("", ".", "..") or "/" in name or not name.isprintable():
        raise UsageError(reason=f"--name {name!r} is no name for a folder")
    folder = output.absolute() / name
    try:
        output.mkdir(parents=True, exist_ok=True)
        folder.mkdir()  # atomic: of two conversions with one name only one gets it
    except FileExistsError as error:
        if not output.is_dir():
            raise HostError(reason=f"{output} is not a folder; choose another with -o") from error
        raise JobExists(path=str(folder)) from error
    except OSError as error:
        raise HostError(reason=f"the job folder {folder} cannot be made: {error.strerror}") from error
    try:
        (folder / "logs").mkdir()
        started = time.strftime("%Y-%m-%d %H:%M:%S")
        (folder / RUNNING).write_text(
            f"livep2v, process {os.getpid()}, began on {started}. If it is gone, it was killed: what is in this folder "
            "is not a finished VM, delete the whole folder.\n"
        )
        with contextlib.suppress(OSError), (folder / RESERVE).open("wb") as stream:
            os.posix_fallocate(stream.fileno(), 0, RESERVE_SIZE)
        return Job(folder)
    except OSError as error:
        raise HostError(reason=f"the job folder {folder} cannot be filled: {error.strerror}") from error


def write_atomically(path: Path, text: str) -> None:
    """Replace ``path`` by ``text``: a reader, and a disk after a power cut, has the whole old or the whole new file."""
    new = path.with_name(f".{path.name}.new")
    try:
        with new.open("w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError as error:
        new.unlink(missing_ok=True)
        if error.errno == 28:  # ENOSPC
            free = os.statvfs(path.parent).f_bavail * os.statvfs(path.parent).f_frsize
            raise HostDiskFull(path=str(path), needed=len(text), free=free) from error
        raise HostError(reason=f"{path} cannot be written: {error.strerror}") from error


def event_line(name: str, facts: dict[str, object]) -> str:
    """An event as one line of JSON, as ``--json`` prints it (docs/events.md)."""
    return json.dumps({"event": name, "time": round(time.time(), 3), **facts}, default=str)


def failed_report(report: Report, error: BaseException) -> Report:
    """``report`` with the state, message and exit code of ``error``."""
    code = error.exit_code if isinstance(error, Livep2vError) else Livep2vError.exit_code
    return report._replace(state="failed", error=f"{type(error).__name__}: {error}", exit_code=code)


def _failed_text(folder: Path, report: Report) -> str:
    disks = "The virtual disks here are complete, but what they hold is not a VM that is known to boot."
    if report.verify is None or not report.verify.ok:
        disks = "The virtual disks here are incomplete or not verified: do not use them."
    return (
        f"The conversion of {report.source} failed.\n\n{report.error}\n\n{disks}\n"
        f"Nothing outside this folder belongs to the job; {folder} can be deleted as a whole.\n"
        "Details: report.json and logs/.\n"
    )
