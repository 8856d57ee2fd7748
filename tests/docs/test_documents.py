"""Every command in README.md and in the pages under docs/, clients/ and deploy/ does what the page says."""

import pytest

import document
import page_run
from page_run import ROOT

PAGES = sorted(str(page.relative_to(ROOT)) for page in
               [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "clients").rglob("*.md"),
                *(ROOT / "deploy").rglob("*.md")])


@pytest.mark.parametrize("page", PAGES)
def test_commands_of_the_page(page, tmp_path):
    commands = document.commands((ROOT / page).read_text())
    if not commands:
        return  # read without an error: there are none that anybody forgot to mark
    faults = [outcome.fault for outcome in page_run.run(commands, tmp_path / "page") if outcome.fault]
    assert not faults, f"{page}: " + "\n\n".join(faults)
