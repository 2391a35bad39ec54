"""service: what is refused while a service is put together; how it answers is test_aio's."""

import pytest

from adaptor.ttrpc.aio import Server, Service
from tests.unit.ttrpc.sides import DESCRIPTOR, echo


def test_a_service_refuses_handlers_for_methods_it_does_not_have() -> None:
    with pytest.raises(ValueError, match=r"hypervisor\.Hypervisor has no method Reboot"):
        Service(DESCRIPTOR, {"Reboot": echo})


def test_a_server_refuses_the_same_service_twice() -> None:
    with pytest.raises(ValueError, match="given twice"):
        Server([Service(DESCRIPTOR, {}), Service(DESCRIPTOR, {})])
