"""VMs that really boot find Azure's metadata service, and in it what they were given."""

import base64
import json
import re
import sys
from pathlib import Path

import pytest

from providers.simcloud.testing import running_in_thread
from tests.unit.simcloud.arm.arm_client import Account, clients, eventually
from tests.unit.simcloud.networks import in_own_network

pytestmark = pytest.mark.netns

ASK = """
import json, socket, sys, time, urllib.request
def ask(path, **headers):
    request = urllib.request.Request("http://169.254.169.254" + path, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
sys.path.insert(0, sys.argv[1])
from podvm_images.guest import imds
found = {
    "guest": imds.fetch(imds.AZURE).decode(),
    "name": json.loads(ask("/metadata/instance?api-version=2021-02-01", Metadata="true")[1])["compute"]["name"],
    "bare": ask("/metadata/instance?api-version=2021-02-01")[0],
    "hostname": socket.gethostname(),
}
print("FOUND", json.dumps(found), flush=True)
time.sleep(1000)
"""


@in_own_network
def test_a_guest_finds_its_user_data_as_on_azure() -> None:
    program = (sys.executable, "-c", ASK, str(Path(__file__).parents[4]))
    with running_in_thread("namespace", cloud="arm", program=program) as cloud, clients(cloud) as account:
        data = base64.b64encode(b"\\x00 what the pod VM is told").decode()
        account.launch(userData=data)
        (line,) = eventually(lambda: re.findall(r"FOUND (.*)", _console(account)))
        found = json.loads(line)
        assert found == {"guest": data, "name": "vm", "bare": 400, "hostname": "vm"}
        account.delete()
        eventually(lambda: not account.names())


def _console(account: Account) -> str:
    (instance,) = account.cloud.instances()
    return instance.console
