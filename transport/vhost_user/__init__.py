"""vhost-user, what both ends share: the messages as a table, and the channel they go over.

The payloads have a module of their own: `from paravirt.transport.vhost_user import payloads`.
"""

from __future__ import annotations

from ._channel import Channel as Channel, Incoming as Incoming
from ._descriptors import Descriptors as Descriptors
from ._features import (
    PROTOCOL_FEATURES as PROTOCOL_FEATURES,
    VHOST_F_LOG_ALL as VHOST_F_LOG_ALL,
    Dialect as Dialect,
    ProtocolFeature as ProtocolFeature,
)
from ._messages import (
    HEADER_SIZE as HEADER_SIZE,
    Flags as Flags,
    Header as Header,
    Message as Message,
    Reply as Reply,
    When as When,
)
from ._requests import BackendRequest as BackendRequest, Request as Request
from ._state_pipe import StatePipe as StatePipe
from ._table import (
    BACKEND_REQUESTS as BACKEND_REQUESTS,
    REQUESTS as REQUESTS,
    document as document,
)
