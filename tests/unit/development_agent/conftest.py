"""One simulated VM per test module; each test gets a sandbox in it, and must leave nothing behind."""

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.unit.development_agent.shim import Shim
from tests.unit.development_agent.vm import Vm


@pytest.fixture(scope="module")
def vm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vm]:
    machine = Vm(tmp_path_factory.mktemp("vm") / "agent.log")
    try:
        machine.start_agent()
        yield machine
        assert '"level":"error"' not in machine.log.read_text()
    finally:
        machine.close()


@pytest.fixture
async def shim(vm: Vm) -> AsyncIterator[Shim]:
    shim = await Shim.connect(vm.socket)
    await shim.create_sandbox()
    yield shim
    await shim.destroy_sandbox()
    vm.check_pristine()
    await shim.client.aclose()
    vm.check_disconnected()
