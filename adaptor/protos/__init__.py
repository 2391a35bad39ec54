"""Our own .proto files and what protoc makes of them (`make protos`; the generated files are committed).

Only fields that we read or change are declared: protobuf carries the rest through a rewrite unchanged.
Field numbers are facts of the services we speak; `../../ARCHITECTURE.md` lists which service is whose.
"""
