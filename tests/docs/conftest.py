"""Pages call the Python client, whose stubs are generated."""

import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
PYTHON_CLIENT = HERE.parents[1] / "clients" / "python"
sys.path[:0] = [str(HERE), str(PYTHON_CLIENT)]

import generate_stubs  # noqa: E402

generate_stubs.generate()
