"""The call doorbell that interrupts a guest."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from paravirt.doorbells import EventFd

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._vm import Vm


class Irqfd(EventFd):
    """An eventfd that KVM turns into a message-signalled interrupt of the guest.

    Whoever rings it needs no vCPU to come by: the kernel delivers the interrupt, to a vCPU that
    runs as to one that sleeps.
    """

    name: ClassVar[str] = "irqfd"

    def __init__(self, *, _fd: int | None = None) -> None:
        super().__init__(_fd=_fd)
        self._vm: Vm | None = None
        self._gsi = 0
        self._before: Callable[[], None] = _nothing

    def attach(self, vm: Vm, gsi: int, before: Callable[[], None] | None = None) -> None:
        """Raise the interrupt `gsi` of a machine from now on; `before` is called before each."""
        vm.set_irqfd(self.fileno(), gsi, on=True)
        self._vm, self._gsi, self._before = vm, gsi, before or _nothing

    def detach(self) -> None:
        """Raise no interrupts any more; idempotent."""
        vm, self._vm = self._vm, None
        if vm is not None and vm.fd >= 0:
            vm.set_irqfd(self._fd, self._gsi, on=False)

    def ring(self) -> None:
        """Interrupt the guest; from any thread, never blocks."""
        self._before()
        super().ring()

    def close(self) -> None:
        """Detach and close; see `Doorbell.close`."""
        with self._lock:
            if not self._closed:
                self.detach()
            super().close()


def _nothing() -> None:
    """Prepare an interrupt that nobody listens to."""
