"""Build the bare-metal payload, `payload.elf`, as a part of the package's build."""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

from setuptools import Command
from setuptools.command.build import build
from setuptools.errors import CompileError

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
CORE = ROOT / "transport" / "core"
GUEST = ROOT / "doorbells" / "guest"
ELF = "payload.elf"

# Nothing but integer registers, as no one saves the others on an interrupt, and no red zone, as an
# interrupt in ring 0 writes there.
FLAGS = shlex.split(
    "-std=c11 -O2 -g0 -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes "
    "-ffreestanding -fno-pic -fno-pie -fno-stack-protector "
    "-fno-asynchronous-unwind-tables -fcf-protection=none -mgeneral-regs-only -mno-red-zone "
    "-nostdlib -static -Wl,--build-id=none -Wl,-z,max-page-size=4096"
)
CHECKED = ["-Werror", "-Wl,--fatal-warnings"]  # in lint and CI only


class PayloadError(Exception):
    """The payload cannot be built here; the message says why."""


def command(compiler: list[str], elf: Path) -> list[str]:
    """Return the command that makes the ELF of all sources, the core's own files unchanged."""
    sources = [HERE / "start.S", *sorted(HERE.glob("*.c")), *sorted(CORE.glob("*.c"))]
    checked = CHECKED if os.environ.get("PARAVIRT_WERROR") else []
    paths = [f"-I{CORE}", f"-I{GUEST}", f"-Wl,-T,{HERE / 'link.ld'}"]
    return [*compiler, *FLAGS, *checked, *paths, *map(str, sources), "-o", str(elf)]


def make(elf: Path) -> None:
    """Compile and link the payload.

    Raises PayloadError where that cannot be, CompileError where it fails.
    """
    if platform.machine() not in {"x86_64", "AMD64"}:
        raise PayloadError(f"it is for x86-64, and this is {platform.machine()}")
    compiler = shlex.split(os.environ.get("CC", "cc"))
    if shutil.which(compiler[0]) is None:
        raise PayloadError(f"there is no C compiler {compiler[0]!r}")
    elf.parent.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(command(compiler, elf), capture_output=True, text=True, check=False)
    if done.returncode:
        raise CompileError(f"{shlex.join(done.args)}\n{done.stderr}")


class BuildPayload(Command):
    """A part of `build` (setuptools' SubCommand): the payload beside its Python."""

    description = "build the bare-metal payload"
    user_options: ClassVar = [("build-lib=", "b", "where the package is put together")]

    def initialize_options(self) -> None:
        """Start with what `build` will set."""
        self.build_lib = None
        self.editable_mode = False

    def finalize_options(self) -> None:
        """Take over the folder of the build."""
        self.set_undefined_options("build_py", ("build_lib", "build_lib"))

    def target(self) -> Path:
        """Return where the ELF belongs: an editable install finds it in the checkout."""
        if self.editable_mode:
            return HERE / ELF
        return Path(self.build_lib, "paravirt", "guestside", "payload", ELF)

    def run(self) -> None:
        """Build it, or say why there is none: the rest of the package works without."""
        try:
            make(self.target())
        except (PayloadError, CompileError) as error:
            if os.environ.get("PARAVIRT_WERROR") and isinstance(error, CompileError):
                raise
            self.target().unlink(missing_ok=True)
            self.warn(f"no bare-metal payload: {error}")

    def get_outputs(self) -> list[str]:
        """Name the file that an installation gets."""
        return [str(self.target())] if self.target().exists() else []

    def get_output_mapping(self) -> dict[str, str]:
        """Map nothing: no file of the checkout stands for it."""
        return {}

    def get_source_files(self) -> list[str]:
        """Name no file that the package data has not named already."""
        return []


class Build(build):
    """The package's build, with the payload behind all else."""

    sub_commands: ClassVar = [*build.sub_commands, ("build_payload", None)]


if __name__ == "__main__":  # `make lint`: build.py ELF, with the compiler that $CC names
    make(Path(sys.argv[1]))
