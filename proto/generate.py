"""Generates ziggurat_proto/v1/*_pb2*.py from the .proto files; --check compares only.

Needs grpcio-tools at the version pinned in the root pyproject.toml.
"""

from __future__ import annotations

import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent
PACKAGE = Path("ziggurat_proto/v1")
INCLUDES = [f"-I{ROOT}", f"-I{files('grpc_tools') / '_proto'}"]


def generate(out: Path) -> dict[str, bytes]:
    """Generates into `out`; returns the files' contents by name."""
    sources = sorted(str(p.relative_to(ROOT)) for p in (ROOT / PACKAGE).glob("*.proto"))
    options = [f"--python_out={out}", f"--pyi_out={out}"]
    if protoc.main(["protoc", *INCLUDES, *options, *sources]):
        raise SystemExit("protoc failed")
    # Only the file with the service has stubs worth keeping.
    service = str(PACKAGE / "service.proto")
    if protoc.main(["protoc", *INCLUDES, f"--grpc_python_out={out}", service]):
        raise SystemExit("protoc failed")
    return {p.name: p.read_bytes() for p in (out / PACKAGE).glob("*_pb2*")}


def main() -> None:
    """Writes the generated code, or with --check exits 1 where it differs."""
    with tempfile.TemporaryDirectory() as scratch:
        fresh = generate(Path(scratch))
    committed = {p.name: p.read_bytes() for p in (ROOT / PACKAGE).glob("*_pb2*")}
    if "--check" in sys.argv[1:]:
        stale = sorted(
            n for n in fresh.keys() | committed.keys() if fresh.get(n) != committed.get(n)
        )
        if stale:
            raise SystemExit(f"not fresh, run python proto/generate.py: {', '.join(stale)}")
        return
    for name in committed.keys() - fresh.keys():
        (ROOT / PACKAGE / name).unlink()
    for name, content in fresh.items():
        (ROOT / PACKAGE / name).write_bytes(content)


if __name__ == "__main__":
    main()
