"""What the user sees while a conversion runs: a live line on a terminal, plain lines elsewhere, or JSON events.

All three take the events of docs/events.md. Showing is never a reason for a conversion to stop: when the output is gone (a
closed pipe), the rest is not shown.
"""

from __future__ import annotations

import collections
import os
import sys
import time
from types import TracebackType
from typing import Protocol, TextIO

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from ..host.job import event_line
from ..plan.text import size
from .units import clock

RATE_WINDOW = 10.0  # s over which the shown rate is averaged
PLAIN_INTERVAL = 10.0  # s between plain lines on one phase: a log of an eight-hour copy stays readable
BOOT_INTERVAL = 30.0  # s between plain lines on the boot check


class Printer(Protocol):
    doing: str  # the phase, in words

    def __enter__(self) -> Printer: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...

    def __call__(self, name: str, facts: dict[str, object]) -> None:
        """Show one event."""


def printer(json: bool) -> Printer:
    """The printer for this process' stdout."""
    if json:
        return JsonPrinter(sys.stdout)
    if sys.stdout.isatty():
        return LivePrinter(Console(highlight=False))
    return PlainPrinter(sys.stdout)


def silence(stream: TextIO) -> None:
    """Point ``stream`` at nothing after its reader has gone, so that the interpreter does not stumble at exit either."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, stream.fileno())
    except (OSError, ValueError):
        pass  # not a file of the system
    finally:
        os.close(nothing)


class Rate:
    """Bytes per second over the last seconds, and what that means for the rest."""

    def __init__(self) -> None:
        self._seen: collections.deque[tuple[float, int]] = collections.deque()

    def add(self, now: float, done: int) -> None:
        if self._seen and done < self._seen[-1][1]:
            self._seen.clear()  # another count has begun
        self._seen.append((now, done))
        while now - self._seen[0][0] > RATE_WINDOW and len(self._seen) > 2:
            self._seen.popleft()

    @property
    def value(self) -> float:
        if len(self._seen) < 2 or self._seen[-1][0] <= self._seen[0][0]:
            return 0.0
        return (self._seen[-1][1] - self._seen[0][1]) / (self._seen[-1][0] - self._seen[0][0])

    def left(self, total: int) -> float | None:
        """Seconds until ``total``, None as long as nothing moves."""
        return (total - self._seen[-1][1]) / self.value if self.value > 0 else None


def number(facts: dict[str, object], key: str) -> float:
    value = facts.get(key)
    return float(value) if isinstance(value, int | float) else 0.0


def sentence(name: str, facts: dict[str, object]) -> str:
    """An event that happens once, in words; empty for those that only move the bar."""
    match name:
        case "pass":
            blocks, dirty = number(facts, "blocks"), number(facts, "dirty_after")
            kind = f"pass {facts.get('number')}"
            return f"{kind}: {size(int(blocks) * 65536)} in {number(facts, 'seconds'):.1f} s, then {dirty:.0f} blocks dirty"
        case "frozen":
            mountpoints = facts.get("mountpoints")
            return f"frozen: {' '.join(map(str, mountpoints))}" if isinstance(mountpoints, list | tuple) else "frozen"
        case "thawed":
            return f"thawed after {number(facts, 'ms'):.0f} ms"
        case "warning":
            return f"warning: {facts.get('text')}"
        case "log":
            return str(facts.get("text"))
        case "done":
            return f"done: {facts.get('job')}"
    return ""


class JsonPrinter:
    """One JSON object a line."""

    def __init__(self, out: TextIO) -> None:
        self.doing = "starting"
        self._out: TextIO | None = out

    def __enter__(self) -> Printer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass

    def __call__(self, name: str, facts: dict[str, object]) -> None:
        if name == "phase":
            self.doing = str(facts.get("name"))
        self._out = emit(self._out, event_line(name, facts))


def emit(out: TextIO | None, line: str) -> TextIO | None:
    """Write ``line``; the answer is where the next one goes, None once nobody reads."""
    if out is None:
        return None
    try:
        out.write(line + "\n")
        out.flush()
    except OSError:
        silence(out)
        return None
    return out


class PlainPrinter:
    """A line for each thing that happens, and one every ten seconds for what moves."""

    def __init__(self, out: TextIO) -> None:
        self.doing = "starting"
        self._out: TextIO | None = out
        self._rate = Rate()
        self._started = time.monotonic()
        self._next = 0.0

    def __enter__(self) -> Printer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass

    def __call__(self, name: str, facts: dict[str, object]) -> None:
        now = time.monotonic()
        if name == "phase":
            self.doing = str(facts.get("name"))
            self._rate, self._next = Rate(), now + PLAIN_INTERVAL
            self._line(f"{facts.get('number')}/{facts.get('of')} {self.doing}")
        elif name == "bytes":
            done, total = int(number(facts, "done")), int(number(facts, "total"))
            self._rate.add(now, done)
            if now >= self._next:
                self._next = now + PLAIN_INTERVAL
                self._line(f"    {facts.get('phase')}: {moved(done, total, self._rate)}")
        elif name == "boot":
            if now >= self._next:
                self._next = now + BOOT_INTERVAL
                self._line(f"    {booting(facts)}")
        elif text := sentence(name, facts):
            self._line(f"    {text}")

    def _line(self, text: str) -> None:
        self._out = emit(self._out, f"[{time.monotonic() - self._started:7.1f} s] {text}")


def moved(done: int, total: int, rate: Rate) -> str:
    """ "1.2 GiB of 4.0 GiB, 35.1 MiB/s, 1 min 20 s left"."""
    left = rate.left(total)
    parts = [f"{size(done)} of {size(total)}"]
    if rate.value > 0:
        parts.append(f"{size(int(rate.value))}/s")
    if left is not None and done < total:
        parts.append(f"{clock(left)} left")
    return ", ".join(parts)


def booting(facts: dict[str, object]) -> str:
    line = facts.get("line") or "no output yet"
    return f"{clock(number(facts, 'elapsed'))} of at most {clock(number(facts, 'timeout'))}: {line}"


class LivePrinter:
    """On a terminal: the phase that runs is one line that moves, what is over stays above it."""

    def __init__(self, console: Console) -> None:
        self.doing = "starting"
        self._console = console
        self._rate = Rate()
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[detail]}", markup=False),
            console=console,
            transient=True,
        )
        self._task: TaskID | None = None
        self._phase_started = 0.0

    def __enter__(self) -> Printer:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._close_phase("[green]✓[/]" if error is None else "[red]✗[/]")
        self._bar.stop()

    def __call__(self, name: str, facts: dict[str, object]) -> None:
        try:
            self._show(name, facts)
        except OSError:  # the terminal has gone
            self._task = None

    def _show(self, name: str, facts: dict[str, object]) -> None:
        if name == "phase":
            self._close_phase("[green]✓[/]")
            self.doing = str(facts.get("name"))
            self._rate, self._phase_started = Rate(), time.monotonic()
            head = f"{facts.get('number')}/{facts.get('of')} {escape(self.doing)}"
            self._task = self._bar.add_task(head, total=None, detail="")
        elif name == "bytes" and self._task is not None:
            done, total = int(number(facts, "done")), int(number(facts, "total"))
            self._rate.add(time.monotonic(), done)
            detail = f"{facts.get('phase')}: {moved(done, total, self._rate)}"
            self._bar.update(self._task, completed=done, total=total or None, detail=detail)
        elif name == "boot" and self._task is not None:
            self._bar.update(self._task, detail=booting(facts)[: max(self._console.width - 70, 20)])
        elif text := sentence(name, facts):
            style = "yellow" if name == "warning" else "green" if name in ("done", "thawed") else "dim"
            self._bar.console.print(f"    {text}", style=style, markup=False)

    def _close_phase(self, mark: str) -> None:
        if self._task is not None:
            took = clock(time.monotonic() - self._phase_started)
            self._bar.remove_task(self._task)
            self._task = None
            self._bar.console.print(f"{mark} {escape(self.doing)} [dim]({took})[/]")
