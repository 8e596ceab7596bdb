"""Getting the agent onto the source: one POSIX shell line that finds a Python, and one zip archive that lives in memory.

The archive is written into a memfd of the Python process (an unlinked file in /dev/shm on kernels before 3.17), so nothing
is left behind however the process ends. The shell line says on standard error, in one word and a detail, why it cannot.
"""

from __future__ import annotations

import base64
import io
import shlex
import zipfile
from pathlib import Path

import livep2v

from ..errors import Livep2vError, NoPython, NotRoot

MARK = "livep2v-bootstrap"
NO_PYTHON, NO_ROOT = 91, 92  # exit statuses of the shell line; ssh itself uses 255
SHARED = ("__init__.py", "errors.py", "model.py", "hardware_services.py")
PACKAGES = ("formats", "wire", "source")
NEEDED = "json,mmap,ctypes,hashlib,zlib,struct,socket,threading,queue,concurrent.futures,zipimport,base64"
CANDIDATES = (
    "python3 /usr/libexec/platform-python /usr/bin/python3 /usr/local/bin/python3 python3.13 python3.12 python3.11 python3.10 "
    "python3.9 python3.8 python3.7 python3.6 /opt/python/bin/python3"
)

_LOADER = """
import ctypes, os, sys
size = int(os.read(0, 16).decode("ascii"))
libc = ctypes.CDLL(None, use_errno=True)
fd = libc.memfd_create(b"livep2v", 1) if hasattr(libc, "memfd_create") else -1
if fd < 0:
    numbers = {"x86_64": 319, "aarch64": 279, "ppc64le": 360, "s390x": 350}
    fd = libc.syscall(numbers.get(os.uname().machine, -1), b"livep2v", 1)
if fd < 0:
    name = "/dev/shm/.livep2v-%d" % os.getpid()
    fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    os.unlink(name)
while size:
    piece = os.read(0, min(size, 65536))
    if not piece:
        sys.exit(1)
    os.write(fd, piece)
    size -= len(piece)
sys.dont_write_bytecode = True
sys.path[:0] = ["/proc/self/fd/%d" % fd]
from livep2v.source.agent import main
main(sys.argv[1] or None)
"""

_PROBE = f"import sys,{NEEDED};sys.exit(sys.version_info<(3,6))"

# No single quote may stand in here: the whole goes through the login shell of the user, whatever that is, as '...'.
_SHELL = (
    f"fail() {{ echo \"{MARK}: $1: $2\" >&2; exit $3; }}; "
    "id=$(. /etc/os-release 2>/dev/null; echo \"$ID\"); "
    "become=; if [ -z \"$2\" ] && [ \"$(id -u)\" != 0 ]; then "  # an image needs only to be readable
    "command -v sudo >/dev/null 2>&1 || fail not-root \"$(id -un) sudo is not installed\" 92; "
    "sudo -n true 2>/dev/null || fail not-root \"$(id -un) sudo asks for a password\" 92; become=\"sudo -n\"; fi; "
    "old=; lacks=; "
    f"for p in {CANDIDATES}; do q=$(command -v $p 2>/dev/null) || continue; "
    f"if why=$(\"$q\" -B -c \"{_PROBE}\" 2>&1); then exec $become \"$q\" -B -c \"import sys,base64;"
    "exec(base64.b64decode(sys.argv.pop(1)))\" \"$1\" \"$2\"; fi; "
    "if [ -n \"$why\" ]; then lacks=\"$q: $(echo \"$why\" | tail -n 1)\"; else old=\"$q is $($q -V 2>&1)\"; fi; done; "
    "if [ -n \"$lacks\" ]; then fail lacks \"$id $lacks\" 91; fi; "
    "if [ -n \"$old\" ]; then fail old \"$id $old\" 91; fi; fail none \"$id\" 91"
)
assert "'" not in _SHELL


def archive() -> bytes:
    """The agent as a zip archive: every module that may run on the source, nothing else. Same bytes every time."""
    root = Path(livep2v.__file__).parent
    paths = [root / name for name in SHARED] + sorted(path for name in PACKAGES for path in (root / name).rglob("*.py"))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as bundle:
        for path in paths:
            name = zipfile.ZipInfo(f"livep2v/{path.relative_to(root)}", date_time=(1980, 1, 1, 0, 0, 0))
            name.compress_type = zipfile.ZIP_DEFLATED
            bundle.writestr(name, path.read_bytes())
    return out.getvalue()


def preamble() -> bytes:
    """What the agent's process reads before the first frame: the archive's length in 16 characters, then the archive."""
    data = archive()
    return f"{len(data):016d}".encode() + data


def command(image: str | None = None) -> list[str]:
    """The command that starts the agent: ``sh -c '...'``. ``image``: see source.local.LocalSource."""
    loader = base64.b64encode(_LOADER.encode()).decode()
    return ["sh", "-c", _SHELL, "livep2v", loader, image or ""]


def remote_command() -> str:
    """The same as one string for the remote user's login shell."""
    return " ".join(shlex.quote(word) for word in command())


def explain(target: str, status: int, stderr: str) -> Livep2vError | None:
    """The error for what the shell line said, None where it said nothing of ours."""
    line = next((text for text in stderr.splitlines() if text.startswith(MARK)), "")
    if not line:
        return None
    kind, _, detail = line.removeprefix(f"{MARK}: ").partition(":")
    first, _, rest = detail[1:].partition(" ")  # the user, or the system's ID: empty where there is no os-release
    if kind == "not-root":
        return NotRoot(target=target, user=first, reason=rest)
    if kind in ("none", "old", "lacks"):
        reasons = {"none": "there is none", "old": rest, "lacks": f"{rest}; it is a minimal one"}
        return NoPython(target=target, reason=reasons[kind], package=_package(first, rest))
    return None


def _package(os_id: str, detail: str) -> str:
    """The package that brings a whole Python 3 on this kind of system; SUSE keeps json and mmap in python3-base."""
    if os_id in ("arch", "manjaro"):
        return "python"
    if os_id.startswith(("sles", "opensuse")):
        return "python3-base" if "No module" in detail else "python3"
    return "python3"
