"""What Bind leaves in the run directory, and how it gets there: all of it, or nothing.

    initdata, initdata.digest        as the pod's owner wrote it; hex digest of exactly those bytes
    aa.toml, cdh.toml, policy.rego   out of initdata's [data] table, and from nowhere else: they are measured with it
    auth.json                        registry credentials for pulling images
    scratch-space.marker             asks for an encrypted disk for images
    bound                            last of all: whose VM this is. Units of the image wait for it

The names, but for the last, are those of upstream's image, whose programs read them. Directory 0700, files 0600.
"""

import hashlib
import json
import os
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from adaptor.errors import InvalidRequest
from adaptor.protos.guest_pb2 import BindRequest
from podvm_images.guest import volumes

FROM_INITDATA: Final = ("aa.toml", "cdh.toml", "policy.rego")
_READ_HERE: Final = (volumes.DEMANDS,)
MARKER: Final = "bound"
INITDATA_VERSION: Final = "0.1.0"
ALGORITHMS: Final = ("sha256", "sha384", "sha512")

# Files are written in the first directory; renaming it to the second is the moment from which this VM is that pod's,
# even if the program or the VM dies before the files stand in their places.
_STAGED: Final = ".bind-staged"
_CLAIMED: Final = ".bind-claimed"


@dataclass(frozen=True, slots=True)
class Provision:
    """The files to write, in this order; `ignored` are the keys of initdata that this guest has no use for."""

    files: dict[str, bytes] = field(repr=False)
    ignored: tuple[str, ...] = ()


def provision(request: BindRequest) -> Provision:
    """Decide what `request` writes. Raises InvalidRequest saying which field is wrong and what is allowed."""
    if not request.sandbox_id:
        raise InvalidRequest("sandbox_id is empty: a VM is bound to one sandbox")
    files: dict[str, bytes] = {}
    ignored: tuple[str, ...] = ()
    demands = volumes.Demands()
    if request.initdata:
        algorithm, data = _initdata(request.initdata)
        ignored = tuple(name for name in data if name not in (*FROM_INITDATA, *_READ_HERE))
        demands = volumes.demands(data.get(volumes.DEMANDS, ""))
        files |= {name: data[name].encode() for name in FROM_INITDATA if name in data}
        files["initdata"] = request.initdata
        files["initdata.digest"] = hashlib.new(algorithm, request.initdata).hexdigest().encode()
    if request.registry_auth:
        files["auth.json"] = _registry_auth(request.registry_auth)
    if request.scratch_space:
        files["scratch-space.marker"] = b""
    pod = {"sandbox_id": request.sandbox_id, "namespace": request.pod_namespace, "name": request.pod_name}
    volumes.check(request.volumes, demands)
    return Provision(files | {MARKER: json.dumps(pod).encode()}, ignored)


def write(run_dir: Path, files: dict[str, bytes]) -> None:
    """Put every file in its place, in order, or none at all.

    Raises OSError: with `bound_to` still None nothing was written and the call may be repeated, otherwise this VM is
    spent.
    """
    prepare(run_dir)
    staged, claimed = run_dir / _STAGED, run_dir / _CLAIMED
    try:
        staged.mkdir(mode=0o700)
        for name, content in files.items():
            _write(staged / name, content)
        staged.rename(claimed)
    except OSError:
        _discard(staged)
        raise
    for name in files:
        (claimed / name).rename(run_dir / name)
    claimed.rmdir()


def bound_to(run_dir: Path) -> str | None:
    """Whose this VM is, for people; None while it is nobody's. Outlives a restart of this program."""
    if (run_dir / _CLAIMED).exists():
        return "a pod whose Bind was cut off half-way"
    try:
        pod = json.loads((run_dir / MARKER).read_bytes())
        return f"pod {pod['namespace']}/{pod['name']} (sandbox {pod['sandbox_id']})"
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError):
        return "a pod that can no longer be told"  # a marker is a marker


def prepare(run_dir: Path) -> None:
    """Make the run directory ours alone, and clear what a crash left half-written in it. Raises OSError."""
    run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    run_dir.chmod(0o700)
    _discard(run_dir / _STAGED)


def _write(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


def _discard(directory: Path) -> None:
    if directory.exists():
        for path in directory.iterdir():
            path.unlink()
        directory.rmdir()


def _initdata(raw: bytes) -> tuple[str, dict[str, str]]:
    """The digest's algorithm and the [data] table. The digest covers the raw bytes, so nothing is normalised."""
    try:
        document = tomllib.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"initdata is not TOML: {error}") from None
    if document.get("version") != INITDATA_VERSION:
        raise InvalidRequest(f"initdata's version is {document.get('version')!r}; {INITDATA_VERSION!r} is understood")
    algorithm = document.get("algorithm")
    if algorithm not in ALGORITHMS:
        raise InvalidRequest(f"initdata's algorithm is {algorithm!r}; it must be one of {', '.join(ALGORITHMS)}")
    return algorithm, _texts(document.get("data"))


def _texts(data: Any) -> dict[str, str]:
    if not isinstance(data, dict):
        raise InvalidRequest("initdata has no [data] table")
    for name, value in data.items():
        if not isinstance(value, str):
            raise InvalidRequest(f"initdata's [data] entry {name!r} is not a text")
    return data


def _registry_auth(raw: bytes) -> bytes:
    """`raw` as it is. The error must not show any of it."""
    try:
        usable = isinstance(json.loads(raw.decode("utf-8")), dict)
    except (ValueError, RecursionError):
        usable = False
    if not usable:
        raise InvalidRequest("registry_auth is not a JSON object as in a registry's auth.json")
    return raw
