"""Which kernels and which initramfs files the boot loader can start, and which it starts by default.

Read from what is there (GRUB's configuration, Boot Loader Specification entries, extlinux, GRUB legacy), not from the name of
the distribution or its package database (RHBZ2175703).
"""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from typing import NamedTuple

from .guest import Tree, glob, text_of

GRUB_CONFIGS = ("/boot/grub/grub.cfg", "/boot/grub2/grub.cfg", "/boot/efi/EFI/*/grub.cfg")
LEGACY_CONFIGS = ("/boot/grub/menu.lst", "/boot/grub/grub.conf")
BLS_ENTRIES = ("/boot/loader/entries/*.conf", "/boot/efi/loader/entries/*.conf", "/efi/loader/entries/*.conf")
EXTLINUX_CONFIGS = ("/boot/extlinux.conf", "/boot/extlinux/extlinux.conf", "/boot/syslinux/syslinux.cfg")
GRUB_ENV = ("/boot/grub2/grubenv", "/boot/grub/grubenv", "/boot/efi/EFI/*/grubenv")
LINUX_LINE = re.compile(r"^(\s*(?:linux(?:16|efi)?|kernel|module2?)\s+)(\S+)(.*)$")
_INITRD_LINE = re.compile(r"^\s*(?:initrd(?:16|efi)?)\s+(.*)$", re.IGNORECASE)
_TITLE = re.compile(
    r"^\s*(?:(?P<kind>menuentry|submenu)\s+(?P<quote>['\"])(?P<title>.*?)(?P=quote)(?P<rest>.*)|title\s+(?P<legacy>.*))$"
)
_RESCUE = re.compile(r"rescue|recovery|kdump|memtest|xen.*\.gz", re.IGNORECASE)

Menu = tuple[tuple[int, str], ...]


class BootEntry(NamedTuple):
    source: str  # file of the boot loader that has it
    name: str  # title and identifiers, or file name of the entry, with NUL between them
    kernel: str  # path in the guest
    initrds: tuple[str, ...]  # paths in the guest; the last one is the main initramfs
    cmdline: str
    menu: Menu = ()  # where it is in GRUB's menu: number and name of the submenus around it, and of itself

    @property
    def release(self) -> str:
        """Kernel release as its file name says: "/boot/vmlinuz-6.1.0-13-amd64" -> "6.1.0-13-amd64"."""
        match = re.match(r"(?:vmlinuz|vmlinux|kernel|bzImage|linux)-(.+)$", posixpath.basename(self.kernel))
        return match.group(1) if match else ""


def find(tree: Tree) -> tuple[BootEntry, ...]:
    """All entries, the default one first, each once; rescue and crash kernels left out unless there is nothing else."""
    found: list[BootEntry] = []
    default = ""
    bls = [entry for pattern in BLS_ENTRIES for path in glob(tree, pattern) if (entry := _bls(tree, path))]
    bls.sort(key=lambda entry: _version(entry.release), reverse=True)
    for pattern in (*GRUB_CONFIGS, *LEGACY_CONFIGS):
        for path in glob(tree, pattern):
            if tree.exists(path):
                text = text_of(tree.read(path))
                default = default or _grub_default(text, _grubenv(tree))
                found += _grub_entries(tree, path, text, bls)
    found += bls
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
    if 'default="${saved_entry}"' in text and env.get("saved_entry"):
        return env["saved_entry"]
    # grub-mkconfig writes the one of next_entry first, and in the other branch the one of GRUB_DEFAULT (00_header).
    values = re.findall(r"""(?m)^[ \t]*set default=(?:"([^"]*)"|'([^']*)'|([^\s;"']+))""", text)
    fixed = [value for groups in values if (value := "".join(groups)) and "$" not in value]
    if fixed:
        return fixed[-1]
    legacy = re.search(r"^default[= ](\d+)", text, re.MULTILINE)
    return legacy.group(1) if legacy else ""


def _pick(entries: list[BootEntry], default: str) -> BootEntry | None:
    """The entry that ``default`` means; else the first.

    GRUB manual, "default": a number, a title or an id of the menu, and with ">" so on in the submenu. A submenu alone means its
    first entry; a ">" of a title is written twice."""
    parts = [part.replace(">>", ">") for part in re.split(r"(?<!>)>(?!>)", default)]
    for entry in entries:
        levels = [{str(number), *name.split("\0")} for number, name in entry.menu or ((-1, entry.name),)]
        if default and len(parts) <= len(levels) and all(part in names for part, names in zip(parts, levels, strict=False)):
            return entry
    return entries[0] if entries else None


def _grub_entries(tree: Tree, path: str, text: str, bls: list[BootEntry]) -> list[BootEntry]:
    """The entries of one file; ``bls``: what its command blscfg puts into the menu."""
    found: list[BootEntry] = []
    name, kernel, cmdline = "", "", ""
    initrds: tuple[str, ...] = ()
    menu: Menu = ()  # of the entry
    around: Menu = ()  # of the submenu that is open
    blocks: list[Menu] = []  # ``around`` outside of each block that is open
    count: Counter[Menu] = Counter()  # entries so far, by submenu

    def close() -> None:
        if kernel:
            found.append(BootEntry(path, name, kernel, initrds, cmdline, menu))

    for line in text.splitlines():
        title = _TITLE.match(line)
        if title or line.strip() == "blscfg":
            close()
            kernel, initrds, cmdline = "", (), ""
        if line.strip() == "blscfg":
            for entry in bls:
                found.append(entry._replace(menu=(*around, (count[around], entry.name))))
                count[around] += 1
        if title:
            ids = re.findall(r"menuentry_id_option\s+'([^']*)'", title["rest"] or "") + re.findall(
                r"--id[= ]'?([^'\s]+)", title["rest"] or ""
            )
            name = "\0".join([title["title"] or title["legacy"] or "", *ids])
            menu = (*around, (count[around], name))
            count[around] += 1
        if line.rstrip().endswith("{"):
            blocks.append(around)
            around = menu if title and title["kind"] == "submenu" else around
        elif line.strip() == "}" and blocks:
            around = blocks.pop()
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
