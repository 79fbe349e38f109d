"""The guest's instructions: measured when they are loaded, and compared after each run."""

from __future__ import annotations

from ._report import (
    ChangedPage as ChangedPage,
    TextChanged as TextChanged,
    TextReport as TextReport,
)
from ._slots import Slot as Slot, divide as divide
from ._text import Text as Text, measure as measure
