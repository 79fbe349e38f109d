"""A stopped machine as a document: made, checked, put back."""

from __future__ import annotations

from .._extent import Extent as Extent
from ._check import (
    check_cpu as check_cpu,
    check_snapshot as check_snapshot,
    check_state as check_state,
)
from ._document import (
    LinkRecord as LinkRecord,
    QueueRecord as QueueRecord,
    Snapshot as Snapshot,
    SnapshotError as SnapshotError,
    VcpuRecord as VcpuRecord,
)
from ._pages import (
    check_pages as check_pages,
    put_pages as put_pages,
    take_pages as take_pages,
)
from ._processor import (
    check_processor as check_processor,
    put_processor as put_processor,
    take_processor as take_processor,
)
from ._queues import record as record, resume as resume
