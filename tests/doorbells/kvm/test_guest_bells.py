"""Each doorbell that a guest rings, rung by a guest's own instruction."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest
import trio

from paravirt.doorbells import SpinWindow
from paravirt.doorbells.kvm import (
    GUEST_KINDS,
    DoorbellRefused,
    GuestBell,
    HypercallExit,
    HyperV,
    MmioExit,
    MmioIoeventfd,
    PioExit,
    PioIoeventfd,
    PioWildcard,
    Vmport,
    XenEvtchn,
)
from tests.tools import need_kvm

from .page_vm import PageVm

if TYPE_CHECKING:
    from collections.abc import Callable, Generator


HYPERCALLS = (HyperV, XenEvtchn, HypercallExit)
BY_WRITE = [kind for kind in GUEST_KINDS if kind not in HYPERCALLS]
IN_THE_KERNEL = [kind for kind in BY_WRITE if kind not in (PioExit, MmioExit, Vmport)]
pytestmark = pytest.mark.kvm
each = pytest.mark.parametrize("kind", BY_WRITE, ids=lambda kind: kind.name)


@pytest.fixture
def vm() -> Generator[PageVm, None, None]:
    need_kvm()
    with PageVm() as vm:
        yield vm


def rung(bell: GuestBell) -> bool:
    return bell.wait_blocking(0)


@each
def test_each_queue_has_its_own(vm: PageVm, kind: type[GuestBell]) -> None:
    """Datamatch tells queues apart by the value, the others by the address."""
    bells = [kind() for _ in range(3)]
    kicks = [bell.attach(vm, queue) for queue, bell in enumerate(bells)]

    for kick, expected in zip(kicks, bells, strict=True):
        vm.kick(kick)
        assert [bell for bell in bells if rung(bell)] == [expected]
    for bell in bells:
        bell.close()


@each
def test_only_baselines_leave_the_kernel(vm: PageVm, kind: type[GuestBell]) -> None:
    with closing(kind()) as bell:
        kick = bell.attach(vm, 0)
        for _ in range(5):
            vm.kick(kick)

        assert vm.exits == (0 if kind in IN_THE_KERNEL else 5)


@each
@pytest.mark.parametrize("end", [GuestBell.detach, GuestBell.close])
def test_after_its_end_no_kick_is_heard(
    vm: PageVm, kind: type[GuestBell], end: Callable[[GuestBell], None]
) -> None:
    with closing(kind()) as bell, closing(kind()) as next_one:
        kick = bell.attach(vm, 0)
        end(bell)
        end(bell)
        vm.kick(kick)

        assert vm.exits == 1
        assert end is GuestBell.close or not rung(bell)
        assert next_one.attach(vm, 0) == kick


@each
def test_it_can_be_attached_again(vm: PageVm, kind: type[GuestBell]) -> None:
    with closing(kind()) as bell:
        bell.attach(vm, 0)
        with pytest.raises(RuntimeError, match="attached already"):
            bell.attach(vm, 1)
        bell.detach()
        vm.kick(bell.attach(vm, 1))

        assert rung(bell)


@each
def test_a_closed_one_is_not_attached(vm: PageVm, kind: type[GuestBell]) -> None:
    bell = kind()
    bell.close()

    with pytest.raises(trio.ClosedResourceError):
        bell.attach(vm, 0)


def test_two_kinds_listen_to_one_queue_at_once(vm: PageVm) -> None:
    """A live swap needs both while the guest moves over."""
    with closing(PioIoeventfd()) as old, closing(MmioIoeventfd()) as new:
        kicks = old.attach(vm, 0), new.attach(vm, 0)
        for kick in kicks:
            vm.kick(kick)

        assert rung(old)
        assert rung(new)


def test_what_the_kernel_refuses_is_said_by_name(vm: PageVm) -> None:
    with closing(PioWildcard()) as first, closing(PioWildcard()) as second:
        first.attach(vm, 0)
        with pytest.raises(DoorbellRefused, match=r"pio-ioeventfd-wildcard: .*File exists"):
            second.attach(vm, 0)

        second.attach(vm, 1)  # it is as good as new


@each
def test_without_port_io_only_stores_are_left(
    vm: PageVm, kind: type[GuestBell], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vm, "architecture", "aarch64")
    with closing(kind()) as bell:
        if kind.name.startswith("mmio"):
            bell.attach(vm, 0)
            return
        with pytest.raises(DoorbellRefused, match=f"{kind.name}: aarch64 has no port I/O"):
            bell.attach(vm, 0)


@pytest.mark.parametrize("kind", HYPERCALLS, ids=lambda kind: kind.name)
def test_a_hypercall_is_refused_in_ring_3(
    vm: PageVm, kind: type[GuestBell], monkeypatch: pytest.MonkeyPatch
) -> None:
    """KVM answers -KVM_EPERM there, or the guest faults."""
    monkeypatch.setattr(vm, "ring", 3)

    with closing(kind()) as bell, pytest.raises(DoorbellRefused, match="needs ring 0"):
        bell.attach(vm, 0)


@pytest.mark.parametrize("kind", HYPERCALLS, ids=lambda kind: kind.name)
def test_a_hypercall_that_this_host_lacks_is_refused_with_its_reason(
    vm: PageVm, kind: type[GuestBell], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paravirt.doorbells.kvm._hypercall.refusal", "not {}: it hangs".format)

    with closing(kind()) as bell, pytest.raises(DoorbellRefused) as refused:
        bell.attach(vm, 0)

    assert str(refused.value) == f"{kind.name}: not {kind.name}: it hangs"


def test_it_looks_before_it_sleeps_where_it_is_told_to() -> None:
    window = SpinWindow(1000, fixed=True)

    with closing(PioIoeventfd(window=window)) as bell:
        assert bell.window is window
    with closing(PioIoeventfd()) as bell:
        assert bell.window is None
