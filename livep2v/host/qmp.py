"""A small client of qemu's control socket (QMP, https://www.qemu.org/docs/master/interop/qmp-spec.html): one JSON object a
line, a greeting first, commands answered in order, events at any time in between."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from ..errors import HostError

MAX_LINE = 1 << 20  # bytes; the longest answer in use here is a few hundred
CONNECT_RETRY = 0.05  # s


class QmpError(HostError):
    """qemu refused a command, or its socket ended."""

    msg = "qemu control socket: {command}: {reason}"


class Qmp:
    """Connected and past the negotiation. Not for use by two threads at once."""

    def __init__(self, path: Path, timeout: float, alive: Callable[[], bool] = lambda: True) -> None:
        """Wait up to ``timeout`` seconds, and no longer than qemu is ``alive``, for the socket at ``path``; each command has as
        long to be answered. Raises QmpError."""
        self.events: list[dict[str, Any]] = []  # as received, oldest first; the reader of the list empties it
        self._timeout = timeout
        self._socket = _connect(path, timeout, alive)
        self._buffer = b""
        try:
            self._receive("greeting", time.monotonic() + timeout)
            self.execute("qmp_capabilities")
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Qmp:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._socket.close()

    def execute(self, command: str, **arguments: Any) -> Any:
        """The command's ``return`` value. Raises QmpError if qemu refuses it, does not answer in time or is gone."""
        message = json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n"
        try:
            self._socket.sendall(message)
        except OSError as error:
            raise QmpError(command=command, reason=str(error)) from error
        deadline = time.monotonic() + self._timeout
        while True:
            answer = self._receive(command, deadline)
            if "event" in answer:
                self.events.append(answer)
            elif "error" in answer:
                raise QmpError(command=command, reason=str(answer["error"].get("desc", answer["error"])))
            elif "return" in answer:
                return answer["return"]

    def poll(self) -> None:
        """Take up the events that have arrived, without waiting."""
        with contextlib.suppress(QmpError):
            while True:
                answer = self._receive("events", time.monotonic())
                if "event" in answer:
                    self.events.append(answer)

    def _receive(self, command: str, deadline: float) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                piece = self._socket.recv(65536)
            except OSError as error:  # TimeoutError too
                raise QmpError(command=command, reason=str(error)) from error
            if not piece or len(self._buffer) > MAX_LINE:
                raise QmpError(command=command, reason="qemu closed it" if not piece else "an endless line")
            self._buffer += piece
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            answer = json.loads(line)
        except ValueError as error:
            raise QmpError(command=command, reason=f"not JSON: {line[:80]!r}") from error
        if not isinstance(answer, dict):
            raise QmpError(command=command, reason=f"not an object: {line[:80]!r}")
        return answer


def _connect(path: Path, timeout: float, alive: Callable[[], bool]) -> socket.socket:
    deadline = time.monotonic() + timeout
    while True:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(timeout)
            connection.connect(str(path))
            return connection
        except OSError as error:
            connection.close()
            if time.monotonic() > deadline or not alive():
                raise QmpError(command="connect", reason=f"{path}: {error}") from error
            time.sleep(CONNECT_RETRY)
