"""Trying doorbells in throw-away virtual machines of one page; imports nothing but the library.

So that a child process starts in no time: it imports this folder alone, without the packages above.
"""

from __future__ import annotations

from ._abi import (
    assign_hyperv as assign_hyperv,
    assign_ioeventfd as assign_ioeventfd,
    assign_xen as assign_xen,
    configure_xen as configure_xen,
    enable_exit_hypercall as enable_exit_hypercall,
)
from ._child import main as main
from ._device import API_VERSION as API_VERSION, why_closed as why_closed
