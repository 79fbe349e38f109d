"""Sizes as people write them."""

from __future__ import annotations

import re

import click

SECTOR = 512  # virtio 1.4, 5.2.5; not imported, so that `--help` needs no C core
SMALLEST = 1 << 20  # less than this is too small for an ext4 file system with files in it

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def read_size(context: click.Context, option: click.Parameter, text: str | None) -> int | None:
    """Return the bytes that an option gives as `64M`, `1G` or so; for click's `callback`.

    Raises `click.BadParameter` for what no image can have.
    """
    del context, option
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if match is None:
        raise click.BadParameter(f"{text!r} is no size: write 64M, or 1G")
    size = int(match[1]) * _UNITS[match[2].upper()]
    if size % SECTOR:
        whole = size - size % SECTOR + SECTOR
        raise click.BadParameter(f"{size} is no multiple of {SECTOR}: write {whole}")
    if size < SMALLEST:
        raise click.BadParameter(f"{text} is too small for a file system: write 1M or more")
    return size


def binary(size: int) -> str:
    """Write a number of bytes with the unit that leaves a short figure."""
    value = float(size)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.4g} {unit}"
        value /= 1024
    return f"{value:.4g} TiB"
