"""What the tests' instances run: it prints what the metadata server tells, the guest's own reader beside it."""

import json
import time
import urllib.error
import urllib.request

from podvm_images.guest import imds

ROOT = "http://169.254.169.254/computeMetadata/v1/"
FLAVOR = {"Metadata-Flavor": "Google"}


def ask(path: str, headers: dict[str, str] = FLAVOR) -> str | int:
    request = urllib.request.Request(ROOT + path, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return str(answer.read().decode())
    except urllib.error.HTTPError as error:
        return error.code


def main() -> None:
    me = json.loads(str(ask("instance/?recursive=true")))
    facts = {
        "user_data": ask("instance/attributes/user-data"),
        "guest": imds.fetch(imds.GCP).decode(),
        "without": ask("instance/attributes/user-data", {}),
        "zone": ask("instance/zone"),
        "name": me["name"],
        "hostname": me["hostname"],
        "ip": me["networkInterfaces"][0]["ip"],
        "project": ask("project/project-id"),
        "token": "access_token" in str(ask("instance/service-accounts/default/token")),
    }
    print("FACTS", json.dumps(facts), flush=True)
    time.sleep(1000)


if __name__ == "__main__":
    main()
