#!/bin/sh
# Runs once, at the first boot after this machine became a virtual machine (livep2v): reports how it came up, to
# /var/log/livep2v-first-boot.log and to the second serial port if there is one.
DONE=/var/lib/livep2v/first-boot.done
IMPORT=/var/lib/livep2v/import-lvm-devices
LOG=/var/log/livep2v-first-boot.log
PORT=ttyS1
[ -e "$DONE" ] && exit 0
PATH=/usr/sbin:/usr/bin:/sbin:/bin
LC_ALL=C
export PATH LC_ALL

# The boot is over when systemd says so, or after 300 s: a unit may wait for ever.
state=unknown
waited=0
if command -v systemctl >/dev/null 2>&1; then
    while [ "$waited" -lt 300 ]; do
        state=$(systemctl is-system-running 2>/dev/null)
        case $state in
            initializing | starting | '') ;;
            *) break ;;
        esac
        sleep 1
        waited=$((waited + 1))
    done
fi

# LVM's list of known disks named the old ones and was taken away; list those that are here.
if [ -e "$IMPORT" ]; then
    timeout 60 vgimportdevices -a >/dev/null 2>&1
    rm -f "$IMPORT"
fi

# With a static address the interface is up by now; a DHCP client may need a moment more. No network is no error.
waited=0
while [ "$waited" -lt 15 ] && command -v ip >/dev/null 2>&1; do
    [ -n "$(ip -o addr show scope global 2>/dev/null)" ] && break
    sleep 1
    waited=$((waited + 1))
done

report() {
    echo "LIVEP2V-BEGIN 1"
    read -r value </proc/sys/kernel/hostname && echo "hostname $value"
    read -r value </proc/sys/kernel/osrelease && echo "kernel $value"
    root=
    while read -r source target kind _; do
        case $source in
            /dev/*) [ "$target" = / ] && root=$source ;;
        esac
    done </proc/mounts
    if [ "$root" = /dev/root ]; then # mounted by the kernel itself
        while read -r _ _ numbers _ target _; do
            [ "$target" = / ] && root=$(readlink -f "/dev/block/$numbers" 2>/dev/null || echo /dev/root)
        done </proc/self/mountinfo
    fi
    echo "root $root"
    while read -r source target kind _; do
        case $source in
            /dev/loop*) ;;
            /dev/*) echo "mount $source $target $kind" ;;
        esac
    done </proc/mounts
    if command -v systemctl >/dev/null 2>&1; then
        systemctl list-units --state=failed --no-legend --no-pager 2>/dev/null | while read -r first second _; do
            case $first in
                *.*) echo "failed $first" ;;
                *) [ -n "$second" ] && echo "failed $second" ;; # a bullet comes first in some versions
            esac
        done
    fi
    if command -v ip >/dev/null 2>&1; then
        ip -o addr show scope global 2>/dev/null | while read -r _ name family address _; do
            case $family in
                inet | inet6) echo "address $name $address" ;;
            esac
        done
    fi
    echo "state $state"
    echo "LIVEP2V-END"
}

text=$(report)
echo "$text" >>"$LOG"
mkdir -p "${DONE%/*}"
: >"$DONE"

# The node /dev/ttyS1 exists without a port behind it; the type in sysfs is 0 then. Raw, and no waiting for a carrier; the
# time limit is for a port that nobody reads.
read -r kind <"/sys/class/tty/$PORT/type" 2>/dev/null || kind=0
if [ "$kind" != 0 ]; then
    TEXT=$text timeout 30 sh -c 'exec 3<>"/dev/$0"; stty raw -echo clocal -crtscts 115200 <&3; echo "$TEXT" >&3; sleep 1' "$PORT"
fi
exit 0
