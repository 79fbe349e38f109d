"""The root command, and how commands end."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import click
import pytest

from paravirt import __version__
from paravirt.cli._main import COMMANDS, main
from tests.cli.commands import command, refused, without_core

if TYPE_CHECKING:
    from collections.abc import Iterator


def paths() -> Iterator[tuple[str, ...]]:
    """Give all commands, with those of groups."""
    context = click.Context(main)
    for name in COMMANDS:
        yield (name,)
        found = main.get_command(context, name)
        if isinstance(found, click.Group):
            yield from ((name, inner) for inner in found.list_commands(context))


@pytest.mark.parametrize("path", [(), *paths()], ids=" ".join)
def test_help_shows_examples(capfd: pytest.CaptureFixture[str], path: tuple[str, ...]) -> None:
    ended = command(capfd, *path, "--help")

    assert ended.code == 0
    assert f"Examples:\n    {' '.join(('paravirt', *path))}" in ended.out
    assert all(len(line) <= 80 for line in ended.out.splitlines())


@pytest.mark.parametrize("path", [(), ("bench",)], ids=["paravirt", "bench"])
def test_group_alone_shows_its_help(
    capfd: pytest.CaptureFixture[str], path: tuple[str, ...]
) -> None:
    ended = command(capfd, *path)

    assert ended.code == 0
    assert ended.out == command(capfd, *path, "--help").out


def test_version_is_the_package_s(capfd: pytest.CaptureFixture[str]) -> None:
    assert command(capfd, "--version").out == f"paravirt, version {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        (["dem"], "paravirt"),
        (["demo", "--jsn"], "paravirt demo"),
        (["demo", "--doorbell", "gong"], "paravirt demo"),
        (["demo", "a.img", "b.img"], "paravirt demo"),
        (["doctor", "now"], "paravirt doctor"),
    ],
)
def test_wrong_use_is_told_in_one_line(
    capfd: pytest.CaptureFixture[str], arguments: list[str], where: str
) -> None:
    assert refused(capfd, *arguments).endswith(f"(see `{where} --help`)")


def test_command_that_needs_the_core_says_how_to_build_it() -> None:
    ended = without_core("demo")

    assert ended.code == 2
    assert "make install" in ended.complaint


def test_closed_pipe_is_no_traceback() -> None:
    pipe = f"{sys.executable} -m paravirt doctor | true"
    done = subprocess.run(pipe, shell=True, capture_output=True, text=True, check=False)

    assert "Traceback" not in done.stderr
