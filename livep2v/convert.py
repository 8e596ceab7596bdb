"""The conversation: from a running machine to a VM that boots, in the order of docs/flow.md, and little else.

``Source`` and ``Host`` (parties.py) do the work; what each step gives the next is a record of model.py. Whatever fails, the
source is closed (thawed, untracked, nothing of ours left) and the job is visibly failed.
"""

from __future__ import annotations

import contextlib

from .errors import Refusal
from .host.journal import Journal
from .host.local import LocalHost
from .host.remote import RemoteSource
from .host.target import parse
from .model import HostValues, Instant, Machine, Options, Plan, Report, ReportDisk
from .parties import Progress
from .plan import plan as decide

STEPS = 9


def convert(options: Options, progress: Progress) -> Report:
    """Do the whole job. Raises a Livep2vError, with ``report.json`` written where the job folder exists already.

    ``progress(name, facts)`` is called with the events of docs/events.md, from one thread."""
    target = parse(options.source)
    host = LocalHost(options, same_machine=target.kind == "local")
    journal = Journal(options, progress, STEPS)
    with journal.recorded(), contextlib.closing(host):
        with journal.step("Connecting to the source"):
            source = RemoteSource(target, options.ssh_options)
        with contextlib.closing(source):
            with journal.step("Inspecting the source"):
                machine = source.inspect()
            with journal.step("Deciding what to do"):
                plan = decide(machine, host.describe(), options)
                journal.open(host.create_job(plan), plan, machine)
            with journal.step("Creating the virtual disks"):
                for disk in plan.snapshot.disks:
                    host.attach(host.create_disk(disk))
            with journal.step("Copying the disks at one instant"):
                instant = source.copy(plan.snapshot, host.receiver(), journal.progress)
        journal.copied(instant, source.clock_offset, source.clock_error)
        with journal.step("Verifying the replica"):
            journal.note(verify=host.verify(journal.progress))
            host.detach()
        with journal.step("Repairing the copy so that it boots"):
            changes = host.virtualize(machine, plan, journal.progress)
            journal.repaired(changes)
        with journal.step("Defining the virtual machine"):
            plan = host.define(plan, changes)
            journal.note(vm=plan.vm, disks=disks_of(plan, instant, host))
        if options.boot_check:
            with journal.step("Booting it once in a throw-away overlay"):
                journal.booted(host.boot_check(plan, changes, journal.progress))
    return journal.report


def inspect(options: Options, progress: Progress) -> tuple[Machine, HostValues, Plan | Refusal]:
    """What the machine is and what :func:`convert` would do with it, or why it would refuse. Changes nothing anywhere."""
    target = parse(options.source)
    progress("phase", {"name": "Connecting to the source", "number": 1, "of": 2})
    with contextlib.closing(RemoteSource(target, options.ssh_options)) as source:
        progress("phase", {"name": "Inspecting the source", "number": 2, "of": 2})
        machine = source.inspect()
    values = LocalHost(options, same_machine=target.kind == "local").describe()
    try:
        return machine, values, decide(machine, values, options)
    except Refusal as refusal:
        return machine, values, refusal


def disks_of(plan: Plan, instant: Instant, host: LocalHost) -> tuple[ReportDisk, ...]:
    """The account of each disk for the report. All in bytes, before compression."""
    return tuple(
        ReportDisk(
            name=disk.name,
            file=disk.file,
            format=disk.format,
            subformat=disk.subformat,
            virtual_size=disk.size,
            used_bytes=copy.used,
            sent_bytes=copy.sent,
            resent_bytes=copy.resent,
            zero_bytes=copy.zero,
            left_out_bytes=copy.left_out,
            free_bytes=copy.free,
            file_bytes=host.file_bytes(disk),
            serial=disk.serial,
        )
        for disk, copy in zip(plan.snapshot.disks, instant.disks, strict=True)
    )
