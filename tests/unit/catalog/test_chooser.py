"""The admin's prices and constraints, as they meet the cloud's offerings."""

from pathlib import Path

import pytest

from adaptor.catalog.chooser import Chooser, constraints, priced
from adaptor.catalog.select import Constraints, Requirements, Spot
from adaptor.config import Selection
from adaptor.config_prices import Prices, read
from providers.base import Offering, Purchase, Tee
from providers.settings import Fault

TEXT = """
[on-demand]
"*" = 9.0
"m6a.*" = 0.5
"m6a.l*" = 0.4
"m6a.large" = 0.3
[on-demand.zones.us-east-1b]
"m6a.*" = 0.2
[spot]
"M6A.LARGE" = 0.1
n2d-standard-2 = 1
"""


def prices(tmp_path: Path, text: str, faults: list[Fault] | None = None) -> Prices:
    path = tmp_path / "prices.toml"
    path.write_text(text)
    found: list[Fault] = [] if faults is None else faults
    read_ = read(str(path), "selection.prices", found)
    assert faults is not None or not found
    return read_


@pytest.mark.parametrize(
    ("kind", "zone", "purchase", "usd"),
    [
        ("m6a.large", "us-east-1a", "on-demand", 0.3),
        ("m6a.large", "us-east-1b", "on-demand", 0.2),
        ("m6a.long", "us-east-1a", "on-demand", 0.4),
        ("m6a.xlarge", "", "on-demand", 0.5),
        ("c6a.large", "us-east-1a", "on-demand", 9.0),
        ("m6a.large", "us-east-1b", "spot", 0.1),
        ("n2d-standard-2", "", "spot", 1.0),
        ("c6a.large", "us-east-1a", "spot", 0.77),
    ],
)
def test_the_most_particular_entry_counts_and_before_the_clouds_own(
    tmp_path: Path, kind: str, zone: str, purchase: str, usd: float
) -> None:
    offering = Offering(kind, 2, 4096, zone=zone, purchase=Purchase(purchase), price=0.77)
    assert priced((offering,), prices(tmp_path, TEXT))[0].price == usd


def test_the_file_decides_which_machine_is_cheapest(tmp_path: Path) -> None:
    offerings = (Offering("m6a.large", 2, 8192, price=0.1), Offering("c6a.large", 2, 8192, price=0.2))
    chooser = Chooser(prices=prices(tmp_path, '[on-demand]\n"m6a.large" = 0.5\n'))
    first = chooser.choose(offerings, Requirements(vcpus=2), 0.0).ranked[0]
    assert first.instance_type == "c6a.large"


def test_new_offerings_are_noticed() -> None:
    chooser = Chooser()
    one, other = Offering("a", 2, 8192), Offering("b", 2, 8192)
    assert chooser.choose([one], Requirements(), 0.0).ranked == (one,)
    assert chooser.choose((other,), Requirements(), 0.0).ranked == (other,)
    assert chooser.catalog([other]) is chooser.catalog((other,))


def test_every_fault_of_the_file_is_listed_with_what_is_right(tmp_path: Path) -> None:
    faults: list[Fault] = []
    text = """
    currency = "EUR"
    [reserved]
    "m6a.large" = 1
    [on-demand]
    "c6a.large" = "cheap"
    "c7a.large" = -1
    "r6a.large" = nan
    "t3.large" = true
    m6a.large = 0.3
    [on-demand.zones.us-east-1a]
    "m7a.large" = inf
    [spot]
    "ok.large" = 0.1
    zones = 3
    """
    found = prices(tmp_path, text, faults)
    where = f"selection.prices ({tmp_path / 'prices.toml'})"
    assert {fault.key.removeprefix(f"{where}: ") for fault in faults} == {
        "currency",
        "reserved",
        'on-demand."c6a.large"',
        'on-demand."c7a.large"',
        'on-demand."r6a.large"',
        'on-demand."t3.large"',
        'on-demand."m6a"',
        'on-demand.zones.us-east-1a."m7a.large"',
        "spot.zones",
    }
    quotes = next(str(fault) for fault in faults if fault.key.endswith('"m6a"'))
    assert 'a type\'s name with a dot needs quotes; allowed: "m6a.large" = 0.0864' in quotes
    assert [entry.pattern for entry in found.entries] == ["ok.large"]


@pytest.mark.parametrize(("text", "problem"), [(None, "cannot be read"), ("[", "is not TOML"), ("\xff", "is not TOML")])
def test_a_file_that_cannot_be_read_is_one_fault(tmp_path: Path, text: str | None, problem: str) -> None:
    path = tmp_path / "prices.toml"
    if text is not None:
        path.write_bytes(text.encode("latin-1"))
    faults: list[Fault] = []
    assert read(str(path), "selection.prices", faults) == Prices()
    assert problem in faults[0].problem


def test_the_selection_table_means_what_it_says() -> None:
    assert constraints(Selection()) == Constraints()
    settings = Selection(allow=("m6a.*",), tee=("snp", "tdx"), spot="never", max_price=0.5, zones=("a",))
    assert constraints(settings) == Constraints(
        allow=("m6a.*",), tees=(Tee.SNP, Tee.TDX), spot=Spot.NEVER, max_price=0.5, zones=("a",)
    )
