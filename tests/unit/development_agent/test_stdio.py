"""Standard streams, terminals and exec of real containers, over the wire."""

import asyncio
import signal
from pathlib import Path

import pytest

from adaptor.errors import Code, StatusError
from adaptor.protos import agent_pb2
from tests.unit.development_agent.shim import Shim, process
from tests.unit.development_agent.vm import Vm

pytestmark = pytest.mark.netns

MIB = 1 << 20
KIB = 1 << 10


async def test_output_and_errors_are_streams_of_their_own_and_end(shim: Shim) -> None:
    await shim.run("c", "sh", "-c", "echo out; echo err >&2")
    assert [*await asyncio.gather(shim.read("c"), shim.read("c", stream="ReadStderr"))] == [b"out\n", b"err\n"]
    assert await shim.read_some("c") == b""  # the end is told again


async def test_output_written_before_anybody_asks_is_not_lost(shim: Shim) -> None:
    await shim.run("c", "sh", "-c", "echo early")
    assert await shim.wait("c") == 0
    assert await shim.read("c") == b"early\n"


async def test_an_answer_has_at_most_the_bytes_asked_for(shim: Shim) -> None:
    await shim.run("c", "echo", "hello")
    assert [await shim.read_some("c", length=4) for _ in range(3)] == [b"hell", b"o\n", b""]


async def test_a_hundred_megabytes_arrive_whole(shim: Shim) -> None:
    await shim.run("c", "head", "-c", str(100 * MIB), "/dev/zero")
    total = 0
    while piece := await shim.read_some("c"):
        assert len(piece) <= 32 * KIB
        total += len(piece)
    assert (total, await shim.wait("c")) == (100 * MIB, 0)


async def test_output_that_nobody_reads_stalls_the_container_not_the_agent(shim: Shim, vm: Vm) -> None:
    before = vm.resident()
    await shim.run("c", "sh", "-c", "yes & yes >&2 & sleep 600")
    await shim.exec("c", "e", "cat", "/dev/zero")
    await shim.executed("c", "sleep", "0.2", name="f")  # gigabytes, had somebody read them
    assert vm.resident() - before < 2 * KIB
    assert (await shim.read_some("c")).startswith(b"y\ny\n")


async def test_stdin_reaches_the_container_until_it_is_closed(shim: Shim) -> None:
    await shim.run("c", "cat")
    assert await shim.write("c", b"hello\n") == 6
    assert await shim.read_some("c") == b"hello\n"
    await shim.close_stdin("c")
    await shim.close_stdin("c")
    assert (await shim.read("c"), await shim.wait("c")) == (b"", 0)


async def test_stdin_larger_than_a_pipe_waits_for_its_reader(shim: Shim) -> None:
    await shim.run("c", "sh", "-c", "read go; wc -c")
    writing = asyncio.create_task(shim.write("c", b"go\n" + bytes(MIB)))
    assert await writing == MIB + 3
    await shim.close_stdin("c")
    assert (await shim.read("c")).strip() == str(MIB).encode()


async def test_writing_to_a_process_that_has_ended_says_so(shim: Shim) -> None:
    await shim.run("c", "true")
    await shim.wait("c")
    with pytest.raises(StatusError, match="stdin is closed") as refused:
        await shim.write("c", b"x")
    assert refused.value.code == Code.INTERNAL


async def test_an_end_does_not_wait_for_a_grandchild_that_holds_the_output(shim: Shim) -> None:
    await shim.run("c", "sleep", "600")
    await shim.exec("c", "e", "sh", "-c", "echo first; sleep 600 & exit 7")
    loop = asyncio.get_running_loop()
    begun = loop.time()
    assert await shim.read("c", "e") == b"first\n"
    assert loop.time() - begun < 5
    assert await shim.wait("c", "e") == 7


async def test_a_grandchild_that_never_stops_writing_does_not_prolong_the_output_for_ever(shim: Shim) -> None:
    await shim.run("c", "sleep", "600")
    await shim.exec("c", "e", "sh", "-c", "cat /dev/zero & exit 7")
    assert await shim.wait("c", "e") == 7
    assert len(await shim.read("c", "e")) > 0


async def test_a_missing_command_fails_the_exec_in_the_runtimes_words(shim: Shim) -> None:
    await shim.run("c", "sleep", "600")
    with pytest.raises(StatusError, match=r"crun exec: executable file `nothing` not found") as refused:
        await shim.exec("c", "e", "nothing")
    assert refused.value.code == Code.INTERNAL
    with pytest.raises(StatusError) as unknown:
        await shim.wait("c", "e")
    assert unknown.value.code == Code.NOT_FOUND


async def test_an_exec_in_a_container_that_has_ended_is_refused(shim: Shim) -> None:
    await shim.run("c", "true")
    await shim.wait("c")
    with pytest.raises(StatusError, match="not running"):
        await shim.exec("c", "e", "true")


async def test_execs_beside_each_other_do_not_mix(shim: Shim) -> None:
    await shim.run("c", "sleep", "600")
    results = await asyncio.gather(
        *(shim.executed("c", "sh", "-c", f"echo {n}; exit {n}", name=f"e{n}") for n in range(12))
    )
    assert results == [(f"{n}\n", n) for n in range(12)]


async def test_an_exec_name_is_given_once(shim: Shim) -> None:
    await shim.run("c", "sleep", "600")
    results = await asyncio.gather(*(shim.exec("c", "e", "sleep", "600") for _ in range(3)), return_exceptions=True)
    assert sorted(isinstance(result, StatusError) for result in results) == [False, True, True]


async def test_old_execs_are_forgotten_and_recent_ones_kept(shim: Shim, vm: Vm) -> None:
    await shim.run("c", "sleep", "600")
    before = len(vm.traces().descriptors)
    for number in range(70):
        await shim.exec("c", f"e{number}", "true")
        assert await shim.wait("c", f"e{number}") == 0
    assert await shim.wait("c", "e69") == 0
    with pytest.raises(StatusError) as forgotten:
        await shim.wait("c", "e0")
    assert forgotten.value.code == Code.NOT_FOUND
    assert len(vm.traces().descriptors) - before < 3 * 70


async def test_an_exec_is_in_its_container(shim: Shim) -> None:
    await shim.run("c", "sleep", "600")
    output, _ = await shim.executed("c", "sh", "-c", "cat /proc/1/comm; hostname; ulimit -n; id -u")
    assert output.split()[:2] == ["sleep", "gp"]
    assert output.split()[3] == "0"


async def test_an_exec_has_the_user_directory_and_environment_it_asks_for(shim: Shim) -> None:
    await shim.run("c", "sleep", "600")
    run = process("sh", "-c", 'echo "$(id -u):$(id -g):$(id -G) $PWD $COLOUR"', uid=1000, groups=[7])
    run.cwd = "/usr"
    run.env.append("COLOUR=green")
    await shim.do("ExecProcess", agent_pb2.ExecProcessRequest(container_id="c", exec_id="e", process=run))
    # In a user namespace with a single id (tests run by an ordinary user) everybody is root.
    mapped = Path("/proc/self/uid_map").read_text().split()
    single = mapped[2:] == ["1"]
    who = b"0:0:0" if single else b"1000:1000:1000 7"
    assert await shim.read("c", "e") == who + b" /usr green\n"


async def test_a_terminal_is_typed_into_resized_and_read(shim: Shim) -> None:
    await shim.run("c", "sleep", "600")
    await shim.exec("c", "e", "sh", "-c", "stty -echo; echo ready; while read line; do $line; done", terminal=True)
    await shim.read_until(b"ready\r\n", "c", "e")
    await shim.resize(24, 80, "c", "e")
    await shim.write("c", b"stty size\n", "e")
    await shim.read_until(b"24 80\r\n", "c", "e")
    await shim.resize(50, 132, "c", "e")
    await shim.write("c", b"stty size\n", "e")
    await shim.read_until(b"50 132\r\n", "c", "e")
    assert await shim.read("c", "e", stream="ReadStderr") == b""
    await shim.write("c", b"exit 7\n", "e")
    assert (await shim.read("c", "e"), await shim.wait("c", "e")) == (b"", 7)


async def test_a_resize_reaches_the_program_as_a_signal(shim: Shim) -> None:
    await shim.run("c", "sleep", "600")
    script = "trap 'stty size; exit 0' WINCH; echo ready; while :; do sleep 0.01; done"
    await shim.exec("c", "e", "sh", "-c", script, terminal=True)
    await shim.read_until(b"ready\r\n", "c", "e")
    await shim.resize(33, 44, "c", "e")
    await shim.read_until(b"33 44\r\n", "c", "e")


async def test_a_container_may_have_a_terminal_itself(shim: Shim) -> None:
    await shim.run("c", "sh", "-c", "test -t 0 && test -t 1 && test -t 2 && tty; read line; exit 6", terminal=True)
    await shim.read_until(b"/dev/pts/0\r\n", "c")
    await shim.write("c", b"\n")
    await shim.read("c")
    assert await shim.wait("c") == 6


async def test_a_control_character_interrupts_what_runs_on_the_terminal(shim: Shim) -> None:
    await shim.run("c", "sleep", "600")
    await shim.exec("c", "e", "sh", "-c", "echo ready; exec sleep 600", terminal=True)
    await shim.read_until(b"ready\r\n", "c", "e")
    await shim.write("c", b"\x03", "e")
    assert await shim.wait("c", "e") == 128 + signal.SIGINT


async def test_much_output_of_a_terminal_arrives_whole(shim: Shim) -> None:
    await shim.run("c", "sleep", "600")
    await shim.exec("c", "e", "seq", "20000", terminal=True)
    assert (await shim.read("c", "e")).split() == [str(n).encode() for n in range(1, 20001)]


async def test_only_a_terminal_can_be_resized(shim: Shim) -> None:
    await shim.run("c", "cat")
    with pytest.raises(StatusError, match="no terminal") as refused:
        await shim.resize(24, 80, "c")
    assert refused.value.code == Code.INTERNAL


async def test_closing_the_stdin_of_a_terminal_leaves_it_open(shim: Shim) -> None:
    await shim.run("c", "sh", "-c", "stty -echo; echo ready; read line; echo got $line", terminal=True)
    await shim.read_until(b"ready\r\n", "c")
    await shim.close_stdin("c")
    await shim.write("c", b"it\n")
    await shim.read_until(b"got it\r\n", "c")


async def test_a_reader_that_goes_away_takes_no_output_with_it(shim: Shim, vm: Vm) -> None:
    await shim.run("c", "cat")
    gone = await Shim.connect(vm.socket)
    reading = asyncio.create_task(gone.read_some("c"))
    await gone.call("Check", agent_pb2.CheckRequest(), agent_pb2.HealthCheckResponse)
    await gone.client.aclose()
    with pytest.raises(StatusError):
        await reading
    await shim.write("c", b"still here\n")
    assert await shim.read_some("c") == b"still here\n"
