"""Kernel arguments in every place from which a boot loader takes them.

``root=/dev/sda2`` means nothing where the disk is /dev/vda (HyperCore#370: GRUB_DISABLE_LINUX_UUID puts such names into
grub.cfg). Only tokens of the lines that carry arguments are edited. The file is never generated anew: grub-mkconfig in another
environment writes linuxefi for BIOS guests, drops entries, or overwrites the stub on the ESP (RHEL-173538, RHEL-77989).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from ..cmdline import console_tokens, device_tokens
from ..context import Context
from ..entries import BLS_ENTRIES, EXTLINUX_CONFIGS, GRUB_CONFIGS, GRUB_ENV, LEGACY_CONFIGS, LINUX_LINE
from ..guest import bytes_of

NAME = "boot-arguments"
CRITICAL = True
WHY = "root= and resume= by names that exist in the VM, and a serial console for its boot log"
_BY_HAND = ("/boot/grub/custom.cfg", "/boot/grub2/custom.cfg", "/etc/grub.d/40_custom")
_INITRD = re.compile(r"^\s*initrd(?:16|efi)?\s", re.IGNORECASE)
_KOPT = re.compile(r"^(#\s*kopt(?:_\w+)?=)(.*)$")
_SET = re.compile(r'^(\s*set\s+(?:default_)?kernelopts=")([^"]*)(".*)$')
_SERIAL = re.compile(r"^(\s*serial\b.*--unit=)[1-9]\b")
ENV_SIZE = 1024  # GRUB manual, "Environment block": a file of exactly this size, filled up with "#"
_ENV_HEAD = "# GRUB Environment Block\n"


def _argument(ctx: Context, text: str, initramfs: bool = True) -> str:
    return console_tokens(device_tokens(text, ctx.devices, initramfs))


def grub_text(ctx: Context, text: str) -> str:
    """A grub.cfg, menu.lst or grub.conf with its arguments edited."""
    lines = text.split("\n")
    for index, line in enumerate(lines):
        linux = LINUX_LINE.match(line)
        if linux and re.search(r"(?:^|\s)(?:root=|ro\b|rw\b|BOOT_IMAGE=|single\b|quiet\b)", linux.group(3)):
            initramfs = _has_initrd(lines, index)
            tail = linux.group(3)
            if "$kernelopts" in tail:
                lines[index] = linux.group(1) + linux.group(2) + device_tokens(tail, ctx.devices, initramfs)
            else:
                lines[index] = linux.group(1) + linux.group(2) + _argument(ctx, tail, initramfs)
            continue
        kopt = _KOPT.match(line)
        if kopt:
            lines[index] = kopt.group(1) + device_tokens(kopt.group(2), ctx.devices)
        options = _SET.match(line)
        if options:
            lines[index] = options.group(1) + _argument(ctx, options.group(2)) + options.group(3)
        lines[index] = _SERIAL.sub(r"\g<1>0", lines[index])
    return "\n".join(lines)


def _has_initrd(lines: list[str], index: int) -> bool:
    """The entry of the ``linux`` line at ``index`` loads an initramfs."""
    for line in lines[index + 1 :]:
        if _INITRD.match(line):
            return True
        if line.strip() == "}" or LINUX_LINE.match(line) or line.lstrip().startswith(("menuentry ", "title ")):
            return False
    return False


def env_text(ctx: Context, text: str) -> str:
    """A grubenv with ``kernelopts`` (RHEL 8) edited; its size stays. What would not fit is left as it was."""
    if len(text) != ENV_SIZE or not text.startswith(_ENV_HEAD):
        return text
    lines = text[len(_ENV_HEAD) :].rstrip("#").split("\n")
    for index, line in enumerate(lines):
        if line.startswith("kernelopts="):
            lines[index] = "kernelopts=" + _argument(ctx, line[len("kernelopts=") :])
    body = _ENV_HEAD + "\n".join(lines)
    if len(body) > ENV_SIZE:
        ctx.warn(f"grubenv: its kernel arguments would need {len(body)} bytes of {ENV_SIZE}; they were left as they are")
        return text
    return body.ljust(ENV_SIZE, "#")


def _options_text(ctx: Context, text: str, key: str) -> str:
    """Lines ``key arguments`` edited (BLS: options, extlinux: append)."""

    def edit(match: re.Match[str]) -> str:
        if "$kernelopts" in match.group(2):  # the value is in grubenv
            return match.group(1) + device_tokens(match.group(2), ctx.devices)
        return match.group(1) + _argument(ctx, match.group(2))

    return re.sub(rf"(?im)^(\s*{key}[ \t]+)(.*)$", edit, text)


def _edits(ctx: Context) -> Iterator[tuple[str, str]]:
    """(path, new text) of every file that has arguments."""
    seen: set[str] = set()

    def files(patterns: tuple[str, ...]) -> Iterator[tuple[str, str]]:
        for pattern in patterns:
            for path in ctx.guest.glob(pattern):
                if path not in seen and ctx.tree.exists(path):
                    seen.add(path)
                    yield path, ctx.guest.text(path)

    for path, text in files((*GRUB_CONFIGS, *LEGACY_CONFIGS, *_BY_HAND)):
        yield path, grub_text(ctx, text)
    for path, text in files(GRUB_ENV):
        yield path, env_text(ctx, text)
    for path, text in files(BLS_ENTRIES):
        yield path, _options_text(ctx, text, "options")
    for path, text in files(EXTLINUX_CONFIGS):
        yield path, _options_text(ctx, text, "append")
    for path, text in files(("/etc/kernel/cmdline",)):
        line, newline, rest = text.partition("\n")
        yield path, _argument(ctx, line) + newline + rest
    for path, text in files(("/etc/update-extlinux.conf",)):  # Alpine: extlinux.conf is made from it
        text = re.sub(r"(?m)^(default_kernel_opts=[\"']?)([^\"'\n]*)", lambda m: m[1] + _argument(ctx, m[2]), text)
        yield path, re.sub(r"(?m)^(root=)(\S+)$", lambda m: device_tokens(m[0], ctx.devices), text)


def needed(ctx: Context) -> str:
    return WHY


def apply(ctx: Context) -> None:
    for path, text in list(_edits(ctx)):
        ctx.guest.put(path, bytes_of(text), WHY)
