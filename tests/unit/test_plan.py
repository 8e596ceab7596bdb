"""The decision, on machines as they come: what is copied of each disk, what forbids a conversion, what the VM is."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from livep2v.errors import Refusal
from livep2v.model import (
    Abilities,
    Action,
    BootLoader,
    Cpu,
    Disk,
    Firmware,
    Holder,
    HostValues,
    Initramfs,
    Kernel,
    Machine,
    Mount,
    Nic,
    Options,
    Os,
    Partition,
    Plan,
    Region,
    Service,
    Smbios,
    Swap,
    Volume,
)
from livep2v.plan import plan, regions

MIB, GIB, TIB = 1 << 20, 1 << 30, 1 << 40

EXT4_BOOT = Volume("ext4", "b0070000-0000-4000-8000-000000000001", "", used=60 * MIB)
EXT4_ROOT = Volume("ext4", "b0070000-0000-4000-8000-000000000002", "", used=1200 * MIB)
SWAP = Volume("swap", "b0070000-0000-4000-8000-000000000003")


def part(number: int, offset: int, length: int, volume: Volume, disk: str = "/dev/sda", kind: str = "0x83") -> Partition:
    return Partition(number, f"{disk}{number}", offset, length, kind, volume=volume)


SDA = Disk(
    "sda", "/dev/sda", 4 * GIB, 512, devno="8:0", model="QEMU HARDDISK", serial="OLDBOX-1", transport="sata",
    table="mbr", table_id="0x1234abcd", boot_code="GRUB",
    partitions=(
        part(1, MIB, 300 * MIB, EXT4_BOOT),
        part(2, 301 * MIB, 3283 * MIB, EXT4_ROOT),
        part(3, 3584 * MIB, 511 * MIB, SWAP, kind="0x82"),
    ),
)  # fmt: skip
OLDBOX = Machine(
    hostname="oldbox.example.net",
    live=True,
    firmware=Firmware.BIOS,
    cpu=Cpu("x86_64", "GenuineIntel", "Xeon", 4, 2, 2, 1),
    memory=4096 * MIB - 5000,
    disks=(SDA,),
    smbios=Smbios("4c4c4544-0035-4410-8054-b7c04f4e3733", "Dell Inc.", "PowerEdge", "5TDNN73"),
    mounts=(
        Mount("/", "/dev/sda2", "8:2", "ext4", "rw,relatime", 0, ("sda",)),
        Mount("/boot", "/dev/sda1", "8:1", "ext4", "rw,relatime", 1, ("sda",)),
    ),
    swaps=(Swap("/dev/sda3", "partition", 511 * MIB),),
    nics=(Nic("enp2s0", "52:54:00:aa:bb:cc", up=True),),
    os=Os("debian", "12", "Debian GNU/Linux 12 (bookworm)", machine_id="0123456789abcdef0123456789abcdef"),
    kernel=Kernel("6.1.0-13-amd64", "root=/dev/sda2", "/boot/vmlinuz", Initramfs("/boot/initrd.img", "initramfs-tools",
                  has_virtio=True, modules=("ahci", "virtio_blk", "virtio_pci")), True),
    boot=BootLoader("grub2", "/boot/grub/grub.cfg"),
    services=(Service("smartmontools.service", "active", True, "no SMART"),),
    abilities=Abilities(tracefs="/sys/kernel/tracing", python="3.11.2"),
)  # fmt: skip
HOST = HostValues("tcg", "", 2, 24 * GIB, 100 * GIB, "7.2", ("/usr/share/OVMF/OVMF_CODE.fd",), output="/srv/vms")
WANTED = Options(source="root@oldbox")
SDB = SDA._replace(
    name="sdb", path="/dev/sdb", devno="8:16", boot_code="", serial="D2", table="none", partitions=(),
    volume=Volume("xfs", "x", "data"), size=10 * GIB,
)  # fmt: skip


def decide(machine: Machine = OLDBOX, values: HostValues = HOST, options: Options = WANTED) -> Plan:
    return plan(machine, values, options)


# ---------------------------------------------------------------- what is copied


def test_regions_of_an_ordinary_disk() -> None:
    assert regions(SDA) == (
        Region(0, MIB, Action.COPY, "boot", "", "boot record and boot loader"),
        Region(MIB, 300 * MIB, Action.USED, "ext4", "/dev/sda1", "the blocks that its file system uses"),
        Region(301 * MIB, 3283 * MIB, Action.USED, "ext4", "/dev/sda2", "the blocks that its file system uses"),
        Region(3584 * MIB, 511 * MIB, Action.HEADER, "swap", "/dev/sda3", "swap: only its label and UUID travel", 65536),
        Region(4095 * MIB, MIB, Action.COPY, "tail", "", "end of the disk: backup of the GPT"),
    )


def test_estimate_is_what_the_regions_say() -> None:
    assert decide().estimated_bytes == 2 * MIB + 60 * MIB + 1200 * MIB + 65536


def actions(disk: Disk) -> list[tuple[Action, str, int]]:
    return [(region.action, region.kind, region.length) for region in regions(disk)]


def test_large_gaps_are_left_out_but_for_their_edges() -> None:
    disk = SDA._replace(size=1 * TIB, partitions=(part(1, 100 * MIB, GIB, EXT4_ROOT), part(2, 10 * GIB, GIB, EXT4_ROOT)))
    assert actions(disk) == [
        (Action.COPY, "boot", MIB), (Action.SKIP, "free", 98 * MIB), (Action.COPY, "boot", MIB),
        (Action.USED, "ext4", GIB),
        (Action.COPY, "gap", MIB), (Action.SKIP, "free", 10 * GIB - GIB - 102 * MIB), (Action.COPY, "gap", MIB),
        (Action.USED, "ext4", GIB),
        (Action.COPY, "tail", MIB), (Action.SKIP, "free", TIB - 11 * GIB - 2 * MIB), (Action.COPY, "tail", MIB),
    ]  # fmt: skip


def test_boot_area_up_to_64_mib_and_gap_up_to_2_mib_are_copied() -> None:
    parts = (part(1, 64 * MIB, 100 * MIB, EXT4_BOOT), part(2, 166 * MIB, 858 * MIB, EXT4_ROOT))
    disk = SDA._replace(size=GIB, partitions=parts)
    assert actions(disk) == [
        (Action.COPY, "boot", 64 * MIB), (Action.USED, "ext4", 100 * MIB), (Action.COPY, "gap", 2 * MIB),
        (Action.USED, "ext4", 858 * MIB),
    ]  # fmt: skip


def test_gaps_inside_an_extended_partition_hold_its_tables() -> None:
    container = Partition(2, "/dev/sda2", GIB, 2 * GIB, "0x5", volume=Volume("extended"))
    disk = SDA._replace(partitions=(part(1, MIB, GIB - MIB, EXT4_ROOT), container, part(5, 2 * GIB, 512 * MIB, EXT4_ROOT)))
    assert actions(disk)[2:] == [
        (Action.COPY, "extended", GIB), (Action.USED, "ext4", 512 * MIB), (Action.COPY, "extended", 512 * MIB),
        (Action.COPY, "tail", MIB), (Action.SKIP, "free", 1022 * MIB), (Action.COPY, "tail", MIB),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("volume", "action", "reason"),
    [
        (Volume("xfs", "u"), Action.COPY, "no used-block map"),
        (Volume("LVM2_member", "u"), Action.COPY, "LVM"),
        (Volume("crypto_LUKS", "u"), Action.COPY, "encrypted"),
        (Volume("empty"), Action.COPY, "zeros are not sent"),
        (Volume("unknown"), Action.COPY, "not recognised"),
        (Volume("ext4", "u", used=MIB, needs_recovery=True), Action.COPY, "journal is not replayed"),
        (Volume("ext4", "u", detail="ext superblock at byte 1024: its checksum"), Action.COPY, "checksum"),
        (Volume("ext2", "u", used=MIB), Action.USED, "uses"),
        (Volume("ext3", "u", used=MIB), Action.USED, "uses"),
        (Volume("swap", "u"), Action.HEADER, "label"),
        (Volume("swsuspend", "u", detail="a sleeping system"), Action.HEADER, "label"),
    ],
)
def test_what_each_kind_of_volume_costs(volume: Volume, action: Action, reason: str) -> None:
    for disk in (
        SDA._replace(table="none", partitions=(), volume=volume),
        SDA._replace(partitions=(part(1, MIB, 100 * MIB, volume),)),
    ):
        region = next(region for region in regions(disk) if region.path)
        assert region.action is action
        assert reason in region.reason


def test_table_that_cannot_be_read_is_copied_whole() -> None:
    (region,) = regions(SDA._replace(table="unknown"))
    assert (region.offset, region.length, region.action) == (0, SDA.size, Action.COPY)


@pytest.mark.parametrize(
    "parts",
    [
        (part(1, MIB, 2 * GIB, EXT4_ROOT), part(2, GIB, GIB, EXT4_ROOT)),
        (part(1, MIB, 8 * GIB, EXT4_ROOT),),
        (part(1, 0, MIB, EXT4_ROOT), part(2, MIB, 0, EXT4_ROOT)),
    ],
)
def test_partitions_that_contradict_each_other_are_copied_whole(parts: tuple[Partition, ...]) -> None:
    assert [region.action for region in regions(SDA._replace(partitions=parts))] == [Action.COPY]


KINDS = st.sampled_from([EXT4_BOOT, EXT4_ROOT, SWAP, Volume("xfs"), Volume("unknown"), Volume("empty"), Volume("extended")])


@given(
    sectors=st.integers(1, 1 << 23),
    spans=st.lists(st.tuples(st.integers(0, 1 << 23), st.integers(0, 1 << 22), KINDS), max_size=6),
    table=st.sampled_from(["mbr", "gpt", "none", "unknown"]),
)
def test_regions_cover_any_disk_without_gap_or_overlap(
    sectors: int, spans: list[tuple[int, int, Volume]], table: str
) -> None:
    """Whatever a table says, overlapping and absurd ones too."""
    disk = SDA._replace(
        size=sectors * 512,
        table=table,
        volume=spans[0][2] if spans and table == "none" else None,
        partitions=tuple(part(i, at * 512, length * 512, volume) for i, (at, length, volume) in enumerate(spans, 1)),
    )
    at = 0
    for region in regions(disk):
        assert region.offset == at
        assert region.length > 0
        assert region.action is not Action.HEADER or 0 < region.header_length <= region.length
        at += region.length
    assert at == disk.size


# ---------------------------------------------------------------- what forbids it


def test_ordinary_machine_is_not_refused() -> None:
    found = decide()
    assert found.job == "oldbox"
    assert found.snapshot.provider == "tracked"
    assert [disk.file for disk in found.snapshot.disks] == ["sda.vhd"]


Case = tuple[Callable[[], Plan], str, str]


def changed(**changes: object) -> Machine:
    return OLDBOX._replace(**changes)  # type: ignore[arg-type]


def with_disk(**changes: object) -> Machine:
    return OLDBOX._replace(disks=(SDA._replace(**changes),))  # type: ignore[arg-type]


def asked(**changes: object) -> Options:
    return WANTED._replace(**changes)  # type: ignore[arg-type]


def able(**changes: object) -> Machine:
    return OLDBOX._replace(abilities=OLDBOX.abilities._replace(**changes))  # type: ignore[arg-type]


UNUSED = OLDBOX._replace(live=False, mounts=(), swaps=(), holders=())
TWO = OLDBOX._replace(disks=(SDA, SDB))


@pytest.mark.parametrize(
    ("machine", "values", "options", "what", "way_out"),
    [
        (changed(disks=()), HOST, WANTED, "no disk to convert", "shows none"),
        (with_disk(removable=True)._replace(mounts=()), HOST, WANTED, "no disk to convert", "--disk"),
        (OLDBOX, HOST, asked(disks=("sdx",)), "no disk sdx", "among sda (4.0 GiB)"),
        (able(is_root=False, user="admin"), HOST, WANTED, "admin is not root", "NOPASSWD"),
        (able(tracefs="", tracefs_reason="this kernel has no tracefs"), HOST, WANTED, "cannot be tracked", "as an image"),
        (TWO, HOST, asked(disks=("sdb",)), "sda is the disk that it boots from", "add --disk sda"),
        (with_disk(size=2041 * GIB), HOST._replace(free_space=4 * TIB), WANTED, "a VHD ends at 2.0 TiB", "--format raw"),
        (with_disk(sector_size=4096), HOST, WANTED, "sectors of 4096 bytes and a VHD has 512", "--format raw"),
        (with_disk(sector_size=4096), HOST, asked(format="raw"), "no BIOS starts", "--disk"),
        (with_disk(size=0, table="none", partitions=()), HOST, asked(disks=("sda",)), "sda has no size", "--disk"),
        (UNUSED._replace(disks=(SDA._replace(size=4 * GIB + 100),)), HOST, WANTED, "no multiple of 512", "truncate"),
        (OLDBOX, HOST._replace(free_space=GIB), WANTED, "1.0 GiB free and 1.5 GiB are needed", "-o"),
        (OLDBOX, HOST._replace(free_space=4 * GIB), asked(subformat="fixed"), "fixed disks need", "--subformat dynamic"),
        (OLDBOX, HOST._replace(same_machine=True, output_disk_paths=("/dev/sda",)), WANTED, "which is copied", "-o"),
        (OLDBOX, HOST, asked(name="../etc"), "name '../etc'", "letters, digits"),
        (OLDBOX, HOST, asked(name="-x"), "name '-x'", "letters, digits"),
        (OLDBOX, HOST, asked(format="qcow2"), "'qcow2' is not known", "--format vhd or raw"),
        (OLDBOX, HOST, asked(subformat="thin"), "'thin' is not known", "--subformat"),
        (OLDBOX, HOST, asked(format="raw", subformat="fixed"), "no fixed kind", "--format vhd"),
        (OLDBOX, HOST, asked(max_freeze=0.0), "--max-freeze 0 s", "0.05 s to 30 s"),
        (OLDBOX, HOST, asked(max_freeze=31.0), "--max-freeze 31 s", "0.05 s to 30 s"),
        (OLDBOX, HOST, asked(limit_rate=0), "--limit-rate 0", "leave it out"),
        (OLDBOX._replace(live=False), HOST, WANTED, "in use on this machine (mounted on /", "'local'"),
        (UNUSED._replace(swaps=OLDBOX.swaps), HOST, WANTED, "swap area /dev/sda3", "'local'"),
        (UNUSED._replace(holders=(Holder("dm-0", "/dev/mapper/a-b", "lvm", ("sda1",)),)), HOST, WANTED, "part of", "'local'"),
        (with_disk(table="unknown", partitions=(), volume=Volume("unreadable", detail="Input/output error")), HOST, WANTED,
         "sda cannot be read (Input/output error)", "--disk"),
        (with_disk(request_based=False), HOST, WANTED, "cannot be tracked", "nvme_core.multipath=N"),
        (changed(holders=(Holder("dm-0", "/dev/mapper/mpatha", "multipath", ("sda", "sdz")),)), HOST, WANTED, "one path",
         "as an image"),
        (with_disk(table="none", partitions=(), volume=Volume("zfs_member")), HOST, WANTED, "ZFS", "export the pool"),
        (changed(cpu=OLDBOX.cpu._replace(arch="aarch64")), HOST, WANTED, "aarch64", "host of its own kind"),
        (changed(firmware=Firmware.UEFI), HOST._replace(firmware_files=()), WANTED, "no UEFI firmware", "ovmf"),
    ],
)  # fmt: skip
def test_refusal(machine: Machine, values: HostValues, options: Options, what: str, way_out: str) -> None:
    with pytest.raises(Refusal) as caught:
        decide(machine, values, options)
    assert any(what in line and way_out in line for line in str(caught.value).splitlines()), str(caught.value)


def test_every_blocker_at_once() -> None:
    with pytest.raises(Refusal) as caught:
        decide(able(is_root=False), HOST._replace(free_space=0), asked(name="a b", format="vdi", max_freeze=99.0))
    assert len(str(caught.value).splitlines()) == 5


LVM = (
    Holder("dm-0", "/dev/mapper/my--vg-root", "lvm", ("sda2",)),
    Holder("dm-1", "/dev/mapper/my--vg-data", "lvm", ("sdb",)),
)


@pytest.mark.parametrize(
    ("holders", "mounts", "what"),
    [
        (LVM, OLDBOX.mounts, "volume group my-vg"),  # neither of its volumes lies on both, the group does
        ((Holder("md0", "/dev/md0", "md", ("sda2", "sdb")),), OLDBOX.mounts, "/dev/md0"),
        (
            (Holder("md0", "/dev/md0", "md", ("sda2", "sdb")), Holder("dm-0", "/dev/mapper/c", "crypt", ("md0",))),
            OLDBOX.mounts,
            "/dev/mapper/c",
        ),
        ((), (*OLDBOX.mounts, Mount("/data", "/dev/sda3", "0:40", "btrfs", "rw", 2, ("sda", "sdb"))), "on /data"),
    ],
)
def test_volumes_across_disks_need_all_of_them(holders: tuple[Holder, ...], mounts: tuple[Mount, ...], what: str) -> None:
    machine = TWO._replace(holders=holders, mounts=mounts)
    with pytest.raises(Refusal) as caught:
        decide(machine, options=asked(disks=("sda",)))
    assert any(what in line and "add --disk sdb" in line for line in str(caught.value).splitlines()), str(caught.value)
    assert len(decide(machine).snapshot.disks) == 2


def test_an_encrypted_root_is_refused_before_the_copy() -> None:
    """LVM inside LUKS, as installers make it."""
    machine = OLDBOX._replace(
        holders=(
            Holder("dm-0", "/dev/mapper/sda2_crypt", "crypt", ("sda2",)),
            Holder("dm-1", "/dev/mapper/vg-root", "lvm", ("dm-0",)),
        ),
        mounts=(Mount("/", "/dev/mapper/vg-root", "254:1", "ext4", "rw", 1, ("sda",)),),
    )
    with pytest.raises(Refusal, match="encrypted /dev/mapper/sda2_crypt"):
        decide(machine)
    data = machine._replace(mounts=(*OLDBOX.mounts, machine.mounts[0]._replace(mountpoint="/data")))
    assert decide(data).snapshot.disks


def test_loop_device_on_a_chosen_disk_asks_for_nothing() -> None:
    loop = Disk("loop0", "/dev/loop0", 64 * MIB, 512, transport="loop", volume=Volume("squashfs"))
    machine = OLDBOX._replace(
        disks=(loop, SDA),
        holders=(Holder("loop0", "/dev/loop0", "loop", ("sda2",)),),
        mounts=(*OLDBOX.mounts, Mount("/snap/x", "/dev/loop0", "7:0", "squashfs", "ro", 2, ("loop0", "sda"))),
    )
    assert [disk.name for disk in decide(machine).snapshot.disks] == ["sda"]


# ---------------------------------------------------------------- which disks


def test_left_out_unless_named() -> None:
    stick = SDB._replace(name="sdc", path="/dev/sdc", transport="usb", removable=True)
    card = SDB._replace(name="mmcblk0", path="/dev/mmcblk0", transport="mmc")
    locked = SDB._replace(name="sdd", path="/dev/sdd", read_only=True)
    none = SDB._replace(name="sde", path="/dev/sde", size=0)
    machine = OLDBOX._replace(disks=(SDA, stick, card, locked, none))
    assert [disk.name for disk in decide(machine).snapshot.disks] == ["sda", "mmcblk0"]
    assert [disk.name for disk in decide(machine, options=asked(disks=("sda", "/dev/sdc"))).snapshot.disks] == ["sda", "sdc"]


def test_system_on_usb_is_converted() -> None:
    assert [disk.name for disk in decide(with_disk(transport="usb", removable=True)).snapshot.disks] == ["sda"]


def test_boot_disk_comes_first_for_the_firmware() -> None:
    """GRUB on sdb, /boot and / on sda: the firmware starts sdb, and the disks keep their order."""
    machine = TWO._replace(disks=(SDA._replace(boot_code=""), SDB._replace(boot_code="GRUB")))
    assert [(disk.name, disk.index, disk.boot_order) for disk in decide(machine).snapshot.disks] == [
        ("sda", 0, 2), ("sdb", 1, 1)
    ]  # fmt: skip


def test_of_two_with_boot_code_the_one_under_boot_is_started() -> None:
    machine = TWO._replace(disks=(SDB._replace(name="sda0", boot_code="GRUB"), SDA))
    assert [disk.boot_order for disk in decide(machine).snapshot.disks] == [2, 1]


def test_uefi_starts_the_disk_with_the_efi_partition() -> None:
    esp = Partition(1, "/dev/sdb1", MIB, 100 * MIB, "c12a7328-f81f-11d2-ba4b-00a0c93ec93b", volume=Volume("vfat"))
    machine = TWO._replace(
        firmware=Firmware.UEFI, disks=(SDA, SDB._replace(table="gpt", volume=None, partitions=(esp,))), secure_boot=True
    )
    found = decide(machine)
    assert [disk.boot_order for disk in found.snapshot.disks] == [2, 1]
    assert any("Secure Boot" in warning for warning in found.warnings)


def test_names_of_files() -> None:
    disk = SDA._replace(name="cciss/c0d0", path="/dev/cciss/c0d0")
    machine = OLDBOX._replace(disks=(disk,), mounts=())
    assert decide(machine, options=asked(format="raw")).snapshot.disks[0].file == "cciss-c0d0.raw"


# ---------------------------------------------------------------- the VM


def test_vm_is_the_machine() -> None:
    vm = decide().vm
    assert (vm.cpus, vm.sockets, vm.cores, vm.threads) == (4, 2, 2, 1)
    assert vm.memory == 4096 * MIB  # rounded up to whole MiB
    assert vm.uuid == OLDBOX.smbios.uuid
    assert (vm.manufacturer, vm.product, vm.serial) == ("Dell Inc.", "PowerEdge", "5TDNN73")
    assert [(nic.mac, nic.model, nic.name) for nic in vm.nics] == [("52:54:00:aa:bb:cc", "virtio-net-pci", "enp2s0")]
    assert (vm.disk_bus, vm.machine) == ("virtio", "q35")


@pytest.mark.parametrize(
    ("modules", "bus", "machine"),
    [(("ahci",), "sata", "q35"), (("ata_piix",), "ide", "pc"), (("nvme",), "nvme", "q35"), ((), "sata", "q35")],
)
def test_controller_of_a_kernel_without_virtio(modules: tuple[str, ...], bus: str, machine: str) -> None:
    kernel = OLDBOX.kernel._replace(
        initramfs=Initramfs("/boot/initrd", "dracut", has_virtio=False, modules=modules), virtio_available=False
    )
    vm = decide(changed(kernel=kernel)).vm
    assert (vm.disk_bus, vm.machine, vm.nics[0].model) == (bus, machine, "e1000")


@pytest.mark.parametrize(
    "uuid", ["", "00000000-0000-0000-0000-000000000000", "Not Settable", "03000200-0400-0500-0006-000700080009"]
)
def test_uuid_where_the_firmware_has_none_is_stable(uuid: str) -> None:
    first = decide(changed(smbios=Smbios(uuid))).vm.uuid
    assert first == decide(changed(smbios=Smbios(uuid))).vm.uuid
    assert len(first) == 36
    assert first != uuid


def test_irregular_topology_still_adds_up() -> None:
    vm = decide(changed(cpu=Cpu("x86_64", "", "", 3, 2, 2, 1))).vm
    assert vm.sockets * vm.cores * vm.threads == vm.cpus == 3


@pytest.mark.parametrize(
    ("hostname", "job"), [("oldbox.example.net", "oldbox"), ("Büro 1", "B-ro-1"), ("...", "machine"), ("a" * 99, "a" * 63)]
)
def test_job_name(hostname: str, job: str) -> None:
    assert decide(changed(hostname=hostname)).job == job
    assert decide(changed(hostname=hostname), options=asked(name="mine")).job == "mine"


def test_hard_limit_of_the_watchdog() -> None:
    assert decide(options=asked(max_freeze=0.5)).snapshot.hard_limit == 5.0
    assert decide(options=asked(max_freeze=3.0)).snapshot.hard_limit == 12.0


def test_image_is_read_while_nobody_writes() -> None:
    found = decide(UNUSED._replace(nics=(), hostname="server-2019.disk"))
    assert found.snapshot.provider == "offline"
    assert found.job == "server-2019.disk"
    assert len(found.vm.nics) == 1  # its own address is not known, and without one it would have no network
    assert found.vm.nics[0].mac.startswith("52:54:00:")
    assert not any("freeze" in step for step in found.steps)


# ---------------------------------------------------------------- warnings


def test_warnings() -> None:
    esp = part(4, 4095 * MIB, MIB // 2, Volume("vfat"))
    sleeping = SDA._replace(
        partitions=(*SDA.partitions[:2], part(3, 3584 * MIB, 511 * MIB, Volume("swsuspend", detail="a sleeping system")), esp)
    )
    stick = SDB._replace(transport="usb", removable=True)
    machine = OLDBOX._replace(
        disks=(sleeping, stick),
        mounts=(
            *OLDBOX.mounts,
            Mount("/boot/efi", "/dev/sda4", "8:4", "vfat", "rw", 2, ("sda",)),
            Mount("/backup", "/dev/sdb", "8:16", "xfs", "rw", 3, ("sdb",)),
        ),
        memory=64 * GIB,
    )
    text = "\n".join(decide(machine).warnings)
    assert "/dev/sda4: vfat, 512.0 KiB copied whole" in text
    assert "/boot/efi: vfat cannot be frozen" in text
    assert "/backup: xfs cannot" not in text
    assert "sleeping system" in text
    assert "sdb (10.0 GiB, usb) is left out, which is in use (/backup)" in text
    assert "64.0 GiB of memory and this host 24.0 GiB" in text


def test_space_that_may_not_suffice_is_a_warning_only() -> None:
    """10 GiB of XFS are copied whole; how much of it is zeros is not known before it is read."""
    found = decide(TWO, HOST._replace(free_space=3 * GIB))
    assert any("up to 11" in warning for warning in found.warnings)


def test_steps_name_what_will_happen() -> None:
    text = "\n".join(decide(options=asked(subformat="fixed")).steps)
    for words in ("1 fixed VHD file for sda (4.0 GiB)", "track every write", "at most 1 s", "5 s whatever", "enp2s0",
                  "smartmontools.service", "'oldbox': 4 CPUs, 4.0 GiB, BIOS", "throw-away overlay"):  # fmt: skip
        assert words in text
    assert "overlay" not in "\n".join(decide(options=asked(boot_check=False)).steps)
