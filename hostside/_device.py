"""What a user writes: a device."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Protocol

import trio

from paravirt.transport import ConfigSpace, NegotiationError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from paravirt.transport import DeviceRing
    from paravirt.transport.link import DeviceLink

    from ._metrics import ServerStatistics
    from ._queue import DeviceQueue
    from ._request import Request

__all__ = ("Device",)


_HANDLERS = ("handle", "handle_batch")


class Owner(Protocol):
    """What a device asks of the server that serves it."""

    def serves(self, link: DeviceLink) -> bool: ...

    def queue(self, index: int) -> DeviceQueue: ...

    @property
    def features(self) -> int: ...

    def set_config(self, config: ConfigSpace) -> None: ...

    def statistics(self) -> ServerStatistics: ...


class Device:
    """A paravirtual device: overrides `handle` or `handle_batch`.

    The same device is served in a test (`paravirt.transport.loopback`), on KVM and under a VMM.

        class Upper(Device):
            device_id = 42
            queue_sizes = (128,)

            def handle(self, request: Request) -> None:
                request.reply(request.read().upper())

    Raises `TypeError` when a class is made that overrides both handlers, or neither although it has
    no `taken_queues`; a base class of devices passes `abstract=True`.
    """

    device_id: int = 0
    """The device type (virtio 1.4, 5)."""
    queue_sizes: Sequence[int] = (256,)
    """The largest size of each virtqueue, powers of two up to 32768 (2.7)."""
    features: int = 0
    """Feature bits of the device type (bits 0-23 and 50-127); the link adds those of the ring."""
    taken_queues: Sequence[int] = ()
    """Queues whose requests are not handled but taken, by `await self.queue(i).take()`: receive and
    event queues."""
    concurrency: int | None = None
    """How many handlers of one queue may be suspended at once; None for as many as the queue has
    descriptors."""

    header_size: int = 0
    """Bytes, 64 at most, that requests begin with: they are copied as a batch is taken, and a first
    `read` of just so many costs next to nothing."""

    handles_batches: ClassVar[bool] = False
    """Whether `handle_batch` is the one that was overridden."""

    _config: ConfigSpace = ConfigSpace()
    server: Owner | None = None
    """Who serves the device now."""

    def __init_subclass__(cls, *, abstract: bool = False) -> None:
        super().__init_subclass__()
        kinds = [kind for kind in _HANDLERS if getattr(cls, kind) is not getattr(Device, kind)]
        if len(kinds) > 1:
            raise TypeError(f"{cls.__name__} overrides both handle and handle_batch: choose one")
        if not (kinds or abstract or cls.taken_queues):
            raise TypeError(f"{cls.__name__} overrides neither handle nor handle_batch")
        cls.handles_batches = kinds == ["handle_batch"]
        for handler in (getattr(cls, kind) for kind in kinds):
            if hasattr(handler, "__code__"):  # the server's loop is protected from Ctrl-C, this not
                trio.lowlevel.disable_ki_protection(handler)

    def handle(self, request: Request) -> Awaitable[None] | None:
        """Serve one request, as `def` or `async def`.

        A plain function runs in line and must not block; it may return an awaitable, which is then
        awaited among the other suspended handlers. A handler that returns without a reply completes
        the request with what it wrote. Handlers that are suspended do not hold up the queue until
        there are `concurrency` of them. A reset cancels them; after that the request is void.

        Raise `RequestError` for the guest; any other `Exception` is told to the guest too, and
        escapes `serve`.
        """
        raise NotImplementedError

    def ahead(self) -> Callable[[DeviceRing, int], bool] | None:
        """Return what is to try each batch of a queue before the handler gets it, or None.

        For a loop in C that serves plain requests with no object made of each: it is given the
        queue's ring, with chains just taken, and nanoseconds for which it may look for more. It
        ends them from the first on, gives them back, may take more, and returns after some 50 us:
        whether it wants to be called again at once. What it leaves in hand is handled. It raises
        only what the ring raises. Asked for as a queue starts; `paravirt.transport.disk` is one.
        """
        return None

    def handle_batch(self, requests: Sequence[Request]) -> Awaitable[None] | None:
        """Serve all requests that were there at once, as `def` or `async def`.

        One batch of a queue is served at a time.
        """
        raise NotImplementedError

    async def run(self, nursery: trio.Nursery) -> None:
        """Do what the device does of its own accord.

        Starts at DRIVER_OK; a reset cancels it, and all that is in `nursery`.
        """

    def fail(self, request: Request, error: BaseException) -> bool:
        """Write the type's status for `error` into the reply; False if the type has none.

        `error` is the handler's `RequestError`, or a bug. On False the device is marked
        DEVICE_NEEDS_RESET (2.1.2).
        """
        del request, error
        return False

    def config_written(self, offset: int, data: bytes) -> None:
        """Take a driver's write to the configuration space, or raise `NegotiationError`.

        The default refuses all.
        """
        raise NegotiationError(
            f"{type(self).__name__} has no writable configuration at {offset}, {len(data)} bytes"
        )

    def save_state(self) -> bytes:
        """Return what another device like this needs to go on where this one stopped.

        Called while no queue runs, or while the guest stands still with requests in hand, before it
        goes on elsewhere. The default has nothing to tell; one that has should begin with a version
        of its own.
        """
        return b""

    def load_state(self, state: bytes) -> None:
        """Take over what `save_state` of another device returned, or raise `NegotiationError`.

        Called while no queue runs; a state that is refused must leave this device as it was. The
        default takes nothing.
        """
        if state:
            raise NegotiationError(f"{type(self).__name__} takes no state, {len(state)} bytes came")

    @property
    def config(self) -> ConfigSpace:
        """The configuration space; assigning a new one tells the driver (2.5).

        Raises `ValueError`, changing nothing, for one that is not as long as the old one.
        """
        return self._config

    @config.setter
    def config(self, config: ConfigSpace) -> None:
        if self.server is not None:
            self.server.set_config(config)
        self._config = config

    @property
    def driver_features(self) -> int:
        """The features that the driver accepted, 0 before it started a queue.

        Raises `RuntimeError` if the device is not served.
        """
        return self._owner().features

    def queue(self, index: int) -> DeviceQueue:
        """Return a queue that the driver started.

        Raises `RuntimeError` if the device is not served, or the queue is not started.
        """
        return self._owner().queue(index)

    def statistics(self) -> ServerStatistics:
        """Return what happened since the driver started. Raises `RuntimeError` if not served."""
        return self._owner().statistics()

    def _owner(self) -> Owner:
        if self.server is None:
            raise RuntimeError(f"{type(self).__name__} is not being served")
        return self.server
