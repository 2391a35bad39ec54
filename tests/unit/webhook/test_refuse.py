"""Pods that could never start are told so when they are made; all others are let through."""

import base64
import gzip
from pathlib import Path
from typing import Any

import pytest

from adaptor import names
from adaptor.catalog import published
from adaptor.catalog.chooser import Chooser
from adaptor.catalog.select import Choice, Constraints
from adaptor.config_network import Network
from adaptor.errors import InvalidRequest
from providers.base import Offering, Purchase, Tee
from tests.unit.webhook.pods import GPUS
from tests.worlds.admission import applied, container, pod
from webhook import mutate, refuse
from webhook.mutate import Rules
from webhook.offerings import Offerings
from webhook.pods import read
from webhook.refuse import Market

Json = dict[str, Any]
SOLD = (
    Offering("m6a.large", 2, 8192, tee=Tee.SNP, zone="a", price=0.1),
    Offering("m6a.xlarge", 4, 16384, tee=Tee.SNP, zone="a", purchase=Purchase.SPOT),
    Offering("g6.xlarge", 4, 16384, gpus=1, gpu_model="L4"),
)
MARKET = Market(Chooser(Constraints(deny=("g6.*",))), SOLD)
UNKNOWN = Market(Chooser(Constraints(allow=("m6a.*",), deny=("m6a.48xlarge",))))
NETWORK = Network()
OPEN = Network(external_network="vm", external_network_pods="asking", pod_subnets=("10.0.0.0/8",), imds="allowed")
GOOD = b'version = "0.1.0"\nalgorithm = "sha256"\n[data]\n"aa.toml" = "x"\n'


def said(made: Json, market: Market = MARKET, network: Network = NETWORK) -> list[str]:
    return refuse.refusals(read(made), market, network)


def initdata(text: bytes) -> Json:
    return pod(annotations={names.INITDATA: base64.b64encode(gzip.compress(text)).decode()})


def test_an_ordinary_pod_is_let_through_before_and_after_it_is_sized() -> None:
    made = pod(container(limits={"cpu": "2", "memory": "8Gi"}), annotations={"peerpods.io/tee": "snp"})
    for mode in ("zero", "strip"):
        sized = applied(mutate.mutate(read(made), Rules(mode, GPUS)).operations, made)
        assert said(made) == said(sized) == []


def test_a_pod_on_the_hosts_network_is_refused() -> None:
    (why,) = said(pod(hostNetwork=True))
    assert "hostNetwork: true cannot work" in why
    assert "another runtime class" in why
    assert said(pod(hostNetwork=False)) == []


def test_what_has_no_effect_is_a_warning() -> None:
    assert said(pod(hostPID=True, hostIPC=True)) == []
    assert [text.split(":")[0] for text in refuse.warnings(read(pod(hostPID=True, hostIPC=True)))] == [
        "hostPID",
        "hostIPC",
    ]
    assert refuse.warnings(read(pod())) == []


def test_usable_initdata_is_let_through() -> None:
    assert said(initdata(GOOD)) == []
    wrapped = base64.encodebytes(gzip.compress(GOOD * 1)).decode()
    assert said(pod(annotations={names.INITDATA: wrapped})) == [], "the shim's base64 takes line ends"
    assert said(pod(annotations={names.INITDATA: ""})) == []


@pytest.mark.parametrize(
    ("made", "complaint"),
    [
        (pod(annotations={names.INITDATA: GOOD.decode()}), "holds spaces"),
        (pod(annotations={names.INITDATA: "H4sI%%%"}), "is not base64 of gzip"),
        (pod(annotations={names.INITDATA: base64.b64encode(b"plain").decode()}), "is not base64 of gzip"),
        (pod(annotations={names.INITDATA: base64.b64encode(gzip.compress(GOOD)[:-9]).decode()}), "is cut off"),
        (pod(annotations={names.INITDATA: base64.b64encode(gzip.compress(GOOD) + b"x").decode()}), "behind the end"),
        (initdata(b"\xff\xfe"), "is not UTF-8 inside"),
        (initdata(b"version ="), "is not TOML"),
        (initdata(b"x = " + b"[" * 5000), "is not TOML"),
        (initdata(GOOD.replace(b"0.1.0", b"0.2.0")), "has version '0.2.0'; \"0.1.0\" is understood"),
        (initdata(GOOD.replace(b'version = "0.1.0"', b"")), "has version 'None'"),
        (initdata(GOOD.replace(b"sha256", b"md5")), "has no algorithm among sha256, sha384, sha512"),
        (initdata(GOOD.replace(b'"x"', b"1")), "has no [data] table of texts"),
        (initdata(b"#" * (2 << 20)), "is more than 1048576 bytes unpacked"),
    ],
)
def test_initdata_that_would_not_pass_is_refused_with_what_it_must_be(made: Json, complaint: str) -> None:
    (why,) = said(made)
    assert complaint in why
    assert "`gzip -c initdata.toml | base64 -w0`" in why


@pytest.mark.parametrize(
    ("made", "complaint"),
    [
        (
            pod(annotations={names.MACHINE_TYPE: "p5.48xlarge"}),
            'requested instance type ("p5.48xlarge") is not part of',
        ),
        (pod(annotations={names.MACHINE_TYPE: "g6.xlarge;tee=none"}), 'type ("g6.xlarge") is not part of'),
        (pod(container(limits={"cpu": "64"})), "no instance type found for the given vcpus (64)"),
        (pod(container(limits={"memory": "1Ti"})), "memory (1048576)"),
        (pod(annotations={names.DEFAULT_GPUS: "1"}), "gpus (1)"),
        (pod(annotations={names.MACHINE_TYPE: ";zone=moon"}), "not in moon"),
        (pod(annotations={names.MACHINE_TYPE: ";max-price=0.01"}), "at most 0.01"),
        (pod(annotations={"peerpods.io/zone": "moon"}), "not in moon"),
        (pod(annotations={"peerpods.io/zoned": "moon"}), "annotation peerpods.io/zoned: not a wish known here"),
        (pod(annotations={names.MACHINE_TYPE: "a;x=y"}), "not a wish known here"),
        (pod(annotations={names.DEFAULT_MEMORY: "8Gi"}), "a whole number is needed"),
        (pod(annotations={names.DEFAULT_VCPUS: ""}), "default_vcpus is empty, which kata refuses"),
    ],
)
def test_a_pod_that_no_offering_can_ever_satisfy_is_refused_with_the_reason(made: Json, complaint: str) -> None:
    (why,) = said(made)
    assert complaint in why


@pytest.mark.parametrize(
    ("wish", "setting"), [("external-network", 'external_network = "vm"'), ("imds", 'imds = "allowed"')]
)
def test_a_pod_that_wishes_for_what_the_nodes_do_not_allow_is_refused_with_what_would(wish: str, setting: str) -> None:
    for annotations in ({f"peerpods.io/{wish}": "on"}, {names.MACHINE_TYPE: f";{wish}=on"}):
        (why,) = said(pod(annotations=annotations))
        assert setting in why
        assert f"peerpods.io/{wish}: on" in why
        assert said(pod(annotations=annotations), network=OPEN) == []
    assert said(pod(annotations={f"peerpods.io/{wish}": "off"})) == []
    (why,) = said(pod(annotations={f"peerpods.io/{wish}": "maybe"}))
    assert "on | off" in why


def test_every_reason_is_told_at_once() -> None:
    annotations = {names.INITDATA: "x", "peerpods.io/imds": "on"}
    assert len(said(pod(container(limits={"cpu": "64"}), hostNetwork=True, annotations=annotations))) == 4


@pytest.mark.parametrize(
    ("types", "refused"),
    [
        ("m6a.large", False),
        ("c6a.large", True),
        ("c6a.large,m6a.large", False),
        ("c6a.*", False),
        ("m6a.48xlarge", True),
    ],
)
def test_without_offerings_only_what_the_admin_forbids_is_refused(types: str, refused: bool) -> None:
    found = said(pod(container(limits={"cpu": "9999"}), annotations={names.MACHINE_TYPE: types}), UNKNOWN)
    assert [("is not allowed by [selection]" in why) for why in found] == [True] * refused


def test_the_same_question_is_asked_of_the_catalog_once() -> None:
    class Counted(Chooser):
        asked = 0

        def choose(self, *question: Any, **more: Any) -> Choice:
            self.asked += 1
            return super().choose(*question, **more)

    chooser = Counted()
    market = Market(chooser, SOLD)
    for cpu in ("1", "1", "64", "64"):
        said(pod(container(limits={"cpu": cpu})), market)
    assert chooser.asked == 2


def test_offerings_survive_the_file_and_come_in_their_order() -> None:
    assert published.from_json(published.to_json("aws", SOLD)) == SOLD


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", 'not a document with "version": 1'),
        ('{"version":2,"offerings":[]}', 'not a document with "version": 1'),
        ('{"version":1}', '"offerings" is not a list'),
        ('{"version":1,"offerings":[1]}', "offerings[0] is not a table"),
        ('{"version":1,"offerings":[{"instance_type":"a"}]}', "offerings[0]: "),
        ('{"version":1,"offerings":[{"instance_type":"a","vcpus":"2","memory_mib":1}]}', "offerings[0].vcpus is '2'"),
        (
            '{"version":1,"offerings":[{"instance_type":"a","vcpus":true,"memory_mib":1}]}',
            "offerings[0].vcpus is 'True'",
        ),
        (
            '{"version":1,"offerings":[{"instance_type":"a","vcpus":2,"memory_mib":1,"tee":"sgx"}]}',
            "offerings[0]: 'sgx'",
        ),
    ],
)
def test_a_file_of_offerings_that_cannot_be_used_says_where(text: str, complaint: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        published.from_json(text)
    assert complaint in str(caught.value)


def test_a_field_of_a_later_release_does_no_harm() -> None:
    text = '{"version":1,"more":1,"offerings":[{"instance_type":"a","vcpus":2,"memory_mib":1,"colour":"red"}]}'
    assert published.from_json(text) == (Offering("a", 2, 1),)


def test_more_offerings_than_a_configmap_holds_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="more than a ConfigMap holds"):
        published.to_json("aws", SOLD * 5000)


def test_offerings_are_read_again_when_their_file_changes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "offerings.json"
    offerings = Offerings(str(file), Chooser())

    def sold() -> list[Offering]:
        offerings.refresh()
        return list(offerings.market.offerings)

    assert sold() == sold() == []
    file.write_text(published.to_json("aws", SOLD))
    assert sold() == list(SOLD)
    market = offerings.market
    assert sold() == list(SOLD)
    assert offerings.market is market
    file.write_text("{}")
    assert sold() == list(SOLD), "a broken file changes nothing"
    file.write_text(published.to_json("aws", SOLD[:1]))
    assert sold() == [SOLD[0]]
    assert caplog.text.count("No such file") == caplog.text.count("not a document") == 1
