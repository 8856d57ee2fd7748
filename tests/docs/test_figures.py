"""The picture of costs, and the figures that README and docs/performance.md quote, are those of
bench/RESULTS.md."""

import re
import subprocess
import sys

import pytest
from page_run import ROOT

sys.path.insert(0, str(ROOT / "tools"))

import plot_costs  # noqa: E402

RESULTS = (ROOT / "bench" / "RESULTS.md").read_text()


def test_the_picture_is_current(tmp_path):
    subprocess.run([sys.executable, str(ROOT / "tools" / "plot_costs.py"), str(tmp_path / "costs.svg")],
                   check=True, capture_output=True)
    assert (tmp_path / "costs.svg").read_bytes() == plot_costs.PICTURE.read_bytes(), (
        "run tools/plot_costs.py")


def test_tables_of_another_form_are_an_error():
    with pytest.raises(SystemExit, match="no section"):
        plot_costs.figures("")
    with pytest.raises(SystemExit, match="resume"):
        plot_costs.figures(RESULTS.replace("resume from Redis on", "resume on"))


@pytest.mark.parametrize("page", ["README.md", "docs/performance.md"])
def test_quoted_figures_were_measured(page):
    data = plot_costs.figures(RESULTS)
    quoted = (ROOT / page).read_text()
    assert f"{data['prefill_ms'][-1]:.0f} ms" in quoted
    assert f"{data['resume_ms']:.0f} ms" in quoted and f"{data['fork_ms']:.3f} ms" in quoted


def test_rates_of_the_page_were_measured():
    """Every rate in tokens per second, and every share, is somewhere in the results."""
    page = (ROOT / "docs" / "performance.md").read_text()
    digits = lambda text: text.replace(",", "")
    rates = re.findall(r"([\d,]+) tokens/s", page)
    known = {digits(number) for number in re.findall(r"\d[\d,]*(?:\.\d+)?", RESULTS)}
    # Peers' rates are batch over time, or rounded.
    known |= {f"{rate:.0f}" for row in plot_costs.figures(RESULTS)["decode"] for rate in row[1:]}
    known |= {f"{float(number):.0f}" for number in known if re.fullmatch(r"\d+\.\d+", number)}
    missing = [rate for rate in rates if digits(rate) not in known]
    assert len(rates) > 10
    assert not missing
