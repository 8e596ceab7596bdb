"""The host as an object in this process: parties.Host, by calling the modules that do each step."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from ..errors import HostDiskFull, HostError
from ..model import BootCheck, Changes, HostValues, Machine, Options, Plan, PlanDisk, Verification
from ..parties import Progress
from .accel import accelerator
from .define import qemu
from .digestmap import DigestMap
from .image import create, open_image
from .job import Job
from .job import create as create_job
from .receiver import Held, ImageReceiver
from .run import run
from .verify.boot import boot_check
from .verify.digest import verify
from .virtualize import GuestDisk, virtualize


class LocalHost:
    """This machine, as the place where the VM will live."""

    def __init__(self, options: Options, same_machine: bool = False) -> None:
        self._options = options
        self._same_machine = same_machine
        self._job: Job | None = None
        self._held: list[Held] = []
        self._disks: list[PlanDisk] = []
        self._receiver: ImageReceiver | None = None

    @property
    def job(self) -> Job:
        if self._job is None:
            raise HostError(reason="the job folder has not been made yet")
        return self._job

    def describe(self) -> HostValues:
        output = Path(self._options.output).absolute()
        existing = next(path for path in (output, *output.parents) if path.exists())
        name, reason = accelerator()
        version = run(["qemu-system-x86_64", "--version"], timeout=30).stdout
        found = re.search(r"version (\S+)", version)
        return HostValues(
            accelerator=name,
            accelerator_reason=reason,
            cpus=os.cpu_count() or 1,
            memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            free_space=shutil.disk_usage(existing).free,
            qemu_version=found.group(1) if found else "",
            firmware_files=tuple(pair[0] for pair in qemu.OVMF_PAIRS if Path(pair[0]).exists()),
            output=str(output),
            output_disk_paths=tuple(_disks_under(existing)),
            same_machine=self._same_machine,
        )

    def create_job(self, plan: Plan) -> Job:
        self._job = create_job(Path(self._options.output), plan.job)
        return self._job

    def create_disk(self, disk: PlanDisk) -> str:
        path = self.job.folder / disk.file
        path.parent.mkdir(exist_ok=True)
        free = shutil.disk_usage(path.parent).free
        if disk.subformat == "fixed" and disk.format == "vhd" and free < disk.size:
            raise HostDiskFull(path=path, needed=disk.size, free=free)
        self._disks.append(disk)
        create(path, disk.format, disk.subformat, disk.size).close()
        return disk.file

    def attach(self, disk_id: str) -> str:
        disk = next(item for item in self._disks if item.file == disk_id)
        image = open_image(self.job.folder / disk.file, disk.format, writable=True)
        self._held.append(Held(disk.name, image, DigestMap(self._digests(disk), disk.size)))
        return f"disk {disk.index}"

    def receiver(self) -> ImageReceiver:
        self._receiver = ImageReceiver(self._held)
        return self._receiver

    def verify(self, progress: Progress) -> Verification:
        if self._receiver is not None:
            self._receiver.flush()
        for held in self._held:
            held.image.flush()
        return verify(
            [
                (disk.name, self.job.folder / disk.file, disk.format, held.digests)
                for disk, held in zip(self._disks, self._held, strict=True)
            ],
            progress,
        )

    def detach(self) -> None:
        if self._receiver is not None:
            self._receiver.close()
            self._receiver = None
        while self._held:
            held = self._held.pop()
            held.digests.close()
            held.image.close()

    def virtualize(self, machine: Machine, plan: Plan, progress: Progress) -> Changes:
        disks = [GuestDisk(self.job.folder / disk.file, disk.format, disk) for disk in plan.snapshot.disks]
        return virtualize(self.job.folder, disks, machine, plan, progress, accelerator=accelerator().name)

    def define(self, plan: Plan, changes: Changes) -> Plan:
        vm = plan.vm._replace(
            disk_bus=changes.disk_bus, nics=tuple(nic._replace(model=changes.nic_model or nic.model) for nic in plan.vm.nics)
        )
        plan = plan._replace(vm=vm)
        name, reason = accelerator()
        qemu.install_firmware(self.job.folder, vm)
        script = qemu.start_script(
            vm, plan.snapshot.disks, disk_bus=vm.disk_bus, nic_model=changes.nic_model, accelerator=name, reason=reason
        )
        qemu.write_start_script(self.job.folder, script)
        return plan

    def boot_check(self, plan: Plan, changes: Changes, progress: Progress) -> BootCheck:
        disks = [(disk, self.job.folder / disk.file) for disk in plan.snapshot.disks]
        return boot_check(
            self.job.folder, plan.vm, disks, changes, accelerator().name, self._options.boot_timeout, progress
        )

    def _digests(self, disk: PlanDisk) -> Path:
        folder = self.job.folder / "digests"
        folder.mkdir(exist_ok=True)
        return folder / f"{disk.index}-{disk.name.replace('/', '_')}.blake2b"

    def file_bytes(self, disk: PlanDisk) -> int:
        """Bytes that the virtual disk file takes on this host."""
        return (self.job.folder / disk.file).stat().st_blocks * 512

    def close(self) -> None:
        self.detach()


def _disks_under(path: Path) -> list[str]:
    """The whole disks that the file system of ``path`` lies on ("/dev/sda"), through LVM, md and loop devices."""
    number = path.stat().st_dev
    start = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")
    if not start.exists():  # tmpfs, NFS, btrfs: the first two are on no disk, btrfs names its device in mountinfo
        return _btrfs_disks(number)
    return sorted(_physical(start.resolve()))


def _physical(node: Path) -> set[str]:
    slaves = list((node / "slaves").iterdir()) if (node / "slaves").is_dir() else []
    if slaves:
        return set().union(*(_physical(slave.resolve()) for slave in slaves))
    whole = node.parent if (node / "partition").exists() else node
    backing = whole / "loop" / "backing_file"
    if backing.exists():
        file = Path(backing.read_text().strip())
        return set(_disks_under(file)) | {f"/dev/{whole.name}"} if file.exists() else {f"/dev/{whole.name}"}
    return {f"/dev/{whole.name.replace('!', '/')}"}


def _btrfs_disks(number: int) -> list[str]:
    wanted = f"{os.major(number)}:{os.minor(number)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        words = rest.split()
        if fields.split()[2] == wanted and len(words) > 1 and words[1].startswith("/dev/"):
            device = Path(words[1]).stat().st_rdev
            return sorted(_physical(Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve()))
    return []
