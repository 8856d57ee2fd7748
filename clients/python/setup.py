"""The one build step that pyproject.toml cannot say: the stubs come from proto/."""

import os
import sys

from setuptools import setup
from setuptools.command.build_py import build_py

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from generate_stubs import generate  # noqa: E402


class BuildWithStubs(build_py):
    def run(self):
        generate()
        super().run()


setup(cmdclass={"build_py": BuildWithStubs})
