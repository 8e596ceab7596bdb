"""A replica of a local disk image by the steps of the conversion that come before verification and repair."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import NamedTuple

from livep2v.host.local import LocalHost
from livep2v.host.remote import RemoteSource
from livep2v.host.target import parse
from livep2v.model import Machine, Options, Plan
from livep2v.plan import plan as decide


class Replica(NamedTuple):
    file: Path  # its only disk
    machine: Machine
    plan: Plan
    seconds: float  # from the start of the agent to the closed file


def replicate(image: Path, output: Path, name: str, image_format: str) -> Replica:
    """Copy ``image`` into a new job folder ``output/name``. Agent, wire, digests and all: what ``livep2v convert`` does."""
    options = Options(source=str(image), output=str(output), name=name, format=image_format)
    host = LocalHost(options)
    values = host.describe()  # tries KVM out, which has nothing to do with copying
    started = time.monotonic()
    with contextlib.closing(host), contextlib.closing(RemoteSource(parse(options.source))) as source:
        machine = source.inspect()
        plan = decide(machine, values, options)
        job = host.create_job(plan)
        for disk in plan.snapshot.disks:
            host.attach(host.create_disk(disk))
        source.copy(plan.snapshot, host.receiver(), lambda name, facts: None)
        host.detach()
        seconds = time.monotonic() - started
        job.close()
    return Replica(job.folder / plan.snapshot.disks[0].file, machine, plan, seconds)
