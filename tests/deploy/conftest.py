"""Charts are rendered once per set of values."""

import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

from chart import Chart  # noqa: E402
from helm import Helm, with_hooks_and_notes  # noqa: E402


@pytest.fixture(scope="session", params=[3, 4], ids=["helm3", "helm4"])
def any_helm(request):
    with Helm(request.param) as helm:
        yield helm


@pytest.fixture(scope="session")
def helm():
    with Helm() as helm:
        yield helm


@pytest.fixture(scope="session")
def chart(helm, tmp_path_factory):
    return Chart(helm, with_hooks_and_notes(tmp_path_factory.mktemp("chart")))
