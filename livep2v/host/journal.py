"""What happens in a job, as it happens: phases timed, events logged, the report filled in, a failure made visible."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import BootCheckError, Cancelled
from ..model import BootCheck, Changes, Instant, Machine, Options, Phase, Plan, Report
from ..parties import Progress
from .job import Job, failed_report


class Journal:
    """Keeps the :class:`Report` of one conversion. ``progress`` receives every event, the job's log those worth keeping."""

    def __init__(self, options: Options, progress: Progress, steps: int) -> None:
        self.report = Report("running", __version__, options.source, options.name)
        self._listener = progress
        self._steps = steps
        self._number = 0
        self._doing = "starting"
        self._job: Job | None = None

    def progress(self, name: str, facts: dict[str, object]) -> None:
        """Pass an event on, and log it."""
        if name == "warning":
            text = str(facts.get("text"))
            if text in self.report.warnings:
                return
            self.report = self.report._replace(warnings=(*self.report.warnings, text))
        if self._job is not None:
            self._job.event(name, facts)
        self._listener(name, facts)

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """One phase: announced, timed, recorded also when it fails."""
        self._number += 1
        self._doing = name[:1].lower() + name[1:]
        started, clock = time.time(), time.monotonic()
        self.progress("phase", {"name": name, "number": self._number, "of": self._steps})
        try:
            yield
        finally:
            phase = Phase(name, started, round(time.monotonic() - clock, 3))
            self.report = self.report._replace(phases=(*self.report.phases, phase))

    def open(self, job: Job, plan: Plan, machine: Machine) -> None:
        """The job folder exists from here on."""
        self._job = job
        self.note(job=plan.job, machine=machine)
        for text in (*machine.warnings, *plan.warnings):
            self.progress("warning", {"text": text})

    def note(self, **fields: Any) -> None:
        """Fill in fields of the report."""
        self.report = self.report._replace(**fields)

    def copied(self, instant: Instant, clock_offset: float, clock_error: float) -> None:
        """``clock_offset``: source's clock minus the host's, s."""
        live = instant.provider != "offline"
        self.note(
            instant=instant,
            freeze_ms=instant.freeze_ms,
            frozen_at_host=instant.frozen_at - clock_offset if live else None,
            thawed_at_host=instant.thawed_at - clock_offset if live else None,
            clock_error=clock_error,
        )

    def repaired(self, changes: Changes) -> None:
        self.note(repair=changes._replace(changes=()), changes=changes.changes)
        for text in changes.warnings:
            self.progress("warning", {"text": text})

    def booted(self, check: BootCheck) -> None:
        """Raises BootCheckError where the guest did not come up."""
        self.note(boot_check=check)
        if not check.ok:
            folder = self._job.folder if self._job else Path()
            raise BootCheckError(reason=check.verdict, log=str(folder / check.serial_log))

    @contextlib.contextmanager
    def recorded(self) -> Iterator[None]:
        """Ends the report: "done", or "failed" with the error. Ctrl-C becomes Cancelled."""
        try:
            yield
        except KeyboardInterrupt as interrupt:
            error = Cancelled(doing=self._doing)
            self._fail(error)
            raise error from interrupt
        except BaseException as error:
            self._fail(error)
            raise
        self.note(state="done")
        if self._job is not None:
            self._job.finish(self.report)
            self.progress("done", {"job": str(self._job.folder)})

    def _fail(self, error: BaseException) -> None:
        self.report = failed_report(self.report, error)
        if self._job is not None:
            self._job.fail(self.report)
