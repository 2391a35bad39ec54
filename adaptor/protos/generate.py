"""`make protos`: runs protoc over this room. Developers only; needs grpcio-tools."""

import subprocess
import sys
from pathlib import Path

import google.rpc

HERE = Path(__file__).parent


def main() -> None:
    """Rewrite every *_pb2.py and *_pb2.pyi; exits non-zero on a fault in a .proto."""
    root = HERE.parents[1]
    includes = [f"-I{root}", f"-I{Path(next(iter(google.rpc.__path__))).parents[1]}"]
    protos = [str(path) for path in sorted(HERE.glob("*.proto"))]
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", *includes, f"--python_out={root}", f"--pyi_out={root}", *protos],
        check=True,
    )


if __name__ == "__main__":
    main()
