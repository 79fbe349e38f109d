"""What can go wrong with a guest."""

from __future__ import annotations


class GuestError(Exception):
    """There is no guest: something that it needs is missing, or it ended.

    The text is one line that says what to do, or what QEMU and the guest's console said last.
    """
