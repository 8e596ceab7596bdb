"""``livep2v convert``: the whole job."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ..errors import Cancelled, UsageError
from ..model import Options, Report
from ..plan.text import size
from .progress import printer
from .units import rate, seconds


class Format(StrEnum):
    VHD = "vhd"
    RAW = "raw"


class Subformat(StrEnum):
    DYNAMIC = "dynamic"
    FIXED = "fixed"


class Compress(StrEnum):
    AUTO = "auto"
    ZSTD = "zstd"
    ZLIB = "zlib"
    NONE = "none"


def convert(
    source: Annotated[
        str,
        typer.Argument(
            help="root@host (a user with passwordless sudo does too), ssh://root@host:2222, local, or a disk image or block "
            "device that nobody has mounted",
            metavar="SOURCE",
        ),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder in which the job folder is made.", metavar="DIR")
    ] = Path(),
    name: Annotated[
        str, typer.Option("--name", help="Name of the VM and its job folder; else the host name.", metavar="N")
    ] = "",
    format: Annotated[Format, typer.Option("--format", help="Format of the virtual disks.")] = Format.VHD,
    subformat: Annotated[
        Subformat, typer.Option("--subformat", help="VHD that grows, or one of full size.")
    ] = Subformat.DYNAMIC,
    disk: Annotated[
        list[str] | None, typer.Option("--disk", help="Convert this disk only; may be repeated.", metavar="sda")
    ] = None,
    max_freeze: Annotated[
        str, typer.Option("--max-freeze", help="Longest that file systems may be frozen.", metavar="TIME")
    ] = "1s",
    limit_rate: Annotated[
        str | None, typer.Option("--limit-rate", help="Bytes per second sent, after compression, such as 50M.", metavar="RATE")
    ] = None,
    compress: Annotated[Compress, typer.Option("--compress", help="Compression on the way.")] = Compress.AUTO,
    boot_check: Annotated[
        bool, typer.Option("--boot-check/--no-boot-check", help="Boot the VM once, in a throw-away overlay.")
    ] = True,
    ssh_option: Annotated[
        list[str] | None, typer.Option("--ssh-option", help="For ssh's -o, may be repeated: Port=2222", metavar="KEY=VALUE")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON event a line instead of text.")] = False,
) -> None:
    """Turn a running machine, or a disk image, into a virtual machine that boots."""
    if format is Format.RAW and subformat is Subformat.FIXED:
        raise UsageError(reason="--subformat fixed goes with --format vhd; a raw file is always sparse")
    options = Options(
        source=source,
        output=str(output),
        name=name,
        format=format.value,
        subformat=subformat.value,
        disks=tuple(disk or ()),
        max_freeze=seconds(max_freeze, "--max-freeze"),
        limit_rate=rate(limit_rate, "--limit-rate") if limit_rate is not None else None,
        compress=compress.value,
        boot_check=boot_check,
        ssh_options=tuple(ssh_option or ()),
    )
    from ..convert import convert as do_convert  # late: --help need not load the rest

    with printer(json) as progress:
        try:
            report = do_convert(options, progress)
        except KeyboardInterrupt as error:
            raise Cancelled(doing=progress.doing) from error
    if not json:
        console = Console(highlight=False, soft_wrap=True)
        for line in summary(report, output / report.job):
            console.print(line, markup=False)


def summary(report: Report, folder: Path) -> Iterator[str]:
    """What the user wants to know at the end, a fact a line."""
    sent = sum(disk.sent_bytes for disk in report.disks)
    used = sum(disk.used_bytes for disk in report.disks)
    yield f"{folder}: {len(report.disks)} disk{'' if len(report.disks) == 1 else 's'}, {size(used)} used, {size(sent)} sent"
    if report.freeze_ms is not None and report.instant is not None and report.instant.mountpoints:
        yield f"file systems were frozen for {report.freeze_ms:.0f} ms"
    if report.verify is not None:
        yield f"replica verified: all {report.verify.blocks} blocks equal by digest, {report.verify.zero_blocks} of them zero"
    if report.repair is not None:
        yield f"repaired: {len(report.changes)} changes, kernel {report.repair.kernel}, disks on {report.repair.disk_bus}"
    if report.boot_check is not None:
        yield f"boot check: {report.boot_check.verdict}"
    else:
        yield "boot check: left out, as asked"
    yield f"start the VM with {folder / 'start.sh'}"
