from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STATE_UNKNOWN: _ClassVar[State]
    LISTENING: _ClassVar[State]
    DIALLING: _ClassVar[State]
    DIALLED: _ClassVar[State]
    JOINED: _ClassVar[State]
    SHIM_GONE: _ClassVar[State]
    LINK_LOST: _ClassVar[State]
    RESUMING: _ClassVar[State]
STATE_UNKNOWN: State
LISTENING: State
DIALLING: State
DIALLED: State
JOINED: State
SHIM_GONE: State
LINK_LOST: State
RESUMING: State

class OpenRequest(_message.Message):
    __slots__ = ("sandbox_id", "socket_path", "rewrites")
    SANDBOX_ID_FIELD_NUMBER: _ClassVar[int]
    SOCKET_PATH_FIELD_NUMBER: _ClassVar[int]
    REWRITES_FIELD_NUMBER: _ClassVar[int]
    sandbox_id: str
    socket_path: str
    rewrites: Rewrites
    def __init__(self, sandbox_id: _Optional[str] = ..., socket_path: _Optional[str] = ..., rewrites: _Optional[_Union[Rewrites, _Mapping]] = ...) -> None: ...

class Rewrites(_message.Message):
    __slots__ = ("all_gpus", "volumes", "volumes_unknown")
    ALL_GPUS_FIELD_NUMBER: _ClassVar[int]
    VOLUMES_FIELD_NUMBER: _ClassVar[int]
    VOLUMES_UNKNOWN_FIELD_NUMBER: _ClassVar[int]
    all_gpus: bool
    volumes: _containers.RepeatedCompositeFieldContainer[DirectVolume]
    volumes_unknown: bool
    def __init__(self, all_gpus: _Optional[bool] = ..., volumes: _Optional[_Iterable[_Union[DirectVolume, _Mapping]]] = ..., volumes_unknown: _Optional[bool] = ...) -> None: ...

class DirectVolume(_message.Message):
    __slots__ = ("name", "path", "device", "guest_path", "read_only", "fs_type", "lun", "disk_id", "fs_group", "encrypt_type", "key_id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    GUEST_PATH_FIELD_NUMBER: _ClassVar[int]
    READ_ONLY_FIELD_NUMBER: _ClassVar[int]
    FS_TYPE_FIELD_NUMBER: _ClassVar[int]
    LUN_FIELD_NUMBER: _ClassVar[int]
    DISK_ID_FIELD_NUMBER: _ClassVar[int]
    FS_GROUP_FIELD_NUMBER: _ClassVar[int]
    ENCRYPT_TYPE_FIELD_NUMBER: _ClassVar[int]
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    path: str
    device: str
    guest_path: str
    read_only: bool
    fs_type: str
    lun: str
    disk_id: str
    fs_group: str
    encrypt_type: str
    key_id: str
    def __init__(self, name: _Optional[str] = ..., path: _Optional[str] = ..., device: _Optional[str] = ..., guest_path: _Optional[str] = ..., read_only: _Optional[bool] = ..., fs_type: _Optional[str] = ..., lun: _Optional[str] = ..., disk_id: _Optional[str] = ..., fs_group: _Optional[str] = ..., encrypt_type: _Optional[str] = ..., key_id: _Optional[str] = ...) -> None: ...

class OpenResponse(_message.Message):
    __slots__ = ("volumes", "answers")
    VOLUMES_FIELD_NUMBER: _ClassVar[int]
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    volumes: int
    answers: bool
    def __init__(self, volumes: _Optional[int] = ..., answers: _Optional[bool] = ...) -> None: ...

class DialRequest(_message.Message):
    __slots__ = ("sandbox_id", "addresses", "port", "timeout", "identity", "own", "upstream", "link_grace")
    SANDBOX_ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    OWN_FIELD_NUMBER: _ClassVar[int]
    UPSTREAM_FIELD_NUMBER: _ClassVar[int]
    LINK_GRACE_FIELD_NUMBER: _ClassVar[int]
    sandbox_id: str
    addresses: _containers.RepeatedScalarFieldContainer[str]
    port: int
    timeout: float
    identity: Identity
    own: OwnGuest
    upstream: UpstreamGuest
    link_grace: float
    def __init__(self, sandbox_id: _Optional[str] = ..., addresses: _Optional[_Iterable[str]] = ..., port: _Optional[int] = ..., timeout: _Optional[float] = ..., identity: _Optional[_Union[Identity, _Mapping]] = ..., own: _Optional[_Union[OwnGuest, _Mapping]] = ..., upstream: _Optional[_Union[UpstreamGuest, _Mapping]] = ..., link_grace: _Optional[float] = ...) -> None: ...

class Identity(_message.Message):
    __slots__ = ("certificate", "key")
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    certificate: bytes
    key: bytes
    def __init__(self, certificate: _Optional[bytes] = ..., key: _Optional[bytes] = ...) -> None: ...

class OwnGuest(_message.Message):
    __slots__ = ("nonce", "pinned_sha256")
    NONCE_FIELD_NUMBER: _ClassVar[int]
    PINNED_SHA256_FIELD_NUMBER: _ClassVar[int]
    nonce: bytes
    pinned_sha256: bytes
    def __init__(self, nonce: _Optional[bytes] = ..., pinned_sha256: _Optional[bytes] = ...) -> None: ...

class UpstreamGuest(_message.Message):
    __slots__ = ("ca", "server_name")
    CA_FIELD_NUMBER: _ClassVar[int]
    SERVER_NAME_FIELD_NUMBER: _ClassVar[int]
    ca: bytes
    server_name: str
    def __init__(self, ca: _Optional[bytes] = ..., server_name: _Optional[str] = ...) -> None: ...

class DialResponse(_message.Message):
    __slots__ = ("address", "certificate", "hello", "attempts", "connect_seconds", "handshake_seconds")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    HELLO_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    CONNECT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    HANDSHAKE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    address: str
    certificate: bytes
    hello: bytes
    attempts: int
    connect_seconds: float
    handshake_seconds: float
    def __init__(self, address: _Optional[str] = ..., certificate: _Optional[bytes] = ..., hello: _Optional[bytes] = ..., attempts: _Optional[int] = ..., connect_seconds: _Optional[float] = ..., handshake_seconds: _Optional[float] = ...) -> None: ...

class BindRequest(_message.Message):
    __slots__ = ("sandbox_id", "bind", "timeout")
    SANDBOX_ID_FIELD_NUMBER: _ClassVar[int]
    BIND_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    sandbox_id: str
    bind: bytes
    timeout: float
    def __init__(self, sandbox_id: _Optional[str] = ..., bind: _Optional[bytes] = ..., timeout: _Optional[float] = ...) -> None: ...

class BindResponse(_message.Message):
    __slots__ = ("answer",)
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    answer: bytes
    def __init__(self, answer: _Optional[bytes] = ...) -> None: ...

class CloseRequest(_message.Message):
    __slots__ = ("sandbox_id",)
    SANDBOX_ID_FIELD_NUMBER: _ClassVar[int]
    sandbox_id: str
    def __init__(self, sandbox_id: _Optional[str] = ...) -> None: ...

class CloseResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class HandOverRequest(_message.Message):
    __slots__ = ("socket_path",)
    SOCKET_PATH_FIELD_NUMBER: _ClassVar[int]
    socket_path: str
    def __init__(self, socket_path: _Optional[str] = ...) -> None: ...

class HandOverResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ("generation",)
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    generation: int
    def __init__(self, generation: _Optional[int] = ...) -> None: ...

class ListResponse(_message.Message):
    __slots__ = ("sessions", "generation", "version", "pid")
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    sessions: _containers.RepeatedCompositeFieldContainer[Session]
    generation: int
    version: str
    pid: int
    def __init__(self, sessions: _Optional[_Iterable[_Union[Session, _Mapping]]] = ..., generation: _Optional[int] = ..., version: _Optional[str] = ..., pid: _Optional[int] = ...) -> None: ...

class Session(_message.Message):
    __slots__ = ("sandbox_id", "socket_path", "state", "address", "certificate_sha256", "shim_connected", "bytes_to_guest", "bytes_from_guest", "requests", "reason", "resumes")
    SANDBOX_ID_FIELD_NUMBER: _ClassVar[int]
    SOCKET_PATH_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_SHA256_FIELD_NUMBER: _ClassVar[int]
    SHIM_CONNECTED_FIELD_NUMBER: _ClassVar[int]
    BYTES_TO_GUEST_FIELD_NUMBER: _ClassVar[int]
    BYTES_FROM_GUEST_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    RESUMES_FIELD_NUMBER: _ClassVar[int]
    sandbox_id: str
    socket_path: str
    state: State
    address: str
    certificate_sha256: bytes
    shim_connected: bool
    bytes_to_guest: int
    bytes_from_guest: int
    requests: int
    reason: str
    resumes: int
    def __init__(self, sandbox_id: _Optional[str] = ..., socket_path: _Optional[str] = ..., state: _Optional[_Union[State, str]] = ..., address: _Optional[str] = ..., certificate_sha256: _Optional[bytes] = ..., shim_connected: _Optional[bool] = ..., bytes_to_guest: _Optional[int] = ..., bytes_from_guest: _Optional[int] = ..., requests: _Optional[int] = ..., reason: _Optional[str] = ..., resumes: _Optional[int] = ...) -> None: ...
