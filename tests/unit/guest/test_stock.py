"""Our guest, given what upstream's adaptor writes: read as strictly as it is written, and turned into what Bind brings."""

import base64
import dataclasses
import gzip
import json
import os
from typing import Any

import pytest

from adaptor.errors import InvalidRequest
from adaptor.pki import NodePki
from adaptor.podnet.plan import guest_plan_from_json
from podvm_images.guest import bind, stock, userdata
from podvm_images.guest.stock import Stock, StockFault
from tests.unit.guest.test_upstream_guest import INITDATA, apf, cloud_config, encoded
from tests.worlds import upstream_guest

RUN = "/run/peerpod"


def given(pki: NodePki, files: dict[str, str] | None = None, **changes: Any) -> Stock:
    return stock.parse(cloud_config({f"{RUN}/apf.json": json.dumps(apf(pki, **changes), indent=2)} | (files or {})))


def network(pki: NodePki, **changes: Any) -> dict[str, Any]:
    return {**apf(pki)["pod-network"], **changes}


def test_it_becomes_what_bind_brings(pki: NodePki) -> None:
    document = apf(pki)
    auth = '{"auths": {}}\n'
    files = {f"{RUN}/initdata": encoded(INITDATA), f"{RUN}/auth.json": auth, f"{RUN}/scratch-space.marker": ""}
    found = stock.parse(cloud_config({f"{RUN}/apf.json": json.dumps(document)} | files))
    assert (found.key.decode(), found.certificate.decode()) == (document["tls-server-key"], document["tls-server-cert"])
    request = found.request
    assert (request.pod_namespace, request.pod_name, request.scratch_space) == ("shop", "web-0", True)
    assert (request.initdata, json.loads(request.registry_auth)) == (INITDATA, {"auths": {}})
    assert set(bind.provision(request).files) == {
        "initdata", "initdata.digest", "aa.toml", "policy.rego", "auth.json", "scratch-space.marker", "bound",
    }  # fmt: skip


def test_the_pods_network_is_a_plan_like_any_other(pki: NodePki) -> None:
    neighbour = {"ip": "10.244.1.1", "hw-addr": "02:00:00:00:00:01", "dev": "eth0", "state": "permanent"}
    routes = [
        {"dst": "0.0.0.0/0", "gw": "10.244.1.1", "dev": "eth0"},
        {"dst": "10.244.1.0/24", "gw": "", "dev": "eth0", "protocol": "kernel", "scope": "link"},
    ]
    plan = guest_plan_from_json(
        given(pki, **{"pod-network": network(pki, neighbors=[neighbour], routes=routes)}).request.network
    )
    assert (plan.vnis, plan.port, plan.worker, plan.wireguard, plan.egress) == ((555000,), 4789, "10.0.0.4", None, None)
    (interface,) = plan.interfaces
    assert (interface.name, interface.addresses, interface.mtu) == ("eth0", ("10.244.1.5/24",), 1450)
    assert [(route.destination, route.gateway, route.scope, route.protocol) for route in interface.routes] == [
        ("10.244.1.0/24", "", 253, 2), ("", "10.244.1.1", 0, 3),
    ]  # fmt: skip
    assert interface.neighbours[0].hardware_address == "02:00:00:00:00:01"


def test_what_is_not_measured_does_not_configure_the_agents(pki: NodePki) -> None:
    files = {
        f"{RUN}/aa.toml": "x = 1",
        f"{RUN}/cdh.toml": "y = 1",
        f"{RUN}/policy.rego": "package agent_policy",
        "/etc/passwd": "root::0:0::/:/bin/sh",
    }
    found = given(pki, files)
    assert found.ignored == tuple(files)
    assert set(bind.provision(found.request).files) == {"bound"}


def test_it_reads_what_the_stand_in_for_upstreams_image_reads(pki: NodePki) -> None:
    files = {
        f"{RUN}/apf.json": json.dumps(apf(pki), indent=2),
        f"{RUN}/auth.json": '{\n  "auths": {\n\n  }\n}',
        "/x": "one\n\n  two",
    }
    text = cloud_config(files)
    assert stock.cloud_config(text) == upstream_guest.parse_cloud_config(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"#cloud-config\n", "without write_files"),
        (b"#cloud-config\nruncmd:\n  - reboot\n", "without write_files"),
        (b"#cloud-config\nwrite_files:\n  - path: /a\n    permissions: '0600'\n    content: |\n      x\n", "line 3"),
        (b"#cloud-config\nwrite_files:\n  - path: /a\n    content: x\n", "line 3"),
        (b"#cloud-config\nwrite_files:\n  - {path: /a, content: b}\n", "line 3"),
        (b"#cloud-config\nwrite_files:\n  - path: /a\n    content: |\n      x\nruncmd: []\n", "line 6"),
        (
            b"#cloud-config\nwrite_files:\n  - path: /a\n    content: |\n      x\n  - path: /a\n    content: |\n      y\n",
            "twice",
        ),
        (b"#cloud-config\nwrite_files:\n  - path: /a\n    content: |\n      x\n", "apf.json cannot be used"),
        (b"#cloud-config\n\xff", "no UTF-8"),
    ],
)
def test_anything_else_is_refused_with_its_place(text: bytes, why: str) -> None:
    with pytest.raises(StockFault, match=why):
        stock.parse(text)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"tls-server-key": None}, "apf.json cannot be used"),
        ({"pod-network": None}, "apf.json cannot be used"),
        ({"pod-network": {"tunnel-type": "geneve"}}, "geneve"),
    ],
)
def test_an_apf_json_that_lacks_something_is_refused_without_a_word_of_its_key(
    pki: NodePki, changes: dict[str, Any], why: str
) -> None:
    with pytest.raises(StockFault, match=why) as told:
        given(pki, **changes)
    assert "PRIVATE" not in str(told.value)


def test_the_vms_own_ways_out_are_for_our_own_workers(pki: NodePki) -> None:
    with pytest.raises(StockFault, match="external-net-via-pod-vm"):
        given(pki, **{"pod-network": network(pki, **{"external-net-via-pod-vm": True})})


@pytest.mark.parametrize("content", ["no base64!", base64.b64encode(b"no gzip").decode(), encoded(INITDATA)[:40]])
def test_initdata_that_cannot_be_unpacked_is_refused(pki: NodePki, content: str) -> None:
    with pytest.raises(StockFault, match="initdata"):
        given(pki, {f"{RUN}/initdata": content})


def test_initdata_that_swells_is_not_unpacked_whole(pki: NodePki) -> None:
    bomb = base64.b64encode(gzip.compress(bytes(50 << 20))).decode()
    with pytest.raises(StockFault, match=f"more than {stock.MOST}"):
        given(pki, {f"{RUN}/initdata": bomb})


def test_initdata_of_another_form_is_refused_as_binds_is(pki: NodePki) -> None:
    found = given(pki, {f"{RUN}/initdata": encoded(b"not toml")})
    with pytest.raises(InvalidRequest, match="not TOML"):
        bind.provision(found.request)


def test_every_source_hands_it_out_plain_or_in_base64(pki: NodePki) -> None:
    text = cloud_config({f"{RUN}/apf.json": json.dumps(apf(pki))})
    for raw in (text, base64.b64encode(text), base64.encodebytes(text)):
        found = userdata.parse(raw)
        assert isinstance(found, Stock)
        assert found.request.pod_name == "web-0"


def test_its_key_is_in_no_repr(pki: NodePki) -> None:
    found = given(pki)
    assert "PRIVATE" not in repr(found)
    assert dataclasses.asdict(found)["key"].startswith(b"-----BEGIN")
    assert os.linesep not in repr(found)
