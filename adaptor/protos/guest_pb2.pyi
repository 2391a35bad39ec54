from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class HelloRequest(_message.Message):
    __slots__ = ("protocol", "nonce")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    nonce: bytes
    def __init__(self, protocol: _Optional[int] = ..., nonce: _Optional[bytes] = ...) -> None: ...

class HelloResponse(_message.Message):
    __slots__ = ("protocol", "proof", "version", "bound", "volumes", "network", "wireguard")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    PROOF_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    BOUND_FIELD_NUMBER: _ClassVar[int]
    VOLUMES_FIELD_NUMBER: _ClassVar[int]
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    WIREGUARD_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    proof: bytes
    version: str
    bound: bool
    volumes: bool
    network: bool
    wireguard: bool
    def __init__(self, protocol: _Optional[int] = ..., proof: _Optional[bytes] = ..., version: _Optional[str] = ..., bound: _Optional[bool] = ..., volumes: _Optional[bool] = ..., network: _Optional[bool] = ..., wireguard: _Optional[bool] = ...) -> None: ...

class BindRequest(_message.Message):
    __slots__ = ("sandbox_id", "pod_namespace", "pod_name", "initdata", "registry_auth", "network", "scratch_space", "volumes")
    SANDBOX_ID_FIELD_NUMBER: _ClassVar[int]
    POD_NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    POD_NAME_FIELD_NUMBER: _ClassVar[int]
    INITDATA_FIELD_NUMBER: _ClassVar[int]
    REGISTRY_AUTH_FIELD_NUMBER: _ClassVar[int]
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    SCRATCH_SPACE_FIELD_NUMBER: _ClassVar[int]
    VOLUMES_FIELD_NUMBER: _ClassVar[int]
    sandbox_id: str
    pod_namespace: str
    pod_name: str
    initdata: bytes
    registry_auth: bytes
    network: bytes
    scratch_space: bool
    volumes: _containers.RepeatedCompositeFieldContainer[Volume]
    def __init__(self, sandbox_id: _Optional[str] = ..., pod_namespace: _Optional[str] = ..., pod_name: _Optional[str] = ..., initdata: _Optional[bytes] = ..., registry_auth: _Optional[bytes] = ..., network: _Optional[bytes] = ..., scratch_space: _Optional[bool] = ..., volumes: _Optional[_Iterable[_Union[Volume, _Mapping]]] = ...) -> None: ...

class Volume(_message.Message):
    __slots__ = ("name", "disk", "serial", "lun", "fs_type", "read_only", "fs_group", "fs_group_on_mismatch", "key_id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DISK_FIELD_NUMBER: _ClassVar[int]
    SERIAL_FIELD_NUMBER: _ClassVar[int]
    LUN_FIELD_NUMBER: _ClassVar[int]
    FS_TYPE_FIELD_NUMBER: _ClassVar[int]
    READ_ONLY_FIELD_NUMBER: _ClassVar[int]
    FS_GROUP_FIELD_NUMBER: _ClassVar[int]
    FS_GROUP_ON_MISMATCH_FIELD_NUMBER: _ClassVar[int]
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    disk: str
    serial: str
    lun: int
    fs_type: str
    read_only: bool
    fs_group: int
    fs_group_on_mismatch: bool
    key_id: str
    def __init__(self, name: _Optional[str] = ..., disk: _Optional[str] = ..., serial: _Optional[str] = ..., lun: _Optional[int] = ..., fs_type: _Optional[str] = ..., read_only: _Optional[bool] = ..., fs_group: _Optional[int] = ..., fs_group_on_mismatch: _Optional[bool] = ..., key_id: _Optional[str] = ...) -> None: ...

class BindResponse(_message.Message):
    __slots__ = ("network",)
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    network: bytes
    def __init__(self, network: _Optional[bytes] = ...) -> None: ...

class ResumeRequest(_message.Message):
    __slots__ = ("sandbox_id", "received")
    SANDBOX_ID_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    sandbox_id: str
    received: int
    def __init__(self, sandbox_id: _Optional[str] = ..., received: _Optional[int] = ...) -> None: ...

class ResumeResponse(_message.Message):
    __slots__ = ("received",)
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    received: int
    def __init__(self, received: _Optional[int] = ...) -> None: ...
