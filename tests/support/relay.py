"""A damaged connection: passes on what the agent says, with one bit flipped in the payload of one data frame.

``python relay.py NUMBER FILE``: the frame with that number (from 0) is damaged, its offset and length go to FILE.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from livep2v.wire import frames


def main() -> None:
    number, told = int(sys.argv[1]), Path(sys.argv[2])
    seen = 0
    while (frame := frames.read(sys.stdin.buffer)) is not None:
        if frame.kind == frames.DATA:
            if seen == number:
                middle = len(frame.payload) * 3 // 4  # behind the digests
                changed = bytearray(frame.payload)
                changed[middle] ^= 0x10
                frame = frame._replace(payload=bytes(changed))
                told.write_text(f"{frame.offset} {frame.length}")
            seen += 1
        data = frames.pack(frame)
        while data:
            data = data[os.write(1, data) :]


if __name__ == "__main__":
    try:
        main()
    except (BrokenPipeError, KeyboardInterrupt):
        os._exit(0)
