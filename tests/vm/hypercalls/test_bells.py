"""Each hypercall as a doorbell, rung by a guest's own instruction."""

from __future__ import annotations

import os
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from paravirt.doorbells.kvm import (
    DoorbellRefused,
    GuestBell,
    HypercallExit,
    HyperV,
    PioIoeventfd,
    XenEvtchn,
)
from tests.doorbells.kvm.page_vm import PageVm

if TYPE_CHECKING:
    from collections.abc import Generator


pytestmark = pytest.mark.hypercall
IN_THE_KERNEL = (HyperV, XenEvtchn)
each = pytest.mark.parametrize("kind", [*IN_THE_KERNEL, HypercallExit], ids=lambda kind: kind.name)


@pytest.fixture
def vm() -> Generator[PageVm, None, None]:
    with PageVm() as vm:
        yield vm


def rings(bell: GuestBell) -> int:
    try:
        return os.eventfd_read(bell.fileno())
    except BlockingIOError:
        return 0


@each
def test_each_queue_has_its_own(vm: PageVm, kind: type[GuestBell]) -> None:
    with closing(kind()) as one, closing(kind()) as other:
        one.attach(vm, 0)
        vm.kick(other.attach(vm, 1))

        assert (rings(one), rings(other)) == (0, 1)


@each
def test_it_can_be_attached_again(vm: PageVm, kind: type[GuestBell]) -> None:
    with closing(kind()) as bell:
        for queue in 0, 0, 1:
            vm.kick(bell.attach(vm, queue))
            bell.detach()

            assert rings(bell) == 1


@pytest.mark.parametrize("other", IN_THE_KERNEL, ids=lambda kind: kind.name)
def test_kvms_own_is_refused_beside_the_others(vm: PageVm, other: type[GuestBell]) -> None:
    with closing(HypercallExit()) as bell, closing(other()) as taken:
        taken.attach(vm, 0)
        with pytest.raises(DoorbellRefused, match=f"{other.name} uses it"):
            bell.attach(vm, 0)
        taken.detach()
        vm.kick(bell.attach(vm, 0))
        assert rings(bell) == 1
        with pytest.raises(DoorbellRefused, match="hypercall-exit uses it"):
            taken.attach(vm, 0)


def test_a_write_is_heard_beside_a_hypercall(vm: PageVm) -> None:
    with closing(PioIoeventfd()) as port, closing(HyperV()) as hyperv:
        for bell in port, hyperv:
            vm.kick(bell.attach(vm, 0))

        assert (rings(port), rings(hyperv)) == (1, 1)
