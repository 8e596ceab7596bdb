"""Machines recorded as one text file each, unpacked to a folder that inspection takes as its root.

::

    === /path/of/a/file          the lines up to the next "===" are its content
    === /path -> target          a symbolic link
    === /path/                   an empty folder
    === /path hex                a file whose bytes are given in hexadecimal
"""

from __future__ import annotations

from pathlib import Path

MACHINES = Path(__file__).parent.parent / "golden" / "machines"


def unpack(name: str, folder: Path) -> Path:
    """The recorded machine ``name`` under ``folder``; disks are not part of the recording."""
    target: Path | None = None
    hexadecimal = False
    content: list[str] = []

    def close() -> None:
        if target is not None:
            text = "\n".join(content) + "\n" if content else ""
            target.write_bytes(bytes.fromhex(text) if hexadecimal else text.encode())

    for line in (MACHINES / f"{name}.machine").read_text().splitlines():
        if not line.startswith("=== "):
            content.append(line)
            continue
        close()
        target, content, hexadecimal = None, [], line.endswith(" hex")
        path, arrow, link = line[4:].removesuffix(" hex").partition(" -> ")
        place = folder / path.strip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        if arrow:
            place.symlink_to(link)
        elif path.endswith("/"):
            place.mkdir(exist_ok=True)
        else:
            target = place
    close()
    return folder
