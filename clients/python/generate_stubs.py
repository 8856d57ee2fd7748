#!/usr/bin/env python3
"""Makes reprise_client/v1 from the contract in proto/. Needs grpcio-tools.

Runs by itself when the package is built or installed; run it by hand to use the
source folder as it is (PYTHONPATH=clients/python/src).
"""

import argparse
import pathlib
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
PROTOS = ["errors", "generation", "model", "session"]
PROTO_DIR = HERE / ".." / ".." / "proto"
OUT_DIR = HERE / "src" / "reprise_client" / "v1"


def generate(proto_dir=PROTO_DIR, out_dir=OUT_DIR):
    """Writes messages, type hints and gRPC stubs to `out_dir`."""
    from importlib import resources

    from grpc_tools import protoc

    proto_dir = pathlib.Path(proto_dir).resolve()
    if not (proto_dir / "reprise" / "v1").is_dir():
        raise SystemExit(f"no reprise/v1 in {proto_dir}: build from a checkout of the repository")
    well_known = resources.files("grpc_tools") / "_proto"
    with tempfile.TemporaryDirectory() as scratch:
        arguments = ["protoc", f"-I{proto_dir}", f"-I{well_known}", f"--python_out={scratch}",
                     f"--pyi_out={scratch}", f"--grpc_python_out={scratch}"]
        if protoc.main(arguments + [f"reprise/v1/{name}.proto" for name in PROTOS]) != 0:
            raise SystemExit("protoc failed")
        out_dir = pathlib.Path(out_dir)
        out_dir.mkdir(parents=True, exist_ok=True)
        for path in sorted(pathlib.Path(scratch, "reprise", "v1").glob("*.py*")):
            # protoc imports by the path of the .proto; in Python the package is ours.
            text = path.read_text()
            text = text.replace("from reprise.v1 import", "from reprise_client.v1 import")
            # Its hints name a generic type without its arguments, which strict checkers refuse.
            text = text.replace(", _Mapping]", ", _Mapping[str, object]]")
            (out_dir / path.name).write_text(text)
    (out_dir / "__init__.py").write_text('"""Generated from proto/reprise/v1."""\n')


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--proto-dir", default=PROTO_DIR)
    arguments = parser.parse_args()
    generate(arguments.proto_dir)
    print("wrote", OUT_DIR, file=sys.stderr)
