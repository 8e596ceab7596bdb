"""Which kernels and which initramfs files the boot loader can start, and which it starts by default.

Read from what is there (GRUB's configuration, Boot Loader Specification entries, extlinux, GRUB legacy), not from the name of
the distribution or its package database (RHBZ2175703).
"""

from __future__ import annotations

import posixpath
import re
from typing import NamedTuple

from .guest import Tree, glob, text_of

GRUB_CONFIGS = ("/boot/grub/grub.cfg", "/boot/grub2/grub.cfg", "/boot/efi/EFI/*/grub.cfg")
LEGACY_CONFIGS = ("/boot/grub/menu.lst", "/boot/grub/grub.conf")
BLS_ENTRIES = ("/boot/loader/entries/*.conf", "/boot/efi/loader/entries/*.conf", "/efi/loader/entries/*.conf")
EXTLINUX_CONFIGS = ("/boot/extlinux.conf", "/boot/extlinux/extlinux.conf", "/boot/syslinux/syslinux.cfg")
GRUB_ENV = ("/boot/grub2/grubenv", "/boot/grub/grubenv", "/boot/efi/EFI/*/grubenv")
LINUX_LINE = re.compile(r"^(\s*(?:linux(?:16|efi)?|kernel|module2?)\s+)(\S+)(.*)$")
_INITRD_LINE = re.compile(r"^\s*(?:initrd(?:16|efi)?)\s+(.*)$", re.IGNORECASE)
_RESCUE = re.compile(r"rescue|recovery|kdump|memtest|xen.*\.gz", re.IGNORECASE)


class BootEntry(NamedTuple):
    source: str  # file of the boot loader that has it
    name: str  # title, or file name of the entry
    kernel: str  # path in the guest
    initrds: tuple[str, ...]  # paths in the guest; the last one is the main initramfs
    cmdline: str

    @property
    def release(self) -> str:
        """Kernel release as its file name says: "/boot/vmlinuz-6.1.0-13-amd64" -> "6.1.0-13-amd64"."""
        match = re.match(r"(?:vmlinuz|vmlinux|kernel|bzImage|linux)-(.+)$", posixpath.basename(self.kernel))
        return match.group(1) if match else ""


def find(tree: Tree) -> tuple[BootEntry, ...]:
    """All entries, the default one first, each once; rescue and crash kernels left out unless there is nothing else."""
    found: list[BootEntry] = []
    default = ""
    for pattern in (*GRUB_CONFIGS, *LEGACY_CONFIGS):
        for path in glob(tree, pattern):
            if tree.exists(path):
                text = text_of(tree.read(path))
                default = default or _grub_default(text, _grubenv(tree))
                found += _grub_entries(tree, path, text)
    bls = [entry for pattern in BLS_ENTRIES for path in glob(tree, pattern) if (entry := _bls(tree, path))]
    found += sorted(bls, key=lambda entry: _version(entry.release), reverse=True)
    for pattern in EXTLINUX_CONFIGS:
        for path in glob(tree, pattern):
            found += _extlinux(tree, path)
    normal = [entry for entry in found if not _RESCUE.search(entry.name + entry.kernel + entry.cmdline)] or found
    first = _pick(normal, default)
    ordered = ([first] if first else []) + [entry for entry in normal if entry is not first]
    unique: dict[tuple[str, tuple[str, ...]], BootEntry] = {}
    for entry in ordered:
        unique.setdefault((entry.kernel, entry.initrds), entry)
    return tuple(unique.values())


def _version(release: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key in which 6.10 is newer than 6.9."""
    return tuple((1, int(part), "") if part.isdigit() else (0, 0, part) for part in re.findall(r"\d+|[a-z]+", release.lower()))


def resolve(tree: Tree, path: str) -> str:
    """The guest's path of a file as a boot loader names it: relative to the file system of /boot, or to the root, or with a
    btrfs subvolume or a GRUB device in front. "" if there is no such file."""
    path = re.sub(r"^\([^)]*\)", "", path)
    bare = re.sub(r"^/@[^/]*", "", path)
    for candidate in (path, "/boot" + path, bare, "/boot" + bare, "/boot/efi" + path, "/efi" + path, "/boot/" + path):
        if candidate.startswith("/") and tree.exists(candidate):
            return posixpath.normpath(candidate)
    return ""


def _grubenv(tree: Tree) -> dict[str, str]:
    values: dict[str, str] = {}
    for pattern in GRUB_ENV:
        for path in glob(tree, pattern):
            if tree.exists(path):
                for line in text_of(tree.read(path)).splitlines():
                    key, equals, value = line.partition("=")
                    if equals and not line.startswith("#"):
                        values.setdefault(key, value)
    return values


def _grub_default(text: str, env: dict[str, str]) -> str:
    if env.get("next_entry"):
        return env["next_entry"]
    match = re.search(r'^\s*set default="([^"]*)"', text, re.MULTILINE)
    if 'default="${saved_entry}"' in text and env.get("saved_entry"):
        return env["saved_entry"]
    if match and not match.group(1).startswith("$"):
        return match.group(1)
    legacy = re.search(r"^default[= ](\d+)", text, re.MULTILINE)
    return legacy.group(1) if legacy else ""


def _pick(entries: list[BootEntry], default: str) -> BootEntry | None:
    """The entry that ``default`` (a number, a title, an id, or a path "submenu>entry") means; else the first."""
    last = default.split(">")[-1]
    for entry in entries:
        if last and (last in entry.name.split("\0") or posixpath.basename(entry.source) == last + ".conf"):
            return entry
    if default.isdigit() and int(default) < len(entries) and "\0" in entries[int(default)].name:
        return entries[int(default)]
    return entries[0] if entries else None


def _grub_entries(tree: Tree, path: str, text: str) -> list[BootEntry]:
    found: list[BootEntry] = []
    name, kernel, cmdline = "", "", ""
    initrds: tuple[str, ...] = ()

    def close() -> None:
        if kernel:
            found.append(BootEntry(path, name, kernel, initrds, cmdline))

    for line in text.splitlines():
        title = re.match(r"^\s*(?:menuentry\s+(['\"])(.*?)\1(.*)|title\s+(.*))$", line)
        if title:
            close()
            kernel, initrds, cmdline = "", (), ""
            ids = re.findall(r"menuentry_id_option\s+'([^']*)'", title.group(3) or "") + re.findall(
                r"--id[= ]'?([^'\s]+)", title.group(3) or ""
            )
            name = "\0".join([title.group(2) or title.group(4) or "", *ids])
        linux = LINUX_LINE.match(line)
        if linux and not re.match(r"^\s*module", line):
            if kernel:
                close()
            where = resolve(tree, linux.group(2))
            kernel, cmdline, initrds = where, linux.group(3).strip(), ()
        initrd = _INITRD_LINE.match(line)
        if initrd and kernel:
            initrds = tuple(item for word in initrd.group(1).split() if (item := resolve(tree, word)))
    close()
    return found


def _bls(tree: Tree, path: str) -> BootEntry | None:
    fields: dict[str, list[str]] = {}
    for line in text_of(tree.read(path)).splitlines():
        key, _, value = line.strip().partition(" ")
        fields.setdefault(key, []).append(value.strip())
    kernel = resolve(tree, fields.get("linux", [""])[0])
    if not kernel:
        return None
    words = [word for value in fields.get("initrd", []) for word in value.split()]
    initrds = tuple(item for word in words if (item := resolve(tree, word)))
    name = f"{fields.get('title', [''])[0]}\0{posixpath.basename(path).removesuffix('.conf')}"
    return BootEntry(path, name, kernel, initrds, " ".join(fields.get("options", [])))


def _extlinux(tree: Tree, path: str) -> list[BootEntry]:
    found: list[BootEntry] = []
    folder = posixpath.dirname(path)
    for block in re.split(r"(?im)^\s*label\s+", text_of(tree.read(path)))[1:]:
        fields = {
            key.lower(): value.strip()
            for key, value in re.findall(r"(?im)^\s*(linux|kernel|initrd|append)\s+(.*)$", block)
        }
        append = fields.get("append", "")
        inline = re.search(r"(?:^|\s)initrd=(\S+)", append)
        names = fields.get("initrd") or (inline.group(1) if inline else "")

        def where(name: str) -> str:
            return resolve(tree, name) or resolve(tree, posixpath.join(folder, name))

        kernel = where(fields.get("linux") or fields.get("kernel") or "")
        if kernel:
            initrds = tuple(item for word in re.split(r"[,\s]+", names) if word and (item := where(word)))
            found.append(BootEntry(path, block.splitlines()[0].strip(), kernel, initrds, append))
    return found
