"""The bare-metal guest: a driver without an operating system, its tasks and what it reports."""

from __future__ import annotations

from ._elf import PayloadNotBuilt as PayloadNotBuilt, path as path
from ._report import PayloadResult as PayloadResult, Report as Report, parse as parse
from ._task import (
    STAMP as STAMP,
    Operation as Operation,
    Program as Program,
    Task as Task,
    stop as stop,
)
