"""The command line: `paravirt demo`, `doctor` and `bench`."""

from __future__ import annotations

from ._main import run as run
