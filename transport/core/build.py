"""Build the C core as `paravirt.transport._core`, in cffi's API mode."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from cffi import FFI
from setuptools.command.build_ext import build_ext

if TYPE_CHECKING:
    from setuptools import Extension

CORE = Path(__file__).parent
FLAGS = ["-std=c11", "-O2", "-Wall", "-Wextra"]
CHECKED = ["-Werror"]  # in lint and CI only: a later compiler's new warning must not stop a user


class BuildCore(build_ext):
    """Emit cffi's C file into the build folder and compile it with the core's own sources."""

    def build_extension(self, ext: Extension) -> None:
        """Compile the extension; $CFLAGS comes last, so that it can add a sanitizer."""
        core = Path(os.path.relpath(CORE))
        headers = [*sorted(core.glob("*.h")), *sorted(core.glob("host/*.h"))]
        sources = [*sorted(core.glob("*.c")), *sorted(core.glob("host/*.c"))]
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
        emitted = Path(self.build_temp, "_core.c")
        emitted.parent.mkdir(parents=True, exist_ok=True)
        declarations = [path for path in headers if path.name.startswith("cdef")]
        includes = [path.relative_to(core) for path in headers if path not in declarations]
        ffi = FFI()
        for path in declarations:
            ffi.cdef(path.read_text())
        ffi.set_source(name, "".join(f'#include "{path}"\n' for path in includes))
        ffi.emit_c_code(str(emitted))
        return emitted
