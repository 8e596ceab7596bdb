"""``livep2v inspect`` of the lab machine over ssh, compared with what the machine's own programs say of it."""

from __future__ import annotations

import json
import shlex

import pytest

from lab.machine import Machine as Lab
from livep2v.convert import inspect
from livep2v.model import Disk, Firmware, Machine, Options, Plan

pytestmark = pytest.mark.machine

# Everything that must not change: what is mounted, traced and left in the folders where programs leave things.
STATE = (
    "cat /proc/self/mountinfo | cut -d' ' -f3-; ls /sys/kernel/tracing/instances /tmp /dev/shm /run /etc /root; "
    "ps -eo args --no-headers | grep -c '[p]ython'; losetup -a"
)


def options(oldbox: Lab, user: str) -> Options:
    return Options(f"{user}@{oldbox.built.recipe.name}", ssh_options=(f"-F{oldbox.ssh_config}",))


@pytest.fixture(scope="module")
def found(oldbox: Lab) -> tuple[Machine, Plan, str, str]:
    """The record, the plan, and the machine's state before and after."""
    before = oldbox.run(STATE)
    machine, _, plan = inspect(options(oldbox, "root"), lambda name, facts: None)
    assert isinstance(plan, Plan), plan
    return machine, plan, before, oldbox.run(STATE)


@pytest.fixture(scope="module")
def sda(found: tuple[Machine, Plan, str, str]) -> Disk:
    (disk,) = found[0].disks
    return disk


def test_nothing_changed_there(found: tuple[Machine, Plan, str, str]) -> None:
    assert found[3] == found[2]


def test_disk_as_lsblk(oldbox: Lab, sda: Disk) -> None:
    columns = "NAME,SIZE,MAJ:MIN,MODEL,SERIAL,WWN,TRAN,ROTA,RO,RM,LOG-SEC,PHY-SEC,PTTYPE,PTUUID"
    (oracle,) = json.loads(oldbox.run(f"lsblk --json --bytes --nodeps --output {columns} /dev/sda"))["blockdevices"]
    assert (sda.name, sda.size, sda.devno, sda.model) == (oracle["name"], oracle["size"], oracle["maj:min"], oracle["model"])
    assert (sda.serial, sda.wwn, sda.transport) == (oracle["serial"], oracle["wwn"], oracle["tran"])
    assert (sda.rotational, sda.read_only, sda.removable) == (oracle["rota"], oracle["ro"], oracle["rm"])
    assert (sda.sector_size, sda.physical_sector_size) == (oracle["log-sec"], oracle["phy-sec"])
    assert (sda.table, sda.table_id) == ({"dos": "mbr"}[oracle["pttype"]], f"0x{oracle['ptuuid']}")
    assert sda.boot_code == "GRUB"


def test_volumes_as_blkid_and_links_as_udev(oldbox: Lab, sda: Disk) -> None:
    for part in sda.partitions:
        lines = oldbox.run(f"blkid -p -o export {part.path}").splitlines()
        oracle = dict(line.split("=", 1) for line in lines if "=" in line)
        assert (part.offset, part.length) == (int(oracle["PART_ENTRY_OFFSET"]) * 512, int(oracle["PART_ENTRY_SIZE"]) * 512)
        assert (part.uuid, part.type) == (oracle["PART_ENTRY_UUID"], oracle["PART_ENTRY_TYPE"])
        assert (part.volume.kind, part.volume.uuid) == (oracle["TYPE"], oracle["UUID"])
        assert set(part.links) == set(oldbox.run(f"udevadm info -q symlink -r {part.path}").split())


def test_used_bytes_as_the_file_system_says(oldbox: Lab, sda: Disk) -> None:
    """Files come and go on a running machine: within 1 %."""
    for part, mountpoint in zip(sda.partitions[:2], ("/boot", "/"), strict=True):
        header = oldbox.run(f"dumpe2fs -h {part.path} 2>/dev/null")
        facts = dict(line.split(":", 1) for line in header.splitlines() if ":" in line)
        total = int(facts["Block count"]) * int(facts["Block size"])
        free, size = map(int, oldbox.run(f"stat -f -c '%f %S' {mountpoint}").split())
        assert part.volume.used == pytest.approx(total - free * size, rel=0.01)
        assert not part.volume.needs_recovery


def test_mounts_as_findmnt(oldbox: Lab, found: tuple[Machine, Plan, str, str]) -> None:
    oracle = json.loads(oldbox.run("findmnt --json --list --real --types ext4 --output TARGET,SOURCE,FSTYPE,MAJ:MIN"))
    assert [(mount.mountpoint, mount.device, mount.fstype, mount.devno) for mount in found[0].mounts] == [
        (item["target"], item["source"], item["fstype"], item["maj:min"]) for item in oracle["filesystems"]
    ]
    assert all(mount.disks == ("sda",) for mount in found[0].mounts)
    assert [swap.path for swap in found[0].swaps] == oldbox.run("swapon --show=NAME --noheadings").split()


def test_hardware(oldbox: Lab, found: tuple[Machine, Plan, str, str]) -> None:
    machine = found[0]
    efi = oldbox.run("test -d /sys/firmware/efi && echo yes || true").strip()
    assert machine.firmware is (Firmware.UEFI if efi else Firmware.BIOS)
    assert machine.cpu.count == int(oldbox.run("nproc"))
    online = next(line for line in oldbox.run("lsmem --bytes").splitlines() if line.startswith("Total online memory"))
    assert machine.memory == int(online.split(":")[1])
    names = {"uuid": "product_uuid", "manufacturer": "sys_vendor", "product": "product_name", "serial": "product_serial"}
    for field, file in names.items():
        assert getattr(machine.smbios, field) == oldbox.run(f"cat /sys/class/dmi/id/{file}").strip()
    for nic in machine.nics:
        (link,) = json.loads(oldbox.run(f"ip -j addr show {nic.name}"))
        assert nic.mac == link.get("permaddr", link["address"])
        wanted = [f"{item['local']}/{item['prefixlen']}" for item in link["addr_info"] if item["scope"] != "link"]
        assert list(nic.addresses) == wanted
    assert [nic.driver for nic in machine.nics] == ["e1000"]


def test_system(oldbox: Lab, found: tuple[Machine, Plan, str, str]) -> None:
    machine = found[0]
    assert machine.hostname == oldbox.run("hostname").strip()
    assert machine.os.timezone == oldbox.run("timedatectl show -p Timezone --value").strip()
    assert machine.os.machine_id == oldbox.run("cat /etc/machine-id").strip()
    release = oldbox.run("uname -r").strip()
    assert machine.kernel.release == release
    inside = oldbox.run(f"lsinitramfs {shlex.quote(machine.kernel.initramfs.path)}")
    assert machine.kernel.initramfs.has_virtio == ("/virtio_blk.ko" in inside and "/virtio_pci.ko" in inside)
    assert ("ahci" in machine.kernel.initramfs.modules) == ("/ahci.ko" in inside)
    active = oldbox.run("systemctl list-units --type=service --state=active --plain --no-legend").splitlines()
    mine = {service.name for service in machine.services if service.state == "active"}
    assert len(mine ^ {line.split()[0] for line in active}) <= 3  # sessions and timers come and go
    enabled = {service.name for service in machine.services if service.enabled}
    for name in ("ssh.service", "smartmontools.service", "postgresql.service", "systemd-networkd.service"):
        state = oldbox.run(f"systemctl is-enabled {name} || true").strip()
        assert (name in enabled) == (state == "enabled"), name
    assert any(writer.name == "postgresql" for writer in machine.writers)
    assert machine.abilities.tracefs == "/sys/kernel/tracing"


def test_plan_of_the_lab_machine(found: tuple[Machine, Plan, str, str]) -> None:
    plan = found[1]
    assert plan.snapshot.provider == "tracked"
    used = sum(part.volume.used or 0 for part in found[0].disks[0].partitions)
    assert used < plan.estimated_bytes < used + (4 << 20)  # besides: the boot area, the tail, the swap header


def test_user_without_root_is_told_so(oldbox: Lab) -> None:
    """Either the connection or the plan refuses; both name the user and the line for sudoers."""
    with pytest.raises(Exception, match=r"nobodyelse.*sudoers") as caught:
        outcome = inspect(options(oldbox, "nobodyelse"), lambda name, facts: None)[2]
        if isinstance(outcome, Exception):
            raise outcome
    assert type(caught.value).__name__ in ("NotRoot", "Refusal")
