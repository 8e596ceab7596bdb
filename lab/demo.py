"""``make demo``: convert a machine while its database is being written to, boot the VM, and prove that nothing is torn.

``main_job`` is also what ``tests/machines/test_main_job.py`` judges.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from livep2v import model
from livep2v.errors import HostError, Livep2vError
from livep2v.host.run import running

from .build import Built, build
from .machine import BOOT_TIMEOUT, Machine
from .recipe import OLDBOX
from .ssh import SshDoor, free_port, tail
from .writer import Ack, Proof, check, churning, longest_pause, read_acks, writing

AFTERWARDS = 5.0  # s that the writer goes on after the conversion: rows that must not be in the copy
ROWS_QUERY = "sudo -u postgres psql -At -d ledger -c 'select n from ledger order by n'"


@dataclass(frozen=True)
class Guest:
    """What the converted VM said of itself."""

    rows: tuple[int, ...]  # of the ledger
    root: str  # "/dev/vda2"
    mounts: str  # findmnt of what lies on block devices
    hostname: str
    addresses: str  # ip -brief address
    failed_units: str


@dataclass(frozen=True)
class MainJob:
    folder: Path  # the job
    report: model.Report
    acks: tuple[Ack, ...]
    proof: Proof
    guest: Guest
    longest_pause: float  # s that the slowest commit took, while the conversion ran
    seconds: float  # of the convert command


def main_job(
    output: Path,
    name: str,
    *,
    convert_options: tuple[str, ...] = (),
    churn: bool = False,
    say: Callable[[str], None] = print,
) -> MainJob:
    """Start the machine, convert it over ssh under a writer, boot the VM, compare its rows with the acknowledged ones.

    ``output`` is the folder of jobs, ``name`` the job's. Raises HostError if the conversion or the VM fails; whether the proof
    holds is for the caller to see.
    """
    built = build(OLDBOX, say)
    output.mkdir(parents=True, exist_ok=True)
    acks = output / f"{name}.acks"
    say("starting the machine")
    with Machine(built) as machine, contextlib.ExitStack() as load:
        load.enter_context(writing(machine.pg_port, acks))
        if churn:
            load.enter_context(churning(machine))
        say("converting it while PostgreSQL is being written to")
        started = time.time()
        _convert(machine, output, name, convert_options)
        seconds = time.time() - started
        time.sleep(AFTERWARDS)
    say("booting the VM")
    return judge(output / name, read_acks(acks), built, seconds)


def judge(folder: Path, acks: Sequence[Ack], built: Built, seconds: float = 0.0) -> MainJob:
    """Boot the VM of the job in ``folder`` and compare its rows with ``acks``."""
    report = model.from_json(model.Report, json.loads((folder / "report.json").read_text()))
    if report.frozen_at_host is None or report.thawed_at_host is None:
        raise HostError(reason=f"{folder / 'report.json'} does not say when the instant was")
    with vm(folder, built) as door:
        guest = _ask(door)
    return MainJob(
        folder=folder,
        report=report,
        acks=tuple(acks),
        proof=check(guest.rows, acks, report.frozen_at_host, report.thawed_at_host, report.clock_error or 0.0),
        guest=guest,
        longest_pause=longest_pause(acks),
        seconds=seconds,
    )


def _convert(machine: Machine, output: Path, name: str, options: tuple[str, ...]) -> None:
    """The command as a user gives it; its progress goes to our terminal, so it does not run through ``host.run``."""
    command = Path(sys.executable).with_name("livep2v")
    if not command.exists():
        raise HostError(reason=f"{command} is not there; run 'make install'")
    target = f"root@{machine.built.recipe.name}"
    argv = [str(command), "convert", target, "-o", str(output), "--name", name, f"--ssh-option=-F{machine.ssh_config}"]
    status = subprocess.run([*argv, *options], stdin=subprocess.DEVNULL, check=False).returncode
    if status != 0:
        raise HostError(reason=f"livep2v convert ended with status {status}; see {output / name}")


@contextlib.contextmanager
def vm(folder: Path, built: Built) -> Iterator[SshDoor]:
    """The converted VM, run by its own start script on a temporary snapshot, with ssh forwarded to it. Yields the way in."""
    port = free_port()
    log = folder.with_name(f"{folder.name}.vm.log")
    env = {
        "LIVEP2V_NET": f"user,hostfwd=tcp:127.0.0.1:{port}-:22",
        "LIVEP2V_SNAPSHOT": "1",
        "LIVEP2V_DISPLAY": "none",
    }
    with running(["sh", folder / "start.sh"], log_file=log, env=env) as process:
        door = SshDoor(built, port, folder.with_name(f"{folder.name}.ssh_config"))
        deadline = time.monotonic() + BOOT_TIMEOUT
        while not door.opens():
            if process.poll() is not None or time.monotonic() > deadline:
                raise HostError(reason=f"the VM let nobody in by ssh; it said: {tail(log)}")
            time.sleep(1)
        yield door


def _ask(door: SshDoor) -> Guest:
    return Guest(
        rows=tuple(int(line) for line in door.run(ROWS_QUERY).split()),
        root=door.run("findmnt -no SOURCE /").strip(),
        mounts=door.run("findmnt -rno SOURCE,TARGET,FSTYPE | grep ^/dev/"),
        hostname=door.run("hostname").strip(),
        addresses=door.run("ip -brief address"),
        failed_units=door.run("systemctl --failed --no-legend --plain"),
    )


def describe(job: MainJob) -> str:
    """The proof in words."""
    proof, report = job.proof, job.report
    verdict = [
        f"{proof.before} rows acknowledged before the instant: "
        + ("all in the VM" if not proof.missing else f"{len(proof.missing)} MISSING, the first {proof.missing[0]}"),
        f"{proof.after} rows sent after it: "
        + ("none in the VM" if not proof.too_new else f"{len(proof.too_new)} IN THE VM, the first {proof.too_new[0]}"),
        f"{proof.rows} rows in the VM: "
        + ("no gap" if not proof.gaps else f"{len(proof.gaps)} GAPS, the first at {proof.gaps[0]}"),
        f"longest pause that a commit saw: {job.longest_pause * 1000:.0f} ms"
        + (f" (file systems frozen for {report.freeze_ms:.0f} ms)" if report.freeze_ms is not None else ""),
        f"the VM: {job.guest.hostname}, / on {job.guest.root}, "
        + (f"failed units: {' '.join(job.guest.failed_units.split())}" if job.guest.failed_units else "no failed unit"),
        f"job folder: {job.folder}",
    ]
    return "\n".join(["", "PROVED" if proof.ok else "NOT PROVED", *(f"  {line}" for line in verdict)])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m lab.demo", description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=Path("build/demo"), help="folder of jobs (default: build/demo)")
    arguments = parser.parse_args()
    name = f"oldbox-{time.strftime('%Y%m%d-%H%M%S')}"
    job = main_job(arguments.output.resolve(), name, say=lambda text: print(f"==> {text}", flush=True))
    print(describe(job))
    return 0 if job.proof.ok else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Livep2vError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
