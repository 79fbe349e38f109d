"""Build the C of a room as an extension beside it, in cffi's API mode.

The sources of `paravirt.transport._core` are in `transport/core`, and so for the others.
"""

from __future__ import annotations

import os
import shlex
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

from cffi import FFI
from setuptools.command.build_ext import build_ext

if TYPE_CHECKING:
    from setuptools import Extension

ROOT = Path(__file__).parents[2]
"""Where the rooms are."""
FLAGS = ["-std=c11", "-O2", "-Wall", "-Wextra"]
CPU = sysconfig.get_platform().rpartition("-")[2]  # the target's, also when cross compiling
CHECKED = ["-Werror"]  # in lint and CI only: a later compiler's new warning must not stop a user


class BuildCore(build_ext):
    """Emit cffi's C file into the build folder and compile it with the extension's own sources.

    They are in `core` beside the extension: `*.c` for both sides, `host` for the host alone, and a
    folder named as the CPU, which other CPUs do without.
    """

    def build_extension(self, ext: Extension) -> None:
        """Compile the extension; $CFLAGS comes last, so that it can add a sanitizer."""
        core = Path(os.path.relpath(ROOT.joinpath(*ext.name.split(".")[1:-1], "core")))
        folders = [core, core / "host", core / CPU]
        headers = [path for folder in folders for path in sorted(folder.glob("*.h"))]
        sources = [path for folder in folders for path in sorted(folder.glob("*.[cS]"))]
        self.compiler.src_extensions = [*self.compiler.src_extensions, ".S"]
        ext.sources = [str(self.emit(ext.name, core, headers)), *map(str, sources)]
        ext.depends = [str(path) for path in headers]
        ext.include_dirs = [str(core)]
        ext.define_macros = [("Py_LIMITED_API", "0x030b0000")]
        checked = CHECKED if os.environ.get("PARAVIRT_WERROR") else []
        flags = shlex.split(os.environ.get("CFLAGS", ""))
        ext.extra_compile_args = [*FLAGS, *checked, *flags]
        ext.extra_link_args = flags
        super().build_extension(ext)

    def emit(self, name: str, core: Path, headers: list[Path]) -> Path:
        """Write the C file that cffi makes of the declarations (`cdef*.h`) and return it."""
        emitted = Path(self.build_temp, *name.split(".")[1:]).with_suffix(".c")
        emitted.parent.mkdir(parents=True, exist_ok=True)
        declarations = [path for path in headers if path.name.startswith("cdef")]
        includes = [path.relative_to(core) for path in headers if path not in declarations]
        ffi = FFI()
        for path in declarations:
            ffi.cdef(path.read_text())
        ffi.set_source(name, "".join(f'#include "{path}"\n' for path in includes))
        ffi.emit_c_code(str(emitted))
        return emitted
