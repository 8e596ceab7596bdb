#!/bin/sh
# Starts the VM old box, the 'first' with plain qemu. The folder may be moved as a whole.
# Arguments are given to qemu as they are, relative paths start at this folder. Variables that change something:
#   LIVEP2V_ACCEL     kvm or tcg (emulation, slow); decided by a trial at conversion: KVM is not usable here: no device
#   LIVEP2V_NET       qemu netdev of the first network interface [user]; for instance user,hostfwd=tcp:127.0.0.1:2222-:22
#                     or bridge,br=br0. Mind that the source, if it still runs, has the same addresses.
#   LIVEP2V_NET_REST  netdev of the other interfaces [user,restrict=on]
#   LIVEP2V_SNAPSHOT  1: throw away at the end whatever the VM writes
#   LIVEP2V_DISPLAY   qemu display: none, gtk, curses, vnc=127.0.0.1:1 ... [none without a graphical session]
#   LIVEP2V_SERIAL    qemu character device of the first serial port [file:logs/console.log]; for instance mon:stdio
#   LIVEP2V_PIDFILE   file for qemu's process id
#   LIVEP2V_QMP       path of a control socket to make
#   LIVEP2V_EXTRA     more qemu options, split at blanks
set -euf
CDPATH='' cd -- "$(dirname -- "$0")"

accel=${LIVEP2V_ACCEL:-tcg}
if [ "$accel" = kvm ] && [ -z "${LIVEP2V_ACCEL:-}" ] && ! [ -w /dev/kvm ]; then
    echo "start.sh: /dev/kvm cannot be used here, emulating (slow)" >&2
    accel=tcg
fi
if [ "$accel" = kvm ]; then cpu=host; else cpu=max; fi
net=${LIVEP2V_NET:-user}
net_rest=${LIVEP2V_NET_REST:-user,restrict=on}
serial=${LIVEP2V_SERIAL:-file:logs/console.log}
display=${LIVEP2V_DISPLAY:-}
if [ -z "$display" ] && [ -z "${DISPLAY:-}${WAYLAND_DISPLAY:-}" ]; then display=none; fi

# shellcheck disable=SC2086  # split at blanks on purpose; set -f keeps * as it is
set -- ${LIVEP2V_EXTRA:-} "$@"
if [ -n "$display" ]; then set -- -display "$display" "$@"; fi
if [ "${LIVEP2V_SNAPSHOT:-0}" = 1 ]; then set -- -snapshot "$@"; fi
if [ -n "${LIVEP2V_PIDFILE:-}" ]; then set -- -pidfile "$LIVEP2V_PIDFILE" "$@"; fi
if [ -n "${LIVEP2V_QMP:-}" ]; then set -- -qmp "unix:$LIVEP2V_QMP,server=on,wait=off" "$@"; fi
mkdir -p logs

exec qemu-system-x86_64 \
    -name 'guest=old box,, the '"'"'first'"'"'' \
    -nodefaults \
    -no-user-config \
    -machine q35 \
    -accel "${accel}" \
    -cpu "${cpu}" \
    -smp 4,sockets=1,cores=2,threads=2 \
    -m 512M \
    -uuid 4c4c4544-0042-3510-8052-b4c04f4e3332 \
    -smbios 'type=1,manufacturer=ACME,, Inc.,product=Box $HOME `x`,serial=S123' \
    -rtc base=utc \
    -boot strict=on \
    -vga std \
    -device ich9-ahci,id=ahci0 \
    -drive if=none,id=disk0,driver=vpc,file.driver=file,file.filename=sda.vhd,cache=writeback \
    -device ide-hd,bus=ahci0.0,drive=disk0,bootindex=1,serial=WD-WCC4E1234567890AB,wwn=0x5000c500a1b2c3d4 \
    -drive 'if=none,id=disk1,driver=raw,file.driver=file,file.filename=s db,,2.raw,cache=writeback,discard=unmap' \
    -device ide-hd,bus=ahci0.1,drive=disk1,bootindex=2 \
    -netdev "${net}",id=net0 \
    -device virtio-net-pci,netdev=net0,mac=52:54:00:12:34:56,romfile= \
    -netdev "${net_rest}",id=net1 \
    -device e1000,netdev=net1,mac=52:54:00:12:34:57,romfile= \
    -serial "${serial}" \
    "$@"
