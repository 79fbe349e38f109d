"""Protocol features that are offered on demand, as words of the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from paravirt.hostside.vhost_user import Terms
from paravirt.transport.vhost_user import Dialect, ProtocolFeature

from .._errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Iterable

NUMBERED = msgspec.structs.fields(Dialect)
"""The features whose bits peers disagree about."""


def parse_terms(words: Iterable[str]) -> Terms:
    """Return what `FEATURE` and `FEATURE=BIT` stand for. Raises `BadInput`."""
    also = ProtocolFeature(0)
    bits: dict[str, int] = {}
    numbered = {field.name for field in NUMBERED}
    for word in words:
        plain, given, bit = word.partition("=")
        name = plain.replace("-", "_")
        try:
            feature = ProtocolFeature[name.upper()]
        except KeyError:
            raise BadInput(f"--also {word}: no such protocol feature") from None
        if (name in numbered) != bool(given):
            how = f"{plain}=BIT, since peers number it differently" if not given else plain
            raise BadInput(f"--also {word}: give {how}")
        also |= feature
        if given:
            bits[name] = _number(word, bit)
    try:
        return Terms(also=also, dialect=msgspec.convert(bits, Dialect))
    except (ValueError, msgspec.ValidationError) as error:
        raise BadInput(f"--also: {error}") from None


def _number(word: str, bit: str) -> int:
    try:
        return int(bit)
    except ValueError:
        raise BadInput(f"--also {word}: {bit!r} is no number of a bit") from None
