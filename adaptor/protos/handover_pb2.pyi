from adaptor.protos import relay_pb2 as _relay_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class HandedRelay(_message.Message):
    __slots__ = ("version", "pid", "generation", "sessions")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    version: str
    pid: int
    generation: int
    sessions: int
    def __init__(self, version: _Optional[str] = ..., pid: _Optional[int] = ..., generation: _Optional[int] = ..., sessions: _Optional[int] = ...) -> None: ...

class HandedSession(_message.Message):
    __slots__ = ("open", "state", "reason", "shim", "dial", "dialled", "resumes", "pump", "answer")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SHIM_FIELD_NUMBER: _ClassVar[int]
    DIAL_FIELD_NUMBER: _ClassVar[int]
    DIALLED_FIELD_NUMBER: _ClassVar[int]
    RESUMES_FIELD_NUMBER: _ClassVar[int]
    PUMP_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    open: _relay_pb2.OpenRequest
    state: _relay_pb2.State
    reason: str
    shim: bool
    dial: _relay_pb2.DialRequest
    dialled: _relay_pb2.DialResponse
    resumes: int
    pump: HandedPump
    answer: bytes
    def __init__(self, open: _Optional[_Union[_relay_pb2.OpenRequest, _Mapping]] = ..., state: _Optional[_Union[_relay_pb2.State, str]] = ..., reason: _Optional[str] = ..., shim: _Optional[bool] = ..., dial: _Optional[_Union[_relay_pb2.DialRequest, _Mapping]] = ..., dialled: _Optional[_Union[_relay_pb2.DialResponse, _Mapping]] = ..., resumes: _Optional[int] = ..., pump: _Optional[_Union[HandedPump, _Mapping]] = ..., answer: _Optional[bytes] = ...) -> None: ...

class HandedPump(_message.Message):
    __slots__ = ("splice", "records", "reissue", "to_shim", "bytes_to_link", "bytes_from_link")
    SPLICE_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    REISSUE_FIELD_NUMBER: _ClassVar[int]
    TO_SHIM_FIELD_NUMBER: _ClassVar[int]
    BYTES_TO_LINK_FIELD_NUMBER: _ClassVar[int]
    BYTES_FROM_LINK_FIELD_NUMBER: _ClassVar[int]
    splice: SpliceState
    records: RecordsState
    reissue: ReissueState
    to_shim: bytes
    bytes_to_link: int
    bytes_from_link: int
    def __init__(self, splice: _Optional[_Union[SpliceState, _Mapping]] = ..., records: _Optional[_Union[RecordsState, _Mapping]] = ..., reissue: _Optional[_Union[ReissueState, _Mapping]] = ..., to_shim: _Optional[bytes] = ..., bytes_to_link: _Optional[int] = ..., bytes_from_link: _Optional[int] = ...) -> None: ...

class SpliceState(_message.Message):
    __slots__ = ("answers", "requests_seen", "skip", "held", "wanted", "left", "cut", "watched", "dropped")
    class WatchedEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: bytes
        def __init__(self, key: _Optional[int] = ..., value: _Optional[bytes] = ...) -> None: ...
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_SEEN_FIELD_NUMBER: _ClassVar[int]
    SKIP_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    WANTED_FIELD_NUMBER: _ClassVar[int]
    LEFT_FIELD_NUMBER: _ClassVar[int]
    CUT_FIELD_NUMBER: _ClassVar[int]
    WATCHED_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    answers: bytes
    requests_seen: int
    skip: int
    held: bytes
    wanted: int
    left: int
    cut: bytes
    watched: _containers.ScalarMap[int, bytes]
    dropped: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, answers: _Optional[bytes] = ..., requests_seen: _Optional[int] = ..., skip: _Optional[int] = ..., held: _Optional[bytes] = ..., wanted: _Optional[int] = ..., left: _Optional[int] = ..., cut: _Optional[bytes] = ..., watched: _Optional[_Mapping[int, bytes]] = ..., dropped: _Optional[_Iterable[int]] = ...) -> None: ...

class RecordsState(_message.Message):
    __slots__ = ("sent", "received", "unconfirmed")
    SENT_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    UNCONFIRMED_FIELD_NUMBER: _ClassVar[int]
    sent: int
    received: int
    unconfirmed: bytes
    def __init__(self, sent: _Optional[int] = ..., received: _Optional[int] = ..., unconfirmed: _Optional[bytes] = ...) -> None: ...

class ReissueState(_message.Message):
    __slots__ = ("unanswered", "partial", "unsent", "passing")
    UNANSWERED_FIELD_NUMBER: _ClassVar[int]
    PARTIAL_FIELD_NUMBER: _ClassVar[int]
    UNSENT_FIELD_NUMBER: _ClassVar[int]
    PASSING_FIELD_NUMBER: _ClassVar[int]
    unanswered: _containers.RepeatedScalarFieldContainer[bytes]
    partial: bytes
    unsent: int
    passing: int
    def __init__(self, unanswered: _Optional[_Iterable[bytes]] = ..., partial: _Optional[bytes] = ..., unsent: _Optional[int] = ..., passing: _Optional[int] = ...) -> None: ...

class Ready(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class HandedOver(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
