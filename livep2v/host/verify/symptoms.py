"""Messages of firmware, boot loaders, kernels and initramfs programs after which a guest will not come up by itself.

They are looked for on the serial console, in the firmware's debug output and on the text screen, so that a check ends when
the guest is lost and not when its time is up.
"""

from __future__ import annotations

import re

from .guest_report import printable

# (pattern, verdict). The whole line of the first match is quoted after the verdict. Order: the most telling one first, as the
# output of one failure often holds several.
SYMPTOMS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), verdict)
    for pattern, verdict in (
        # Linux: panic() in kernel/panic.c
        (r"Kernel panic - not syncing", "the kernel panicked"),
        # initramfs-tools: scripts/functions, panic()
        (r"ALERT! .* does not exist", "the initramfs did not find the root file system"),
        (r"(?m)^\(initramfs\)", "the initramfs gave up and waits at a shell"),
        # dracut: modules.d/99base/dracut-lib.sh and dracut-emergency.sh
        (r"dracut-initqueue.*[Tt]imeout.*starting timeout scripts", "dracut did not find the root file system"),
        (r"dracut Warning: Could not boot", "dracut could not boot"),
        (r"Entering emergency mode\. Exit the shell to continue", "dracut gave up and waits at a shell"),
        # mkinitcpio: init_functions; Alpine: mkinitfs initramfs-init
        (r"You are now being dropped into an emergency shell", "the initramfs gave up and waits at a shell"),
        (r"initramfs emergency recovery shell launched", "the initramfs gave up and waits at a shell"),
        # systemd: emergency.service and rescue.service
        (r"You are in emergency mode", "the system is in emergency mode"),
        (r"Cannot open access to console, the root account is locked", "the system is in emergency mode"),
        (r"You are in rescue mode", "the system is in rescue mode"),
        # GRUB: kern/rescue_reader.c, normal/main.c, loader/i386/linux.c. Its other errors are often followed by a good boot.
        (r"grub rescue>", "GRUB did not find its files"),
        (r"error: you need to load the kernel first", "GRUB has no kernel to start"),
        (r"Minimal BASH-like line editing is supported", "GRUB found no configuration and waits at its prompt"),
        # SeaBIOS: src/boot.c
        (r"No bootable device", "the firmware found nothing to boot"),
        # OVMF: MdeModulePkg BdsDxe, and the shell that it starts when nothing boots
        (r"BdsDxe: No bootable option or device was found", "the firmware found nothing to boot"),
        (r"UEFI Interactive Shell", "the firmware found nothing to boot"),
        # boot sectors of MBR partition tools
        (r"Missing operating system|Operating [Ss]ystem not found", "the boot sector found no operating system"),
    )
)


def diagnose(text: str) -> str:
    """One sentence on why the guest is lost, with the line that says so; empty when nothing in ``text`` says it is."""
    for pattern, verdict in SYMPTOMS:
        match = pattern.search(text)
        if match:
            start = max(text.rfind("\n", 0, match.start()), text.rfind("\r", 0, match.start())) + 1
            line = re.split(r"[\r\n]", text[start : start + 300], maxsplit=1)[0]
            return f"{verdict}: {printable(line, 200)}"
    return ""


def last_line(text: str) -> str:
    """The last line of ``text`` that says anything, for a verdict without a symptom."""
    lines = (printable(line, 200) for line in reversed(re.split(r"[\r\n]+", text)))
    return next((line for line in lines if line), "")
