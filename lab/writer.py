"""The oracle of consistency: a client outside the machine that commits numbered rows and writes down what was acknowledged.

A copy of the machine is consistent when it holds every row whose commit was acknowledged before the instant, none that was
sent after it, and no gap in between. As a program (``python -m lab.writer PORT FILE``) it commits rows one by one until
SIGTERM: a process of its own, so that nothing else of the host's delays the times it takes (``time.time()``).

A line of the file is ``NUMBER SENT ACKED``, or ``NUMBER SENT lost`` where the connection ended before the answer came.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import pg8000.exceptions
import pg8000.native

from livep2v.errors import HostError
from livep2v.host.run import running

from .machine import Machine

PAYLOAD = "x" * 200  # about 30 rows a database page: most commits dirty a page that was dirty, as in a real ledger
RECONNECT_PAUSE = 0.2  # s


@dataclass(frozen=True)
class Ack:
    """A row that was sent; ``acked`` is None if nobody knows whether it was committed."""

    number: int
    sent: float
    acked: float | None


@dataclass(frozen=True)
class Proof:
    """What the copy holds against what was acknowledged."""

    rows: int  # in the copy
    before: int  # acknowledged before the instant
    after: int  # sent after it
    missing: tuple[int, ...]  # acknowledged before, not in the copy
    too_new: tuple[int, ...]  # sent after, in the copy
    gaps: tuple[int, ...]  # numbers below the highest that are not there

    @property
    def ok(self) -> bool:
        """Also False when it proves nothing: no row before, or none after the instant."""
        return self.before > 0 and self.after > 0 and not (self.missing or self.too_new or self.gaps)


def check(rows: Iterable[int], acks: Iterable[Ack], frozen_at: float, thawed_at: float, clock_error: float = 0.0) -> Proof:
    """Compare the row numbers in the copy with what the writer saw.

    ``frozen_at`` and ``thawed_at`` are on the writer's clock, off by at most ``clock_error`` seconds: rows within that
    of either are taken for undecided, as are rows on their way at the instant.
    """
    there = set(rows)
    known = list(acks)
    before = {ack.number for ack in known if ack.acked is not None and ack.acked <= frozen_at - clock_error}
    after = {ack.number for ack in known if ack.sent >= thawed_at + clock_error}
    return Proof(
        rows=len(there),
        before=len(before),
        after=len(after),
        missing=tuple(sorted(before - there)),
        too_new=tuple(sorted(after & there)),
        gaps=tuple(sorted(set(range(1, max(there, default=0) + 1)) - there)),
    )


def read_acks(path: Path) -> list[Ack]:
    """Whole lines of the writer's file; a line that it is just writing is left out."""
    text = path.read_text() if path.exists() else ""
    found = []
    for line in text[: text.rfind("\n") + 1].splitlines():
        number, sent, acked = line.split()
        found.append(Ack(int(number), float(sent), None if acked == "lost" else float(acked)))
    return found


def longest_pause(acks: Iterable[Ack]) -> float:
    """Seconds that the slowest commit took, from sending the row to its acknowledgement."""
    return max((ack.acked - ack.sent for ack in acks if ack.acked is not None), default=0.0)


@contextlib.contextmanager
def writing(port: int, acks: Path, *, pace: float = 0.0, first_rows: int = 50) -> Iterator[None]:
    """A writer that runs during the block; the block begins when ``first_rows`` are acknowledged.

    Raises HostError if they are not within two minutes.
    """
    argv = [sys.executable, "-m", "lab.writer", str(port), str(acks), "--pace", str(pace)]
    log_file = acks.with_suffix(".log")
    root = str(Path(__file__).resolve().parents[1])
    with running(argv, log_file=log_file, env={"PYTHONPATH": root}) as process:
        deadline = time.monotonic() + 120
        while len(read_acks(acks)) < first_rows:
            if process.poll() is not None or time.monotonic() > deadline:
                raise HostError(reason=f"the writer wrote no {first_rows} rows: {log_file.read_text()[-500:]}")
            time.sleep(0.2)
        yield
        if process.poll() is not None:
            raise HostError(reason=f"the writer ended by itself, status {process.returncode}: {log_file.read_text()[-500:]}")


CHURN = """\
trap '' PIPE
d=$(mktemp -d /var/tmp/churn.XXXXXX)
i=0
while echo $i; do
    i=$((i+1))
    head -c $((i % 7 * 9000 + 100)) /dev/urandom > $d/$((i % 200))
    rm -f $d/$(((i + 100) % 200))
done 2>/dev/null
rm -r $d
"""


@contextlib.contextmanager
def churning(machine: Machine) -> Iterator[None]:
    """Files are made and deleted on the machine during the block, up to 200 of at most 54 KB. Each round echoes its number,
    which fails when the connection is gone: that ends the loop on the machine too, and removes its folder."""
    argv = ["ssh", "-F", str(machine.ssh_config), machine.built.recipe.name, "--", CHURN]
    with running(argv, log_file=machine.folder / "churn.log"):
        yield


def write_rows(port: int, out: TextIO, pace: float) -> None:
    """Commit rows until SIGTERM. A lost connection is made again; the number then goes on after the highest row there is."""
    stopped = False

    def stop(*_: object) -> None:
        nonlocal stopped
        stopped = True

    signal.signal(signal.SIGTERM, stop)
    while not stopped:
        try:
            connection = pg8000.native.Connection("ledger", host="127.0.0.1", port=port, database="ledger", timeout=60)
        except (pg8000.exceptions.InterfaceError, pg8000.exceptions.DatabaseError, OSError) as error:
            print(error, file=sys.stderr, flush=True)
            time.sleep(RECONNECT_PAUSE)
            continue
        number, sent = 0, 0.0
        try:
            number = connection.run("select coalesce(max(n), 0) from ledger")[0][0]
            while not stopped:
                number += 1
                sent = time.time()
                connection.run("insert into ledger(n, payload) values (:n, :payload)", n=number, payload=PAYLOAD)
                out.write(f"{number} {sent:.6f} {time.time():.6f}\n")
                if pace:
                    time.sleep(pace)
        except (pg8000.exceptions.InterfaceError, pg8000.exceptions.DatabaseError, OSError) as error:
            print(error, file=sys.stderr, flush=True)
            if sent:
                out.write(f"{number} {sent:.6f} lost\n")
        with contextlib.suppress(pg8000.exceptions.InterfaceError, OSError):
            connection.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m lab.writer", description="commit numbered rows, note each acknowledgement")
    parser.add_argument("port", type=int, help="port of this host that leads to PostgreSQL")
    parser.add_argument("acks", type=Path, help="file to append to")
    parser.add_argument("--pace", type=float, default=0.0, help="seconds between rows")
    arguments = parser.parse_args()
    with arguments.acks.open("a", buffering=1) as out:
        write_rows(arguments.port, out, arguments.pace)


if __name__ == "__main__":
    main()
