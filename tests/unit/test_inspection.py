"""Inspection of recorded machines (their files as text, their disks made by the real tools)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from livep2v.errors import UsageError
from livep2v.hardware_services import reason
from livep2v.model import Firmware, Machine, from_json, to_json
from livep2v.source.inspection import inspect_image, inspect_live
from livep2v.source.inspection.blocks import physical
from livep2v.source.inspection.boot import load_option
from livep2v.source.inspection.tree import Tree, unescape
from tests.support.recorded import unpack

MIB = 1 << 20
ESP_GUID = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
LVM_GUID = "E6D6D379-F507-44C2-A23C-238F2A3DF928"


def tool(*argv: object, stdin: str | None = None) -> str:
    return subprocess.run([str(arg) for arg in argv], check=True, capture_output=True, text=True, input=stdin).stdout


def sparse(path: Path, size: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(size)
    return path


def put(volume: Path, disk: Path, offset: int) -> None:
    tool("dd", f"if={volume}", f"of={disk}", "bs=1M", f"seek={offset}", "oflag=seek_bytes", "conv=notrunc,sparse")


def blkid(path: Path, offset: int = 0) -> dict[str, str]:
    lines = tool("blkid", "-p", "-O", offset, "-o", "export", path).splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


@pytest.fixture
def db01(tmp_path: Path) -> Path:
    """UEFI, NVMe, LVM on two disks, a bond; GPT by sfdisk, file systems by mkfs, the physical volume by pvcreate."""
    root = unpack("uefi-nvme-lvm-bond", tmp_path / "root")
    disk = sparse(root / "dev/nvme0n1", 2097152 * 512)
    tool(
        "sfdisk", "-q", disk,
        stdin=f"label: gpt\nstart=2048,size=204800,type={ESP_GUID}\nstart=206848,size=1888256,type={LVM_GUID},name=data\n",
    )  # fmt: skip
    esp = sparse(tmp_path / "esp", 204800 * 512)
    tool("mkfs.vfat", "-F", "32", "-i", "0c3d8a11", "-n", "ESP", esp)
    put(esp, disk, 2048 * 512)
    tool("mkfs.ext4", "-q", "-L", "root", sparse(root / "dev/mapper/ubuntu--vg-root", 131072 * 512))
    return root


def test_uefi_nvme_lvm_bond(db01: Path) -> None:
    machine = inspect_live(str(db01))
    assert machine.hostname == "db01.example.net"
    assert machine.firmware is Firmware.UEFI
    assert machine.secure_boot
    assert (machine.cpu.count, machine.cpu.sockets, machine.cpu.cores, machine.cpu.threads) == (4, 2, 1, 2)
    assert machine.cpu.arch == "x86_64"
    assert machine.memory == 65536000 * 1024
    assert machine.smbios.uuid == "4c4c4544-0035-4410-8054-b7c04f4e3733"
    assert not machine.smbios.is_virtual
    assert (machine.os.id, machine.os.version, machine.os.timezone) == ("ubuntu", "22.04", "Europe/Berlin")
    assert machine.os.init == "systemd"
    assert machine.abilities.lockdown == "integrity"
    assert machine.abilities.tracefs == "mountable"
    assert machine.boot.kind == "grub2"
    assert machine.boot.entries[0] == (
        "Boot0003* ubuntu HD(1,GPT,8fa9d01c-2f8a-45e2-9d3f-8c6a1b2e3f40)/File(\\EFI\\ubuntu\\shimx64.efi)"
    )
    assert [disk.name for disk in machine.disks] == ["loop0", "nvme0n1", "nvme1n1"]  # not the hidden path, zram, empty loop


def test_disks_of_uefi_machine(db01: Path) -> None:
    machine = inspect_live(str(db01))
    disk = next(disk for disk in machine.disks if disk.name == "nvme0n1")
    oracle = json.loads(tool("sfdisk", "--json", db01 / "dev/nvme0n1"))["partitiontable"]
    assert disk.table == "gpt"
    assert disk.table_id == oracle["id"].lower()
    assert [(part.offset // 512, part.length // 512, part.type, part.uuid) for part in disk.partitions] == [
        (part["start"], part["size"], part["type"].lower(), part["uuid"].lower()) for part in oracle["partitions"]
    ]
    assert [part.path for part in disk.partitions] == ["/dev/nvme0n1p1", "/dev/nvme0n1p2"]
    assert disk.partitions[1].name == "data"
    known = blkid(db01 / "dev/nvme0n1", 2048 * 512)
    assert disk.partitions[0].volume.kind == known["TYPE"]
    assert disk.partitions[0].volume.uuid == known["UUID"]
    assert disk.partitions[0].links == ("/dev/disk/by-uuid/0C3D-8A11",)
    assert disk.links == ("/dev/disk/by-id/nvme-SAMSUNG_MZQL2960HCJR-00A07_S64FNE0R123456",)
    assert (disk.transport, disk.model) == ("nvme", "SAMSUNG MZQL2960HCJR-00A07")
    assert (disk.serial, disk.wwn) == ("S64FNE0R123456", "eui.00253855b1d2e3f4")
    assert disk.physical_sector_size == 4096
    assert disk.request_based
    multipath = next(disk for disk in machine.disks if disk.name == "nvme1n1")
    assert not multipath.request_based  # the head of a multipath NVMe disk has no queue of requests
    assert multipath.volume is not None
    assert multipath.volume.kind == "unreadable"  # its content is not in the recording
    assert any("/dev/nvme1n1" in warning for warning in machine.warnings)


def test_stack_of_uefi_machine(db01: Path) -> None:
    machine = inspect_live(str(db01))
    root = next(mount for mount in machine.mounts if mount.mountpoint == "/")
    assert (root.device, root.devno, root.disks) == ("/dev/mapper/ubuntu--vg-root", "253:0", ("nvme0n1", "nvme1n1"))
    assert "errors=remount-ro" in root.options
    snap = next(mount for mount in machine.mounts if mount.mountpoint == "/snap/core 20/1974")
    assert snap.disks == ("loop0", "nvme0n1", "nvme1n1")  # the disks under the file of the loop device
    assert [mount.mountpoint for mount in machine.mounts] == ["/", "/boot/efi", "/snap/core 20/1974", "/srv\\x"]
    logical = next(holder for holder in machine.holders if holder.name == "dm-0")
    assert (logical.kind, logical.slaves) == ("lvm", ("nvme0n1p2", "nvme1n1"))
    known = blkid(db01 / "dev/mapper/ubuntu--vg-root")
    assert (logical.volume.kind, logical.volume.uuid, logical.volume.label) == (known["TYPE"], known["UUID"], known["LABEL"])
    assert next(holder for holder in machine.holders if holder.name == "loop0").slaves == ("dm-0",)
    assert [(swap.path, swap.kind) for swap in machine.swaps] == [("/swap.img", "file")]  # zram is memory


def test_network_and_services_of_uefi_machine(db01: Path) -> None:
    machine = inspect_live(str(db01))
    nics = {nic.name: nic for nic in machine.nics}
    assert sorted(nics) == ["eno1", "eno2"]  # no InfiniBand, no virtual function, no bond
    assert nics["eno2"].mac == "04:3f:72:aa:00:02"  # permanent, though the bond has given it the other's
    assert nics["eno2"].current_mac == "04:3f:72:aa:00:01"
    assert (nics["eno1"].master, nics["eno1"].driver, nics["eno1"].managed_by) == ("bond0", "bnxt_en", "netplan")
    services = {service.name: service for service in machine.services}
    assert services["postgresql.service"].enabled
    assert services["postgresql.service"].hardware_bound == ""
    assert "SMART" in services["smartmontools.service"].hardware_bound
    assert [(writer.name, writer.detail) for writer in machine.writers] == [
        ("postgresql", "postgres with data in /var/lib/postgresql/14/main")
    ]
    assert machine.kernel.image == "/boot/vmlinuz-5.15.0-91-generic"
    assert machine.kernel.initramfs.path == "/boot/initrd.img-5.15.0-91-generic"
    assert machine.kernel.initramfs.has_virtio is None  # the file is no initramfs
    assert machine.kernel.virtio_available


def test_old_machine_without_systemd(tmp_path: Path) -> None:
    root = unpack("sles11-cciss", tmp_path / "root")
    disk = sparse(root / "dev/cciss/c0d0", 131072 * 512)
    tool("sfdisk", "-q", disk, stdin="label: dos\nstart=63,size=16001,type=82\nstart=16064,size=115008,type=83,bootable\n")
    swap = sparse(tmp_path / "swap", 16001 * 512)
    tool("mkswap", "-L", "sw", swap)
    put(swap, disk, 63 * 512)
    system = sparse(tmp_path / "system", 115008 * 512)
    tool("mkfs.ext3", "-q", "-L", "sys", system)
    put(system, disk, 16064 * 512)
    machine = inspect_live(str(root))
    assert [disk.name for disk in machine.disks] == ["cciss/c0d0"]  # no floppy, no CD, no RAM disk
    found = machine.disks[0]
    assert found.path == "/dev/cciss/c0d0"
    assert found.request_based
    assert [part.path for part in found.partitions] == ["/dev/cciss/c0d0p1", "/dev/cciss/c0d0p2"]
    assert [part.volume.kind for part in found.partitions] == ["swap", "ext3"]
    assert [part.volume.label for part in found.partitions] == ["sw", "sys"]
    assert found.partitions[1].bootable
    assert found.partitions[1].links == ("/dev/disk/by-id/cciss-3600508b1001030364331363133303300-part2",)
    free = int(_dumpe2fs(system, "Free blocks")) * int(_dumpe2fs(system, "Block size"))
    blocks = int(_dumpe2fs(system, "Block count")) * int(_dumpe2fs(system, "Block size"))
    assert found.partitions[1].volume.used == blocks - free
    assert machine.mounts[0].disks == ("cciss/c0d0",)
    assert (machine.os.id, machine.os.version, machine.os.init) == ("sles", "11", "sysvinit")
    assert machine.os.timezone == "Europe/Berlin"
    assert not machine.clock_utc
    assert machine.smbios.serial == ""  # what the board's maker left in is no serial number
    assert (machine.cpu.count, machine.cpu.sockets, machine.cpu.cores, machine.cpu.threads) == (3, 1, 3, 1)  # irregular
    assert machine.boot.kind == "grub-legacy"
    assert machine.nics[0].mac == "00:1c:c4:12:34:56"
    assert machine.nics[0].managed_by == "wicked"
    services = {service.name: service for service in machine.services}
    assert services["hp-health"].hardware_bound
    assert not services["sshd"].hardware_bound
    assert machine.abilities.tracefs == ""
    assert "debugfs" in machine.abilities.tracefs_reason


def _dumpe2fs(path: Path, key: str) -> str:
    lines = tool("dumpe2fs", "-h", path).splitlines()
    return next(line.split(":", 1)[1].strip() for line in lines if line.startswith(key + ":"))


def test_nothing_there_is_no_crash(tmp_path: Path) -> None:
    """A root with no file at all: every topic has its default, and the record still crosses the wire."""
    machine = inspect_live(str(tmp_path))
    assert machine.disks == ()
    assert from_json(Machine, json.loads(json.dumps(to_json(machine)))) == machine


def test_odd_files_are_no_crash(tmp_path: Path) -> None:
    """Every file of a machine replaced by noise, by nothing, by a folder, and by a FIFO that nobody writes to."""
    for turn, spoil in enumerate(("noise", "empty", "folder", "fifo")):
        root = unpack("uefi-nvme-lvm-bond", tmp_path / str(turn))
        for path in sorted(root.rglob("*")):
            if path.is_symlink() or not path.is_file():
                continue
            path.unlink()
            if spoil == "noise":
                path.write_bytes(os.urandom(300) + b"\n=:: \0\xff\n" * 20)
            elif spoil == "empty":
                path.touch()
            elif spoil == "folder":
                path.mkdir()
            else:
                os.mkfifo(path)
        machine = inspect_live(str(root))
        assert json.dumps(to_json(machine))


def test_inspection_writes_nothing(db01: Path) -> None:
    """Neither content nor any time of any file changes, access times included."""

    def state() -> list[tuple[str, int, int, int]]:
        found = []
        for path in sorted(db01.rglob("*")):
            facts = path.lstat()
            if not path.is_dir():  # reading a folder updates its access time; sysfs and procfs keep none
                found.append((str(path), facts.st_atime_ns, facts.st_mtime_ns, facts.st_ctime_ns))
        return found

    for path in db01.rglob("*"):
        if path.is_file() and not path.is_symlink():
            os.utime(path, ns=(1, 1))  # relatime would update an access time as old as this
    before = state()
    inspect_live(str(db01))
    changed = [old[0] for old, new in zip(before, state(), strict=True) if old != new]
    assert [path for path in changed if "/dev/" not in path and "/boot/initrd" not in path] == []


def test_octal_escapes() -> None:
    assert unescape("/mnt/a\\040b\\134c") == "/mnt/a b\\c"
    assert unescape("/mnt/a\\04") == "/mnt/a\\04"


def test_load_option_with_lies_does_not_run_away() -> None:
    assert load_option(b"\x01\x00\x00\x00\xff\xffA\x00").startswith("* A")
    assert load_option(b"\x00" * 8) == ""


def test_loop_of_devices_ends(tmp_path: Path) -> None:
    for name, below in (("dm-0", "dm-1"), ("dm-1", "dm-0")):
        (tmp_path / f"sys/class/block/{name}/slaves/{below}").mkdir(parents=True)
    assert physical(Tree(str(tmp_path)), "dm-0", {}) == set()


@pytest.mark.parametrize("name", ["smartd.service", "nut-driver@ups.service", "multipathd.socket", "dsm_sa_datamgrd"])
def test_hardware_bound(name: str) -> None:
    assert reason(name)


@pytest.mark.parametrize("name", ["ssh.service", "postgresql@15-main.service", "irqbalance.service", "mdmonitor.service"])
def test_not_hardware_bound(name: str) -> None:
    assert not reason(name)


# ---------------------------------------------------------------- images


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A BIOS disk with logical partitions: ext4, swap in an extended partition, LUKS."""
    disk = sparse(tmp_path / "old box.raw", 400 * MIB)
    tool(
        "sfdisk", "-q", disk,
        stdin="label: dos\nstart=2048,size=204800,type=83,bootable\nstart=206848,type=5\nstart=208896,size=65536,type=82\n"
              "start=278528,size=131072,type=83\n",
    )  # fmt: skip
    system = sparse(tmp_path / "system", 100 * MIB)
    tool("mkfs.ext4", "-q", "-L", "system", system)
    put(system, disk, 2048 * 512)
    swap = sparse(tmp_path / "swap", 32 * MIB)
    tool("mkswap", swap)
    put(swap, disk, 208896 * 512)
    luks = sparse(tmp_path / "luks", 64 * MIB)
    tool("cryptsetup", "luksFormat", "-q", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", luks, "-", stdin="secret")
    put(luks, disk, 278528 * 512)
    return disk


def test_image(image: Path) -> None:
    machine = inspect_image(str(image))
    assert not machine.live
    assert machine.hostname == "old box"
    assert machine.firmware is Firmware.BIOS
    assert (machine.mounts, machine.swaps, machine.holders) == ((), (), ())
    disk = machine.disks[0]
    oracle = json.loads(tool("sfdisk", "--json", image))["partitiontable"]
    assert (disk.format, disk.table, disk.table_id) == ("raw", "mbr", oracle["id"])
    assert [(part.offset // 512, part.length // 512) for part in disk.partitions] == [
        (part["start"], part["size"]) for part in oracle["partitions"]
    ]
    assert [int(part.type, 16) for part in disk.partitions] == [int(part["type"], 16) for part in oracle["partitions"]]
    assert [part.volume.kind for part in disk.partitions] == ["ext4", "extended", "swap", "crypto_LUKS"]
    for part in disk.partitions:
        if part.volume.kind != "extended":
            assert part.volume.uuid == blkid(image, part.offset)["UUID"]


@pytest.mark.parametrize("subformat", ["dynamic", "fixed"])
def test_vhd_image_is_read_as_its_raw_content(image: Path, tmp_path: Path, subformat: str) -> None:
    vhd = tmp_path / "box.vhd"
    tool("qemu-img", "convert", "-f", "raw", "-O", "vpc", "-o", f"subformat={subformat},force_size=on", image, vhd)
    disk = inspect_image(str(vhd)).disks[0]
    assert disk.format == "vhd"
    assert disk.size == 400 * MIB
    raw = inspect_image(str(image)).disks[0]
    assert [part.volume for part in disk.partitions] == [part.volume for part in raw.partitions]


@pytest.mark.parametrize("kind", ["qcow2", "vmdk", "vhdx", "vdi"])
def test_image_of_another_kind_names_the_way_out(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"disk.{kind}"
    tool("qemu-img", "create", "-q", "-f", kind, path, "64M")
    with pytest.raises(UsageError, match=f"a {kind} image.*qemu-img convert"):
        inspect_image(str(path))


def test_image_with_a_journal_to_replay(image: Path, tmp_path: Path) -> None:
    """debugfs sets the flag that a crashed ext4 has."""
    system = tmp_path / "system"
    tool("debugfs", "-w", "-R", "feature needs_recovery", system)
    put(system, image, 2048 * 512)
    assert inspect_image(str(image)).disks[0].partitions[0].volume.needs_recovery


def test_image_in_use_by_a_mounted_loop_device(image: Path, tmp_path: Path) -> None:
    loop = tool("losetup", "--find", "--show", "--offset", 2048 * 512, "--sizelimit", 204800 * 512, image).strip()
    mountpoint = tmp_path / "mnt"
    mountpoint.mkdir()
    try:
        tool("mount", loop, mountpoint)
        try:
            assert [mount.mountpoint for mount in inspect_image(str(image)).mounts] == [str(mountpoint)]
        finally:
            tool("umount", mountpoint)
        assert inspect_image(str(image)).mounts == ()
    finally:
        tool("losetup", "--detach", loop)


def test_what_is_no_image(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="neither a disk image"):
        inspect_image(str(tmp_path))
    with pytest.raises(UsageError, match="No such file"):
        inspect_image(str(tmp_path / "absent.raw"))


# ---------------------------------------------------------------- this machine, against its own tools


@pytest.fixture(scope="module")
def here() -> Machine:
    return inspect_live()


def test_processors_as_lscpu(here: Machine) -> None:
    fields = {item["field"].rstrip(":"): item["data"] for item in json.loads(tool("lscpu", "--json"))["lscpu"]}
    assert here.cpu.arch == fields["Architecture"]
    assert here.cpu.count == len(tool("lscpu", "--parse=CPU", "--online").splitlines()) - 4  # 4 lines of comment
    assert here.cpu.sockets * here.cpu.cores * here.cpu.threads == here.cpu.count


def test_memory_as_lsmem(here: Machine) -> None:
    lines = tool("lsmem", "--bytes").splitlines()
    online = next(line.split(":")[1] for line in lines if line.startswith("Total online memory"))
    assert here.memory == int(online)


def test_disks_as_lsblk(here: Machine) -> None:
    columns = "NAME,SIZE,LOG-SEC,PHY-SEC,MAJ:MIN,RO,RM,ROTA"
    oracle = {
        disk["name"]: disk
        for disk in json.loads(tool("lsblk", "--json", "--bytes", "--nodeps", "--output", columns))["blockdevices"]
        if disk["size"] and not disk["name"].startswith(("zram", "loop", "sr", "fd", "dm-", "md"))
    }
    mine = {disk.name: disk for disk in here.disks if disk.transport != "loop"}
    assert sorted(mine) == sorted(oracle)
    for name, disk in mine.items():
        facts = oracle[name]
        assert (disk.size, disk.sector_size, disk.physical_sector_size) == (facts["size"], facts["log-sec"], facts["phy-sec"])
        assert (disk.devno, disk.read_only, disk.removable) == (facts["maj:min"], facts["ro"], facts["rm"])


def test_mounts_as_findmnt(here: Machine) -> None:
    kinds = "ext2,ext3,ext4,xfs,btrfs,vfat"
    oracle = json.loads(tool("findmnt", "--json", "--list", "--types", kinds, "--output", "TARGET,SOURCE,FSTYPE,MAJ:MIN"))
    wanted = sorted((item["target"], item["fstype"]) for item in oracle["filesystems"])
    assert sorted((mount.mountpoint, mount.fstype) for mount in here.mounts if mount.fstype in kinds.split(",")) == wanted


def test_addresses_as_ip(here: Machine) -> None:
    links = json.loads(tool("ip", "-j", "addr"))
    for nic in here.nics:
        link = next(link for link in links if link["ifname"] == nic.name)
        wanted = [f"{item['local']}/{item['prefixlen']}" for item in link["addr_info"] if item["scope"] != "link"]
        assert list(nic.addresses) == wanted
        assert nic.mac == link.get("permaddr", link["address"])
        assert nic.current_mac == link["address"]


def test_enabled_services_as_systemctl(here: Machine) -> None:
    lines = tool("systemctl", "list-unit-files", "--type=service", "--state=enabled", "--no-legend", "--no-pager").splitlines()
    wanted = {line.split()[0] for line in lines if "@." not in line.split()[0]}
    mine = {service.name for service in here.services if service.enabled}
    assert {name for name in mine if "@" not in name} == wanted  # of instances systemctl lists the template only


def test_mounted_loop_device(tmp_path: Path) -> None:
    """A real ext4 in use: bytes used as statvfs says, its disks are the loop device and what holds its file."""
    image = sparse(tmp_path / "disk.raw", 256 * MIB)
    tool("mkfs.ext4", "-q", "-L", "data", image)
    loop = tool("losetup", "--find", "--show", image).strip()
    mountpoint = tmp_path / "a mount"
    mountpoint.mkdir()
    try:
        tool("mount", loop, mountpoint)
        try:
            (mountpoint / "file").write_bytes(os.urandom(40 * MIB))
            os.sync()
            machine = inspect_live()
            facts = os.statvfs(mountpoint)
            total = int(_dumpe2fs(image, "Block count")) * int(_dumpe2fs(image, "Block size"))
        finally:
            tool("umount", mountpoint)
    finally:
        tool("losetup", "--detach", loop)
    disk = next(disk for disk in machine.disks if disk.path == loop)
    assert disk.transport == "loop"
    assert disk.request_based
    assert disk.volume is not None
    assert (disk.volume.kind, disk.volume.label) == ("ext4", "data")
    assert disk.volume.used == total - facts.f_bfree * facts.f_frsize
    assert not disk.volume.needs_recovery  # it has to be replayed if nobody had it mounted, but somebody has
    mount = next(mount for mount in machine.mounts if mount.mountpoint == str(mountpoint))
    assert mount.device == loop
    beneath = json.loads(tool("findmnt", "--json", "--target", tmp_path, "--output", "MAJ:MIN"))["filesystems"][0]["maj:min"]
    names = {disk.devno: disk.name for disk in machine.disks}
    assert set(mount.disks) == {disk.name, *([names[beneath]] if beneath in names else [])}


def test_mount_that_only_another_namespace_sees(tmp_path: Path) -> None:
    """A real mount made after a real unshare: a container's volume, say."""
    image = sparse(tmp_path / "volume.raw", 32 * MIB)
    tool("mkfs.ext4", "-q", image)
    loop = tool("losetup", "--find", "--show", image).strip()
    mountpoint = tmp_path / "volume"
    mountpoint.mkdir()
    inside = f"mount {loop} {mountpoint} && echo ready && read line"
    process = subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", inside], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        machine = inspect_live()
    finally:
        process.communicate("\n")
        tool("losetup", "--detach", loop)
    assert any(loop in line and str(mountpoint) in line and "cannot be frozen" in line for line in machine.warnings)
    assert not any(loop in line for line in inspect_live().warnings)


def python36() -> str | None:
    """A Python 3.6 that really starts: in PATH (pyenv leaves names there that do not), or one of pyenv's."""
    found = [shutil.which("python3.6"), *map(str, sorted(Path("~/.pyenv/versions").expanduser().glob("3.6*/bin/python3.6")))]
    for python in found:
        if python and subprocess.run([python, "-c", ""], capture_output=True).returncode == 0:
            return python
    return None


def test_same_record_under_python36(db01: Path) -> None:
    python = python36()
    if python is None:
        pytest.skip("no Python 3.6 on this machine")
    script = (
        "import json, sys; from livep2v.source.inspection import inspect_live; from livep2v.model import to_json; "
        "print(json.dumps(to_json(inspect_live(sys.argv[1]))))"
    )
    root = Path(__file__).parents[2]
    out = subprocess.run(
        [python, "-I", "-c", f"import sys; sys.path.insert(0, {str(root)!r}); {script}", str(db01)],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    other = from_json(Machine, json.loads(out))
    mine = inspect_live(str(db01))
    assert other._replace(abilities=mine.abilities) == mine
