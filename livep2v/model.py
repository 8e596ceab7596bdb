"""The records that the stages of a conversion exchange.

Read this first, then ``convert.py``. All sizes and offsets are bytes, all times seconds (wall-clock times are Unix
seconds of the clock named in the field). Records are immutable, nested records only, so that each can cross the wire as
JSON: ``to_json(record)`` and ``from_json(Class, data)``. This module runs on the source too: Python 3.6, standard library.

    Machine --plan()--> Plan --snapshot--> Instant --virtualize--> Changes --boot check--> BootCheck --> Report
"""
import enum
from typing import Any, NamedTuple, Optional, Tuple, Union

BLOCK = 64 * 1024  # unit of the dirty map, of digests and of the zero test (design section 2)
CHUNK_BLOCKS = 16  # a chunk is one read and one frame: up to 1 MiB
CHUNK = BLOCK * CHUNK_BLOCKS
DIGEST_SIZE = 16  # BLAKE2b-128 of one block; 16 zero bytes stand for a block of zeros (never computed, see wire/codecs.py)


class Firmware(enum.Enum):
    BIOS = "bios"
    UEFI = "uefi"


class Action(enum.Enum):
    """What the copy does with one region of a disk."""

    COPY = "copy"  # every block (boot areas, tables, unknown content); zero blocks are still not sent
    USED = "used"  # only the blocks that the file system says are used
    HEADER = "header"  # only the first ``header_length`` bytes (swap: label and UUID stay, the pages do not travel)
    SKIP = "skip"  # nothing (unpartitioned space)


class Extent(NamedTuple):
    """A range of bytes of one disk: ``offset .. offset + length``."""

    offset: int
    length: int


# ---------------------------------------------------------------- what the source is


class Cpu(NamedTuple):
    arch: str  # "x86_64"
    vendor: str  # "GenuineIntel"
    model: str
    count: int  # type: ignore[assignment]  # logical processors online (hides tuple.count)
    sockets: int = 1
    cores: int = 1  # per socket
    threads: int = 1  # per core
    flags: Tuple[str, ...] = ()


class Smbios(NamedTuple):
    """Identity strings of the machine; empty where the firmware has none."""

    uuid: str = ""
    manufacturer: str = ""
    product: str = ""
    serial: str = ""
    bios_vendor: str = ""
    is_virtual: bool = False  # the CPU has the hypervisor flag, or SMBIOS names a hypervisor


class Volume(NamedTuple):
    """What a partition or a whole disk holds, from its own superblock."""

    kind: str  # "ext4" "xfs" "swap" "vfat" "LVM2_member" ... (blkid's names), "extended", "unknown", "empty" or "unreadable"
    uuid: str = ""
    label: str = ""
    used: Optional[int] = None  # bytes used, where the used-block map is known
    detail: str = ""  # one line for people: why it is copied whole, what is wrong with it
    needs_recovery: bool = False  # nobody has it mounted, but its journal is not replayed: its used-block map may be wrong


class Partition(NamedTuple):
    number: int
    path: str  # "/dev/sda1"; for an image "image.raw#1"
    offset: int
    length: int
    type: str  # MBR: "0x83"; GPT: type GUID in lower case
    uuid: str = ""  # PARTUUID
    name: str = ""  # GPT name
    bootable: bool = False
    volume: Volume = Volume("unknown")
    links: Tuple[str, ...] = ()  # every /dev/disk/by-*/ name of it


class Disk(NamedTuple):
    name: str  # "sda", unique in the machine; for an image its file name without suffix
    path: str  # "/dev/sda" or the image's path
    size: int
    sector_size: int  # logical
    physical_sector_size: int = 512
    devno: str = ""  # "8:0"; empty for an image file
    model: str = ""
    serial: str = ""
    wwn: str = ""
    transport: str = ""  # "sata" "nvme" "scsi" "usb" "virtio" "loop" "mmc" ...
    rotational: bool = False
    removable: bool = False
    read_only: bool = False
    table: str = "none"  # "mbr" "gpt" "none", or "unknown": damaged or not readable, the partitions are the kernel's
    table_id: str = ""  # MBR signature "0x1234abcd" or GPT disk GUID
    boot_code: str = ""  # "GRUB" and others recognised in sector 0, or ""
    partitions: Tuple[Partition, ...] = ()
    volume: Optional[Volume] = None  # a file system on the whole disk
    links: Tuple[str, ...] = ()
    format: str = "block"  # "block" (a device), "raw" or "vhd" (an image file)
    request_based: bool = True  # its driver emits block_rq_* events; False: pmem, multipath NVMe: writes cannot be tracked


class Mount(NamedTuple):
    """One line of /proc/self/mountinfo whose device is a block device."""

    mountpoint: str
    device: str  # "/dev/sda2"
    devno: str  # "8:2"; for btrfs that of the real device
    fstype: str
    options: str
    order: int  # position in mountinfo: mount order
    disks: Tuple[str, ...] = ()  # names of the physical disks under it
    root: str = "/"  # folder of the file system that is mounted there: another than "/" for a bind mount or a subvolume


class Swap(NamedTuple):
    path: str
    kind: str  # "partition" or "file"
    size: int


class Holder(NamedTuple):
    """A block device that lies on top of others: LVM, md, dm-crypt, loop ..."""

    name: str  # "dm-0"
    path: str  # "/dev/mapper/vg-root"
    kind: str  # "lvm" "crypt" "md" "multipath" "loop" "dm"
    slaves: Tuple[str, ...] = ()
    volume: Volume = Volume("unknown")


class Nic(NamedTuple):
    """A physical network interface."""

    name: str
    mac: str  # permanent MAC address, lower case
    current_mac: str = ""
    driver: str = ""
    addresses: Tuple[str, ...] = ()  # "192.0.2.7/24"
    master: str = ""  # bond or bridge it belongs to
    up: bool = False
    managed_by: str = ""  # "ifupdown" "networkd" "NetworkManager" "netplan" "wicked" or ""


class Initramfs(NamedTuple):
    path: str
    kind: str  # "initramfs-tools" "dracut" "mkinitcpio" "mkinitfs" "unknown" or "none"
    compression: str = ""
    size: int = 0
    has_virtio: Optional[bool] = None  # virtio_blk and virtio_pci inside or built in; None: could not be read
    modules: Tuple[str, ...] = ()  # storage drivers found inside or built in, "-" written as "_"


class Kernel(NamedTuple):
    release: str
    cmdline: str
    image: str = ""  # "/boot/vmlinuz-..."
    initramfs: Initramfs = Initramfs("", "none")
    virtio_available: bool = False  # the kernel's own module folder (or the kernel) has virtio_blk and virtio_pci


class BootLoader(NamedTuple):
    kind: str  # "grub2" "grub-legacy" "systemd-boot" "extlinux" "lilo" or "unknown"
    config: str = ""  # "/boot/grub/grub.cfg"
    entries: Tuple[str, ...] = ()  # UEFI Boot#### lines in boot order


class Os(NamedTuple):
    id: str  # os-release ID
    version: str
    name: str  # PRETTY_NAME
    init: str = "systemd"  # "systemd" "sysvinit" "openrc" "upstart"
    timezone: str = ""
    machine_id: str = ""


class Service(NamedTuple):
    name: str  # "postgresql@15-main.service"
    state: str  # "active" "failed" ...
    enabled: bool = False
    hardware_bound: str = ""  # why it has no place in a VM, or ""


class Writer(NamedTuple):
    """An application whose data must be consistent at the instant."""

    name: str  # "postgresql"
    detail: str = ""
    how: str = ""  # what makes its copy good: "crash-safe: write-ahead log and data share the instant"


class Abilities(NamedTuple):
    """What the agent found that it can do there. Filled without changing anything."""

    user: str = "root"
    is_root: bool = True
    python: str = ""  # "3.11.2"
    tracefs: str = ""  # where it is mounted, "mountable", or "" with the reason in ``tracefs_reason``
    tracefs_reason: str = ""
    zstd: bool = False
    lockdown: str = ""


class Machine(NamedTuple):
    """Answer of ``source.inspect()``: everything that the plan may need to know."""

    hostname: str
    live: bool  # False: a disk image or an unmounted block device
    firmware: Firmware
    cpu: Cpu
    memory: int  # bytes of RAM
    disks: Tuple[Disk, ...]
    smbios: Smbios = Smbios()
    secure_boot: bool = False
    clock_utc: bool = True  # the hardware clock runs in UTC
    mounts: Tuple[Mount, ...] = ()
    swaps: Tuple[Swap, ...] = ()
    holders: Tuple[Holder, ...] = ()
    nics: Tuple[Nic, ...] = ()
    os: Os = Os("", "", "")
    kernel: Kernel = Kernel("", "")
    boot: BootLoader = BootLoader("unknown")
    services: Tuple[Service, ...] = ()
    writers: Tuple[Writer, ...] = ()
    abilities: Abilities = Abilities()
    warnings: Tuple[str, ...] = ()


# ---------------------------------------------------------------- what the host is


class HostValues(NamedTuple):
    """Answer of ``host.describe()``."""

    accelerator: str  # "kvm" (a guest really ran) or "tcg"
    accelerator_reason: str
    cpus: int
    memory: int
    free_space: int  # bytes free where the job folder will be
    qemu_version: str
    firmware_files: Tuple[str, ...] = ()  # OVMF files found
    formats: Tuple[str, ...] = ("vhd", "raw")
    output: str = ""  # absolute folder of jobs
    output_disk_paths: Tuple[str, ...] = ()  # block devices under that folder, whole disks ("/dev/sda")
    same_machine: bool = False  # the source is this machine


# ---------------------------------------------------------------- what will be done


class Options(NamedTuple):
    """What the user asked for."""

    source: str
    output: str = "."
    name: str = ""
    format: str = "vhd"
    subformat: str = "dynamic"
    disks: Tuple[str, ...] = ()  # names to convert; empty: all
    max_freeze: float = 1.0
    limit_rate: Optional[int] = None  # bytes/s
    compress: str = "auto"
    boot_check: bool = True
    boot_timeout: float = 600.0  # s; a Debian guest needs 35 s even under emulation, old services wait for minutes
    ssh_options: Tuple[str, ...] = ()
    tracker_buffer_kib: int = 4096  # per CPU: 70,000 events; small values are for the overrun test


class Region(NamedTuple):
    """What is done with one range of a disk. The regions of a disk cover it without gap or overlap, in order."""

    offset: int
    length: int
    action: Action
    kind: str  # "boot" "gap" "ext4" "swap" "free" ...
    path: str = ""  # partition device, where there is one
    reason: str = ""
    header_length: int = 0  # for Action.HEADER


class PlanDisk(NamedTuple):
    index: int  # type: ignore[assignment]  # number of the disk in data frames (hides tuple.index)
    name: str
    path: str
    devno: str
    size: int
    sector_size: int
    file: str  # file name in the job folder
    format: str  # "vhd" "raw"
    subformat: str  # "dynamic" "fixed"; raw is always sparse
    regions: Tuple[Region, ...]
    boot_order: int  # 1: the disk the firmware boots
    serial: str = ""
    wwn: str = ""
    source_format: str = "block"


class VmNic(NamedTuple):
    mac: str
    model: str  # "virtio-net-pci" "e1000" ...
    name: str = ""  # interface name that the guest keeps


class Vm(NamedTuple):
    """The machine as the hypervisor will define it."""

    name: str
    uuid: str
    cpus: int
    sockets: int
    cores: int
    threads: int
    memory: int  # bytes, rounded up to MiB
    firmware: Firmware
    machine: str  # "q35" "pc"
    disk_bus: str  # "virtio" "sata" "ide" "nvme"; decided again after the repair
    nics: Tuple[VmNic, ...]
    clock_utc: bool
    manufacturer: str = ""
    product: str = ""
    serial: str = ""


class SnapshotSpec(NamedTuple):
    """The part of the plan that the source carries out."""

    provider: str  # "tracked" (live) or "offline" (nobody writes)
    disks: Tuple[PlanDisk, ...]
    max_freeze: float  # s; budget of the instant
    hard_limit: float  # s; the watchdog thaws then whatever happens
    compress: str = "auto"
    limit_rate: Optional[int] = None
    max_passes: int = 30
    tracker_buffer_kib: int = 4096


class Plan(NamedTuple):
    job: str  # name of the job and of the VM
    snapshot: SnapshotSpec
    vm: Vm
    estimated_bytes: int  # that would be read and, as far as not zero, sent, before compression
    steps: Tuple[str, ...]  # what conversion will do, a sentence each
    warnings: Tuple[str, ...] = ()


# ---------------------------------------------------------------- what was done


class DiskCopy(NamedTuple):
    """Bytes of one disk, all before compression."""

    name: str
    used: int  # in blocks of 64 KiB that the plan wanted: used by a file system, or copied whole
    sent: int  # non-zero data frames, the re-sent included
    zero: int  # read, found zero, not sent
    resent: int  # blocks sent again because they were written during the copy
    left_out: int  # swap content and the like
    free: int  # skipped as free


class CopyPass(NamedTuple):
    number: int  # 0: bulk
    blocks: int
    seconds: float
    dirty_after: int  # blocks dirty when it ended


class Instant(NamedTuple):
    """The consistent instant of a snapshot. Times are Unix seconds of the source's clock."""

    provider: str
    frozen_at: float  # the last file system was frozen then
    thawed_at: float  # the first was thawed then
    freeze_ms: float  # of the instant: first freeze to last thaw
    disks: Tuple[DiskCopy, ...]
    passes: Tuple[CopyPass, ...] = ()
    late_blocks: int = 0  # used at the instant but never written while tracked (fallocate), copied while frozen
    overruns: int = 0
    mountpoints: Tuple[str, ...] = ()  # frozen, in the order of freezing
    not_frozen: Tuple[str, ...] = ()  # no FIFREEZE there (vfat): synced instead
    pauses_ms: Tuple[float, ...] = ()  # every freeze of the job in order: settling, given-up instants, the instant
    wire_bytes: int = 0  # frames as sent, after compression
    peak_memory: int = 0  # bytes, resident, of the agent


class Change(NamedTuple):
    """One file of the guest that a fix changed."""

    fix: str
    path: str
    action: str  # "edited" "created" "removed" "linked" "appended"
    why: str
    diff: str = ""  # unified diff for text, one line of facts for anything else
    backup: str = ""  # where the old content is kept in the guest, or ""


class Changes(NamedTuple):
    """Result of the repair."""

    changes: Tuple[Change, ...]
    root: str  # device of the root file system as the guest names it, "UUID=..."
    kernel: str  # release that will boot
    disk_bus: str  # controller whose driver is proven inside the initramfs
    nic_model: str
    initramfs: Tuple[Initramfs, ...]
    warnings: Tuple[str, ...] = ()
    seconds: float = 0.0


class Verification(NamedTuple):
    ok: bool
    blocks: int  # compared by digest
    zero_blocks: int  # found zero as they must be
    bytes_read: int
    seconds: float


class BootCheck(NamedTuple):
    """Verdict of the first boot in a throw-away overlay."""

    ok: bool
    verdict: str
    seconds: float
    accelerator: str
    hostname: str = ""
    kernel: str = ""
    root: str = ""  # source of / in the guest's own mount table
    mounts: Tuple[str, ...] = ()  # "/dev/vda1 /boot ext4"
    failed_units: Tuple[str, ...] = ()
    addresses: Tuple[str, ...] = ()  # "enp0s2 192.0.2.7/24"
    system_state: str = ""  # systemctl is-system-running
    serial_log: str = ""
    screenshot: str = ""


class Phase(NamedTuple):
    name: str
    started: float  # Unix seconds of the host's clock
    seconds: float


class ReportDisk(NamedTuple):
    name: str
    file: str
    format: str
    subformat: str
    virtual_size: int
    used_bytes: int
    sent_bytes: int
    resent_bytes: int
    zero_bytes: int
    left_out_bytes: int
    free_bytes: int
    file_bytes: int  # allocated on the host
    serial: str = ""


class Report(NamedTuple):
    """``report.json`` of a job."""

    state: str  # "done" or "failed"
    version: str
    source: str
    job: str
    machine: Optional[Machine] = None
    disks: Tuple[ReportDisk, ...] = ()
    instant: Optional[Instant] = None
    freeze_ms: Optional[float] = None
    frozen_at_host: Optional[float] = None  # the same instants on the host's clock
    thawed_at_host: Optional[float] = None
    clock_error: Optional[float] = None  # s; how far the two may be off
    phases: Tuple[Phase, ...] = ()
    changes: Tuple[Change, ...] = ()
    repair: Optional[Changes] = None
    verify: Optional[Verification] = None
    boot_check: Optional[BootCheck] = None
    vm: Optional[Vm] = None
    warnings: Tuple[str, ...] = ()
    error: str = ""
    exit_code: int = 0


# ---------------------------------------------------------------- records as JSON


def to_json(value: Any) -> Any:
    """A record as dicts, lists and plain values."""
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return {name: to_json(getattr(value, name)) for name in value._fields}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, (tuple, list)):
        return [to_json(item) for item in value]
    return value


def from_json(kind: Any, data: Any) -> Any:
    """The record of class ``kind`` that :func:`to_json` made; fields that are missing take their default, fields that this
    version does not know are dropped. Raises TypeError or ValueError for data of another shape."""
    if kind is Any:
        return data
    origin = getattr(kind, "__origin__", None)
    if origin is Union:
        if data is None:
            return None
        return from_json([arg for arg in kind.__args__ if arg is not type(None)][0], data)
    if origin in (tuple, Tuple):
        if not isinstance(data, list):
            raise TypeError("a list is needed, not {!r}".format(data))
        return tuple(from_json(kind.__args__[0], item) for item in data)
    if hasattr(kind, "_fields"):
        if not isinstance(data, dict):
            raise TypeError("{}: an object is needed, not {!r}".format(kind.__name__, data))
        hints = kind.__annotations__
        return kind(**{name: from_json(hints[name], data[name]) for name in kind._fields if name in data})
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return kind(data)
    if kind is float and isinstance(data, int) and not isinstance(data, bool):
        return float(data)
    if not isinstance(data, kind) or (kind is int and isinstance(data, bool)):
        raise TypeError("{} is needed, not {!r}".format(kind.__name__, data))
    return data
