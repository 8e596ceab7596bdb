"""SOURCE as the user writes it: a machine over ssh, this machine, or a disk image."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from ..errors import UsageError


class Target(NamedTuple):
    kind: str  # "ssh" "local" "image"
    shown: str  # as messages name it
    host: str = ""
    user: str = ""
    port: int | None = None
    path: str = ""


_HOST = re.compile(r"(?:([^@/\s]+)@)?(\[[0-9a-fA-F:%.]+\]|[A-Za-z0-9._-]+)")


def parse(text: str) -> Target:
    """Raises UsageError with the forms that are understood. A file that exists wins over a host of that name only where
    the text has a slash or is no host name; write ``./name`` for a file."""
    if text == "local":
        return Target("local", "this machine")
    if text.startswith("ssh://"):
        try:
            url = urlsplit(text)
            port = url.port
        except ValueError as error:
            raise UsageError(reason=f"{text}: {error}; write ssh://user@host:port") from error
        if not url.hostname or url.path.strip("/") or url.hostname.startswith("-"):
            raise UsageError(reason=f"{text}: write ssh://user@host:port")
        return Target("ssh", text, url.hostname, url.username or "", port)
    if "/" in text or Path(text).suffix.lower() in (".raw", ".img", ".vhd", ".vpc"):
        if not Path(text).exists():
            raise UsageError(reason=f"{text}: there is no such file or device")
        return Target("image", text, path=str(Path(text).absolute()))
    match = _HOST.fullmatch(text)
    if not match or text.startswith("-"):
        raise UsageError(reason=f"{text}: write user@host, ssh://user@host:port, local, or the path of a disk image")
    return Target("ssh", text, match.group(2).strip("[]"), match.group(1) or "")


def ssh_argv(target: Target, options: tuple[str, ...], command: str) -> list[str]:
    """The ssh command line. Each option is what ssh takes after ``-o`` ("Port=2222"), or begins with a dash ("-J jump").

    The user's own configuration, keys, agent and jump hosts apply. Compression is off: blocks are compressed already."""
    argv = ["ssh", "-T", "-o", "Compression=no", "-o", "ServerAliveInterval=10", "-o", "ServerAliveCountMax=3"]
    for option in options:
        argv += shlex.split(option) if option.startswith("-") else ["-o", option]
    if target.port:
        argv += ["-p", str(target.port)]
    if target.user:
        argv += ["-l", target.user]
    return [*argv, "--", target.host, command]
