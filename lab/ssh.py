"""The way into a guest: ssh to a port of the loopback interface."""

from __future__ import annotations

import socket
from pathlib import Path

from livep2v.host.run import run

from .build import Built


class SshDoor:
    """ssh into a guest made from ``built`` through ``port``; writes ``config``, with which ``ssh -F config NAME`` works too."""

    def __init__(self, built: Built, port: int, config: Path) -> None:
        self.name = built.recipe.name
        self.port = port
        self.config = config
        self.options = (
            "-p", str(port), "-i", str(built.key), "-o", "IdentitiesOnly=yes", "-o", "StrictHostKeyChecking=no",
            "-o", f"UserKnownHostsFile={config}.known_hosts", "-o", "LogLevel=ERROR",
        )  # fmt: skip
        config.write_text(
            f"Host {self.name}\n"
            "  HostName 127.0.0.1\n"
            "  User root\n"
            f"  Port {port}\n"
            f"  IdentityFile {built.key}\n"
            "  IdentitiesOnly yes\n"
            "  StrictHostKeyChecking no\n"
            f"  UserKnownHostsFile {config}.known_hosts\n"
            "  LogLevel ERROR\n"
            "  ConnectTimeout 30\n"
        )

    def run(self, command: str, *, user: str = "root", timeout: float = 300, check: bool = True) -> str:
        """Run a shell command in the guest; the answer is its stdout. Raises ToolFailed unless ``check`` is False."""
        argv = ["ssh", "-F", str(self.config), f"{user}@{self.name}", "--", command]
        return run(argv, timeout=timeout, check=check).stdout

    def opens(self) -> bool:
        """Whether root can log in. The banner first: qemu accepts at once whatever it forwards, so only the banner proves that
        sshd is there, and it costs a booting guest nothing where a login costs it a second of emulated CPU."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as probe:
                if probe.recv(4) != b"SSH-":
                    return False
        except OSError:
            return False
        return run(["ssh", "-F", str(self.config), self.name, "true"], timeout=120, check=False).status == 0


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def tail(path: Path, lines: int = 8) -> str:
    """The last lines of a log as one line, for an error message."""
    text = path.read_text(errors="replace") if path.exists() else ""
    return " / ".join(line.strip() for line in text.splitlines()[-lines:]) or "nothing"
