"""Network devices."""

from __future__ import annotations

from ._null import NullNet as NullNet
