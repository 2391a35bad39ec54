"""The rules on a VM's operating system profile: names, logins, and what it is handed."""

import base64
import binascii
import re
import struct
from collections.abc import Mapping
from typing import Any, Final

from providers.simcloud.arm.errors import Refused
from providers.simcloud.arm.images import Image

USER_DATA_LIMIT: Final = 65536  # characters, in base64
CUSTOM_DATA_LIMIT: Final = 87380  # characters, in base64
_LEAST_RSA: Final = 2048  # bits
_HOST_NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,62}[A-Za-z0-9])?")
_TAKEN: Final = frozenset(
    [
        "administrator",
        "admin",
        "user",
        "user1",
        "test",
        "user2",
        "test1",
        "user3",
        "admin1",
        "1",
        "123",
        "a",
        "actuser",
        "adm",
        "admin2",
        "aspnet",
        "backup",
        "console",
        "david",
        "guest",
        "john",
        "owner",
        "root",
        "server",
        "sql",
        "support",
        "support_388945a0",
        "sys",
        "test2",
        "test3",
        "user4",
        "user5",
    ]
)
_USER_NAME: Final = re.compile(r"[a-z_A-Z][A-Za-z0-9_.-]{0,63}")
_CLASSES: Final = (r"[a-z]", r"[A-Z]", r"[0-9]", r"[^A-Za-z0-9]")
_PASSWORD: Final = range(12, 73)  # characters
_CLASSES_NEEDED: Final = 3


def check(name: str, properties: Mapping[str, Any], image: Image) -> None:
    """Raises Refused."""
    check_data(properties.get("userData"), "userData", USER_DATA_LIMIT)
    profile = properties.get("osProfile")
    if image.specialized:
        if profile:
            raise _wrong("osProfile", "Parameter 'osProfile' is not allowed.")
        return
    if not profile:
        raise _wrong("osProfile", "Required parameter 'osProfile' is missing (null).")
    check_data(profile.get("customData"), "customData", CUSTOM_DATA_LIMIT)
    _host_name(str(profile.get("computerName") or name))
    user = str(profile.get("adminUsername") or "")
    if not user:
        raise _wrong("osProfile.adminUsername", "Required parameter 'adminUsername' is missing (null).")
    if user.lower() in _TAKEN or not _USER_NAME.fullmatch(user):
        raise _wrong("adminUsername", "The Admin Username specified is not allowed.")
    _login(user, profile)


def check_data(text: str | None, what: str, limit: int) -> None:
    """What the machine is handed. Raises Refused."""
    if not text:
        return
    try:
        base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise _wrong(what, f"The value of parameter '{what}' must be in Base64 encoding.") from None
    if len(text) > limit:
        raise _wrong(
            what, f"The value of parameter '{what}' must be in Base64 encoding with at most {limit} characters."
        )


def _host_name(name: str) -> None:
    if not _HOST_NAME.fullmatch(name) or name.isdecimal():
        raise _wrong(
            "computerName",
            "Linux host name cannot exceed 64 characters in length, be all digits, or contain the following characters:"
            " ` ~ ! @ # $ % ^ & * ( ) = + _ [ ] { } \\ | ; : ' \" , < > / ?.",
        )


def _login(user: str, profile: Mapping[str, Any]) -> None:
    linux = profile.get("linuxConfiguration") or {}
    keys = (linux.get("ssh") or {}).get("publicKeys") or []
    password = profile.get("adminPassword")
    closed = linux.get("disablePasswordAuthentication", password is None)
    if not keys and (closed or not password):
        raise _wrong(
            "linuxConfiguration",
            "Authentication using either SSH or by user name and password must be enabled in Linux profile.",
        )
    if password is not None:
        used = sum(bool(re.search(each, password)) for each in _CLASSES)
        if len(password) not in _PASSWORD or used < _CLASSES_NEEDED:
            raise _wrong(
                "adminPassword",
                "The supplied password must be between 12-72 characters long and must satisfy at least 3 of password"
                " complexity requirements from the following: 1) Contains an uppercase character 2) Contains a lowercase"
                " character 3) Contains a numeric digit 4) Contains a special character",
            )
    for key in keys:
        if key.get("path") != f"/home/{user}/.ssh/authorized_keys":
            raise _wrong(
                "linuxConfiguration.ssh.publicKeys.path",
                "Destination path for SSH public keys is currently limited to its default value"
                f" /home/{user}/.ssh/authorized_keys due to a known issue in Linux provisioning agent.",
            )
        if not _good_key(str(key.get("keyData") or "")):
            raise _wrong(
                "linuxConfiguration.ssh.publicKeys.keyData",
                "The value of parameter linuxConfiguration.ssh.publicKeys.keyData is invalid.",
            )


def _good_key(text: str) -> bool:
    """An OpenSSH public key: RSA with 2048 bits and more, or Ed25519."""
    words = text.split()
    if len(words) < 2:
        return False
    try:
        data = base64.b64decode(words[1], validate=True)
        parts = _strings(data)
    except (binascii.Error, ValueError, struct.error):
        return False
    if not parts or parts[0].decode("ascii", "replace") != words[0]:
        return False
    if words[0] == "ssh-ed25519":
        return len(parts) == 2 and len(parts[1]) == 32
    return words[0] == "ssh-rsa" and len(parts) == 3 and int.from_bytes(parts[2]).bit_length() >= _LEAST_RSA


def _strings(data: bytes) -> list[bytes]:
    parts = []
    while data:
        (length,) = struct.unpack(">I", data[:4])
        if length > len(data) - 4:
            raise ValueError("cut")
        parts.append(data[4 : 4 + length])
        data = data[4 + length :]
    return parts


def _wrong(target: str, message: str) -> Refused:
    return Refused("InvalidParameter", message, target=target)
