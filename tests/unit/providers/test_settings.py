"""Settings from a table and an environment: precedence, defaults, and every fault at once."""

from dataclasses import dataclass

import pytest

from providers import forms
from providers.settings import Fault, Faults, read, setting, settings_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    port: int = setting(forms.port, 15150, "where to listen", env=("OUR_PORT", "THEIR_PORT"))
    name: str = setting(forms.nonempty, help="who it is", env=("ROOM_NAME",))
    secret: str | None = setting(forms.optional(forms.integer(1, 9)), None, secret=True, env=("ROOM_SECRET",))
    safe: bool = setting(forms.boolean, True, env=("SAFE", "UNSAFE"), inverted=("UNSAFE",))
    not_a_setting: int = 7


def parsed(table: dict[str, object] | None = None, **env: str) -> tuple[Room, Faults]:
    faults: Faults = []
    return read(Room, {"name": "kitchen"} if table is None else table, where="room", env=env, faults=faults), faults


def test_what_is_not_given_has_its_default() -> None:
    room, faults = parsed()
    assert (room.port, room.name, room.secret, room.safe, room.not_a_setting) == (15150, "kitchen", None, True, 7)
    assert faults == []


def test_the_environment_wins_over_the_file_and_its_first_name_over_the_second() -> None:
    table: dict[str, object] = {"name": "kitchen", "port": 1}
    assert parsed(table)[0].port == 1
    assert parsed(table, THEIR_PORT="2")[0].port == 2
    assert parsed(table, THEIR_PORT="2", OUR_PORT="3")[0].port == 3


def test_an_empty_variable_is_no_variable() -> None:
    assert parsed({"name": "kitchen", "port": 1}, OUR_PORT="", THEIR_PORT="2")[0].port == 2
    assert parsed({"name": "kitchen", "port": 1}, OUR_PORT="", THEIR_PORT="")[0].port == 1


def test_an_inverted_name_means_the_opposite_and_only_that_name() -> None:
    assert parsed(UNSAFE="true")[0].safe is False
    assert parsed(UNSAFE="0")[0].safe is True
    assert parsed(SAFE="true", UNSAFE="true")[0].safe is True
    assert parsed({"name": "kitchen", "safe": False})[0].safe is False


def test_a_faulty_inverted_name_is_a_fault_under_that_name() -> None:
    room, faults = parsed(UNSAFE="perhaps")
    assert room.safe is True
    assert [fault.key for fault in faults] == ["UNSAFE"]


def test_every_fault_is_found_and_the_rest_is_still_read() -> None:
    room, faults = parsed({"port": "high", "colour": "red", "safe": False}, ROOM_SECRET="x")
    assert {fault.key for fault in faults} == {"room.port", "room.colour", "room.name", "ROOM_SECRET"}
    assert (room.port, room.safe) == (15150, False)


def test_a_missing_value_says_how_to_give_it() -> None:
    _, faults = parsed({})
    assert faults == [Fault("room.name", "must be given", "a text that is not empty, or ROOM_NAME in the environment")]


def test_a_fault_reads_as_a_sentence_with_key_problem_and_remedy() -> None:
    _, faults = parsed({"name": "kitchen", "port": 0})
    assert str(faults[0]) == "room.port: 0 is not a port; allowed: a port from 1 to 65535"


def test_a_faulty_secret_is_not_shown() -> None:
    _, faults = parsed(ROOM_SECRET="hunter2")
    assert "hunter2" not in str(faults[0])
    assert "(secret)" in str(faults[0])


def test_an_unknown_key_is_told_what_is_known() -> None:
    _, faults = parsed({"name": "kitchen", "prot": 1})
    assert faults == [Fault("room.prot", "unknown key", "name, port, safe, secret")]


def test_only_settings_are_listed_in_their_order() -> None:
    assert [field.name for field, _ in settings_of(Room)] == ["port", "name", "secret", "safe"]


@pytest.mark.parametrize("shared", [[], {}, set()])
def test_a_default_that_could_be_changed_by_one_user_for_all_is_refused(shared: object) -> None:
    with pytest.raises(TypeError, match="shared"):
        setting(forms.text, shared)
