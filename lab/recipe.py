"""What the lab machines are. A change here (comments aside) makes a new machine: the cache key is a hash of this module.

``OLDBOX`` stands for the physical machine that people convert: BIOS, MBR, AHCI disk, e1000, everything by ``/dev/sdXN``, GRUB
in the gap before the first partition, free space full of what was there before, a database that is being written to.
"""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1024 * 1024


@dataclass(frozen=True)
class Partition:
    size: int  # bytes
    kind: str  # "ext4" or "swap"
    mountpoint: str = ""  # "/" or "/boot"; empty for swap


@dataclass(frozen=True)
class Hardware:
    """What the machine's firmware and buses show. No string here may have a comma: QEMU's options are split at commas."""

    manufacturer: str
    product: str
    serial: str
    uuid: str
    bios_vendor: str
    disk_model: str
    disk_serial: str
    disk_wwn: int
    mac: str
    cpus: int
    memory: int  # bytes


@dataclass(frozen=True)
class Recipe:
    name: str
    suite: str
    packages: tuple[str, ...]
    disk_size: int  # bytes
    partitions: tuple[Partition, ...]
    hardware: Hardware
    early_files: tuple[tuple[str, str], ...]  # (path, text), there before the packages are installed
    files: tuple[tuple[str, str], ...]  # (path, text), written after that
    chroot_script: str  # sh, runs in the tree as root when all packages are installed
    first_boot_script: str  # sh, runs over ssh on the machine's first boot; the machine is powered off after it


# Debian's installer writes fstab with comments and the CD-ROM line; a converter has to keep both.
FSTAB = """\
# /etc/fstab: static file system information.
#
# <file system> <mount point>   <type>  <options>       <dump>  <pass>
/dev/sda2       /               ext4    errors=remount-ro 0       1
/dev/sda1       /boot           ext4    defaults        0       2
/dev/sda3       none            swap    sw              0       0
/dev/sr0        /media/cdrom0   udf,iso9660 user,noauto     0       0
"""

INTERFACES = """\
source /etc/network/interfaces.d/*

auto lo
iface lo inet loopback

# The primary network interface
allow-hotplug enp0s2
iface enp0s2 inet static
\taddress 10.0.2.15/24
\tgateway 10.0.2.2
"""

DEFAULT_GRUB = """\
# If you change this file, run 'update-grub' afterwards to update
# /boot/grub/grub.cfg.
GRUB_DEFAULT=0
GRUB_TIMEOUT=2
GRUB_DISTRIBUTOR=`lsb_release -i -s 2> /dev/null || echo Debian`
GRUB_CMDLINE_LINUX_DEFAULT="quiet"
GRUB_CMDLINE_LINUX=""

# Device names, as on a machine that was installed long ago
GRUB_DISABLE_LINUX_UUID=true
GRUB_DISABLE_OS_PROBER=true
"""

CHROOT_SCRIPT = """\
set -eu
useradd -m -s /bin/bash -c 'has passwordless sudo' admin
useradd -m -s /bin/bash -c 'may do nothing' nobodyelse
chmod 0440 /etc/sudoers.d/admin
ln -sf /usr/share/zoneinfo/Europe/Vienna /etc/localtime
mkdir -p /media/cdrom0
printf 'host all all 10.0.2.0/24 trust\\n' >> /etc/postgresql/15/main/pg_hba.conf
chown postgres: /etc/postgresql/15/main/conf.d/lab.conf
# Half a minute of CPU on every boot under emulation, and nothing that a conversion has to do with
systemctl disable apt-daily.timer apt-daily-upgrade.timer man-db.timer e2scrub_all.timer dpkg-db-backup.timer || true
"""

# grub-install, grub-mkdevicemap and update-grub run on the machine itself, so that what they leave is the real thing.
FIRST_BOOT_SCRIPT = """\
set -eu
export DEBIAN_FRONTEND=noninteractive
echo 'grub-pc grub-pc/install_devices multiselect /dev/sda' | debconf-set-selections
echo 'grub-pc grub-pc/install_devices_empty boolean false' | debconf-set-selections
grub-mkdevicemap
grub-install /dev/sda
update-grub
cd /
sudo -u postgres psql -v ON_ERROR_STOP=1 -q <<SQL
create role ledger login;
create database ledger owner ledger;
\\c ledger
create table ledger(n bigint primary key, payload text not null, at timestamptz not null default clock_timestamp());
alter table ledger owner to ledger;
checkpoint;
SQL
# Free space gets the blocks of a deleted file, beside what was there before the file systems were made
head -c 200M /dev/urandom > /var/tmp/deleted
sync
rm /var/tmp/deleted
systemctl is-active smartmontools.service
systemctl is-active postgresql@15-main.service
swapon --show --noheadings | grep -q /dev/sda3
test "$(grep -c ' root=/dev/sda2 ' /boot/grub/grub.cfg)" -ge 2
"""

OLDBOX = Recipe(
    name="oldbox",
    suite="bookworm",
    packages=(
        "linux-image-amd64",
        "initramfs-tools",
        "zstd",
        "grub-pc",
        "systemd-sysv",
        "libpam-systemd",
        "dbus",
        "openssh-server",
        "ifupdown",
        "sudo",
        "python3",
        "postgresql-15",
        "smartmontools",
        "tzdata",
    ),
    disk_size=4096 * MIB,
    partitions=(
        Partition(300 * MIB, "ext4", "/boot"),
        Partition(3328 * MIB, "ext4", "/"),
        Partition(448 * MIB, "swap"),
    ),
    hardware=Hardware(
        manufacturer="Oldcastle Computers",
        product="Tower 500",
        serial="OC-2009-004711",
        uuid="8d1f3e5a-5c0b-4b7e-9a61-0c5d2f6e7a10",
        bios_vendor="Oldcastle",
        disk_model="OLDCASTLE HD4000",
        disk_serial="WD-OC0004711",
        disk_wwn=0x5000C500A1B2C3D4,
        mac="00:1b:21:0a:47:11",
        cpus=2,
        memory=1024 * MIB,
    ),
    early_files=(
        ("/etc/initramfs-tools/conf.d/resume", "RESUME=/dev/sda3\n"),
        ("/etc/default/grub", DEFAULT_GRUB),
        ("/etc/fstab", FSTAB),
        ("/etc/timezone", "Europe/Vienna\n"),
    ),
    files=(
        ("/etc/hostname", "oldbox\n"),
        ("/etc/hosts", "127.0.0.1\tlocalhost\n127.0.1.1\toldbox\n"),
        ("/etc/resolv.conf", "nameserver 10.0.2.3\n"),
        ("/etc/network/interfaces", INTERFACES),
        ("/etc/adjtime", "0.0 0 0.0\n0\nUTC\n"),
        ("/etc/sudoers.d/admin", "admin ALL=(root) NOPASSWD: ALL\n"),
        ("/etc/postgresql/15/main/conf.d/lab.conf", "listen_addresses = '*'\n"),
    ),
    chroot_script=CHROOT_SCRIPT,
    first_boot_script=FIRST_BOOT_SCRIPT,
)

RECIPES = {recipe.name: recipe for recipe in (OLDBOX,)}
