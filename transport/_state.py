"""The device's side of status, features, queues and configuration, as data and rules.

No I/O, no tasks, no memory: a transport calls these methods for what the driver asks. A request
that virtio 1.4 forbids raises `NegotiationError`, naming the clause, and changes nothing.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from ._errors import NegotiationError, refuse
from ._features import (
    Dependency,
    Feature,
    describe_features,
    missing_dependencies,
    unsupported_features,
)
from ._queues import QueueState, is_queue_size

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ("DeviceState", "Status")

MAX_QUEUES = 65536
"""A queue's index has 16 bits (2.6)."""


class Status(enum.IntFlag):
    """The bits of the device status (2.1)."""

    ACKNOWLEDGE = 1
    DRIVER = 2
    DRIVER_OK = 4
    FEATURES_OK = 8
    SUSPEND = 16
    DEVICE_NEEDS_RESET = 64
    FAILED = 128


class DeviceSnapshot(msgspec.Struct, frozen=True):
    """All that a `DeviceState` remembers. One that was stored elsewhere is not to be trusted."""

    device_id: int
    queues: tuple[QueueState, ...]
    config: bytes
    generation: int = 0
    """Counts changes of the configuration space, modulo 2^32."""
    status: int = 0
    driver_features: int = 0
    features_final: bool = False
    """FEATURES_OK was asked for, whether the device agreed or not."""
    resetting: bool = False


_BEFORE = (  # 3.1.1: each step, and the one it comes after
    (Status.DRIVER, Status.ACKNOWLEDGE),
    (Status.FEATURES_OK, Status.DRIVER),
    (Status.DRIVER_OK, Status.FEATURES_OK),
)
_DEFINED = sum(Status)


class DeviceState:
    """What a device knows of its negotiation with a driver.

    Raises `ValueError` for a device that virtio does not allow: an offer without VERSION_1 (6.2),
    with an unmet dependency or a feature that this transport lacks (2.2.2), queues that are too
    many (2.6) or of a size that is no power of two up to 32768 (2.7).
    """

    def __init__(
        self,
        device_id: int,
        device_features: int,
        queue_sizes: Sequence[int],
        config: bytes,
        *,
        dependencies: Iterable[Dependency] = (),
    ) -> None:
        self.device_id = device_id
        # Plain integers: the complement of a flag may lack bits, and flags remember every value.
        self.device_features = int(device_features)
        self._dependencies = tuple(dependencies)
        self._check_device(queue_sizes)
        queues = tuple(QueueState(size) for size in queue_sizes)
        self._now = DeviceSnapshot(device_id, queues, bytes(config))

    # What both sides may look at.

    @property
    def status(self) -> Status:
        """The device status; it stays as it was until a reset is finished (2.4.1)."""
        return Status(self._now.status)

    @property
    def resetting(self) -> bool:
        """Whether a reset was begun and is not finished."""
        return self._now.resetting

    @property
    def live(self) -> bool:
        """Whether the queues may be used and the driver notified (2.1.2, 2.4.1)."""
        return Status.DRIVER_OK in self.status and not self.resetting

    @property
    def driver_features(self) -> int:
        """The features as the driver wrote them, which need not make sense."""
        return self._now.driver_features

    @property
    def features(self) -> int:
        """The features in force: the driver's once FEATURES_OK is on, none before."""
        return self.driver_features if Status.FEATURES_OK in self.status else 0

    @property
    def refusal(self) -> str | None:
        """Why FEATURES_OK stayed off when the driver asked for it (2.2.2), or None."""
        if not self._now.features_final or Status.FEATURES_OK in self.status:
            return None
        return self._objection()

    @property
    def queues(self) -> tuple[QueueState, ...]:
        """All queues as they are now."""
        return self._now.queues

    @property
    def config(self) -> bytes:
        """The configuration space."""
        return self._now.config

    @property
    def generation(self) -> int:
        """A count that differs after any change of the configuration space (2.5)."""
        return self._now.generation

    def queue(self, index: int) -> QueueState:
        """Return one queue; raises `NegotiationError` if the device has none of that index."""
        if not 0 <= index < len(self.queues):
            refuse("2.6", f"queue {index} was named, of {len(self.queues)}")
        return self.queues[index]

    def read_config(self, offset: int, length: int) -> bytes:
        """Return bytes of the configuration space, at any time (2.5.2); short at its end."""
        if offset < 0 or length < 0:
            raise ValueError(f"{length} bytes at {offset} of the configuration space")
        return self.config[offset : offset + length]

    # What the driver does.

    def set_status(self, value: int) -> None:
        """Take the status that the driver writes; 0 begins a reset.

        FEATURES_OK silently stays off if the device cannot work with the features (2.2.2), and
        SUSPEND, which is never offered, is ignored. FAILED is taken without the steps that are
        claimed along with it (3.1.1).
        """
        if value == 0:
            self.begin_reset()
            return
        old = self.status
        self._check_status(old, value)
        new = Status(value & ~old & ~Status.SUSPEND)
        if Status.FAILED in new:
            self._update(status=int(old | Status.FAILED))
            return
        self._check_steps(old, new)
        asked = Status.FEATURES_OK in new
        if asked and self._objection():
            new &= ~Status.FEATURES_OK
        final = self._now.features_final or asked
        self._update(status=int(old | new), features_final=final)

    def set_driver_features(self, features: int) -> None:
        """Take the features that the driver accepts.

        They are judged when it asks for FEATURES_OK, since a transport may hand them over in parts.
        """
        self._check_stage(Status.DRIVER, "a choice of features")
        if self._now.features_final:
            refuse("3.1.1", "features were written after FEATURES_OK")
        if not 0 <= features < 1 << 64:
            refuse("2.2.1", "features beyond bit 63 were accepted")
        self._update(driver_features=int(features))

    def set_queue(self, index: int, size: int, desc: int, driver: int, device: int) -> None:
        """Take the size and the addresses of a queue that is not enabled yet."""
        self._check_stage(Status.FEATURES_OK, f"queue {index}")
        old = self.queue(index)
        if old.enabled:
            refuse("4.2.2.2", f"queue {index} was changed while enabled: its geometry is frozen")
        if Status.DRIVER_OK in self.status:
            refuse("3.1.1", f"queue {index} was set up after DRIVER_OK")
        queue = QueueState(old.max_size, size, desc, driver, device)
        queue.check(index)
        self._set_queue(index, queue)

    def enable_queue(self, index: int) -> None:
        """Enable a queue that is set up; no effect if it is enabled already.

        A part in the bytes of another enabled queue is refused: each part has one writer (2.7).
        """
        self._check_stage(Status.FEATURES_OK, f"queue {index}")
        queue = self.queue(index)
        if queue.enabled:
            return
        if Status.DRIVER_OK in self.status:
            refuse("3.1.1", f"queue {index} was enabled after DRIVER_OK")
        if not queue.size:
            refuse("4.1.4.3.2", f"queue {index} was enabled without size and addresses")
        for other, taken in enumerate(self.queues):
            if taken.enabled and taken.overlaps(queue):
                refuse("2.7", f"queues {index} and {other} overlap")
        self._set_queue(index, replace(queue, enabled=True))

    def disable_queue(self, index: int) -> None:
        """Forget a queue that nothing touches any more, so that the driver may set it up anew."""
        self._set_queue(index, QueueState(self.queue(index).max_size))

    def check_config_write(self, offset: int, length: int) -> None:
        """Refuse a driver's write while it selects features (3.1.1), or outside of the space."""
        self._check_stage(Status.FEATURES_OK, "a configuration write")
        if offset < 0 or length < 0 or offset + length > len(self.config):
            refuse("2.5", f"{length} bytes were written at {offset} of {len(self.config)}")

    # What the device does.

    def begin_reset(self) -> None:
        """Start a reset: the driver may change nothing until `finish_reset` (2.4)."""
        if self.status:
            self._update(resetting=True)

    def finish_reset(self) -> None:
        """Forget driver and queues, after nothing can touch guest memory any more (2.4.1).

        No effect without a reset under way.
        """
        if self.resetting:
            queues = tuple(QueueState(queue.max_size) for queue in self.queues)
            self._now = DeviceSnapshot(self.device_id, queues, self.config, self.generation)

    def need_reset(self) -> bool:
        """Set DEVICE_NEEDS_RESET; return whether a change notification is owed (2.1.2)."""
        if self.resetting or Status.DEVICE_NEEDS_RESET in self.status:
            return False
        self._update(status=int(self.status | Status.DEVICE_NEEDS_RESET))
        return self.live

    def set_config(self, config: bytes) -> bool:
        """Replace the configuration space; return whether a change notification is owed (3.2.1).

        Raises `ValueError` if the length differs.
        """
        if len(config) != len(self.config):
            raise ValueError(f"{len(config)} bytes for a space of {len(self.config)}")
        self._update(config=bytes(config), generation=(self.generation + 1) % 2**32)
        return self.live

    def snapshot(self) -> DeviceSnapshot:
        """Return all that `restore` needs."""
        return self._now

    def restore(self, snapshot: DeviceSnapshot) -> None:
        """Take over the state of an equal device.

        The snapshot is not trusted: its steps are taken anew under the rules of this class, so it
        raises `NegotiationError`, and changes nothing, if no driver could have led there.
        """
        sizes = [queue.max_size for queue in self.queues]
        scratch = DeviceState(
            self.device_id,
            self.device_features,
            sizes,
            snapshot.config,
            dependencies=self._dependencies,
        )
        scratch._replay(snapshot)
        if scratch._now != snapshot or len(snapshot.config) != len(self.config):
            raise NegotiationError("the snapshot contradicts itself, or is of another device")
        self._now = snapshot

    def _replay(self, snapshot: DeviceSnapshot) -> None:
        for step in Status.ACKNOWLEDGE, Status.DRIVER:
            if snapshot.status & step:
                self.set_status(self.status | step)
        if snapshot.driver_features:
            self.set_driver_features(snapshot.driver_features)
        if snapshot.features_final:
            self.set_status(self.status | Status.FEATURES_OK)
        for index, queue in enumerate(snapshot.queues):
            if queue.size:
                self.set_queue(index, queue.size, queue.desc, queue.driver, queue.device)
            if queue.enabled:
                self.enable_queue(index)
        if snapshot.status & Status.DRIVER_OK:
            self.set_status(self.status | Status.DRIVER_OK)
        if snapshot.status & Status.DEVICE_NEEDS_RESET:
            self.need_reset()
        if snapshot.status & Status.FAILED:
            self.set_status(self.status | Status.FAILED)
        if snapshot.resetting:
            self.begin_reset()
        self._update(generation=snapshot.generation % 2**32)

    def _check_device(self, queue_sizes: Sequence[int]) -> None:
        offered = self.device_features
        if not 0 < self.device_id < 1 << 32:
            raise ValueError(f"{self.device_id} is no device type")
        if not 0 <= offered < 1 << 64:
            raise ValueError("features are bits 0 to 63")
        if not offered & Feature.VERSION_1:
            raise ValueError("a device must offer VERSION_1")
        if lacking := unsupported_features(offered):
            raise ValueError(f"not supported here: {', '.join(describe_features(lacking))}")
        if missing := self._missing(offered):
            raise ValueError(missing)
        if len(queue_sizes) > MAX_QUEUES:
            raise ValueError(f"{len(queue_sizes)} queues, the most is {MAX_QUEUES}")
        for size in queue_sizes:
            if not is_queue_size(size):
                raise ValueError(f"a queue of size {size}, which is no power of two up to 32768")

    def _objection(self) -> str | None:
        """Say why the device cannot work with the driver's features, or None."""
        features = self.driver_features
        if extra := features & ~self.device_features:
            return f"accepted but not offered: {', '.join(describe_features(extra))}"
        if not features & Feature.VERSION_1:
            return "VERSION_1 was not accepted"
        return self._missing(features)

    def _missing(self, features: int) -> str | None:
        for line in missing_dependencies(features, self._dependencies):
            needed = " or ".join(describe_features(line.any_of))
            return f"{describe_features(line.feature)[0]} needs {needed}"
        return None

    def _check_status(self, old: Status, value: int) -> None:
        if self.resetting:
            refuse("2.4.2", "the status was written before it read 0 after a reset")
        if value & ~_DEFINED:
            refuse("2.1", f"status {value:#x} has bits that do not exist")
        # The device may have set its bit since the driver read the status: not to repeat it is no
        # offence.
        if value & ~old & Status.DEVICE_NEEDS_RESET:
            refuse("2.1", "DEVICE_NEEDS_RESET was set by the driver")
        if old & ~value & ~Status.DEVICE_NEEDS_RESET:
            refuse("2.1.1", f"status bits were cleared, {int(old):#x} to {value:#x}")

    def _check_steps(self, old: Status, new: Status) -> None:
        if new and Status.FAILED in old:
            refuse("2.1.1", "the driver went on after FAILED without a reset")
        if Status.FEATURES_OK in new and self._now.features_final:
            refuse("2.2", "FEATURES_OK was asked for again without a reset")
        for step, before in _BEFORE:
            # FEATURES_OK has to be re-read, so it and DRIVER_OK cannot come in one write.
            reached = old if step is Status.DRIVER_OK else old | new
            if step in new and before not in reached:
                refuse("3.1.1", f"{step.name} was set before {before.name}")

    def _check_stage(self, stage: Status, what: str) -> None:
        if self.resetting:
            refuse("2.4.2", f"{what} came before the status read 0 after a reset")
        if Status.FAILED in self.status:
            refuse("2.1.1", f"{what} came after FAILED without a reset")
        if stage not in self.status:
            refuse("3.1.1", f"{what} came before {stage.name}")

    def _set_queue(self, index: int, queue: QueueState) -> None:
        queues = list(self.queues)
        queues[index] = queue
        self._update(queues=tuple(queues))

    def _update(self, **changes: object) -> None:
        self._now = replace(self._now, **changes)
