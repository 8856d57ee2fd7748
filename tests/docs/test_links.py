"""Links between the pages lead to files that are there."""

import re

import pytest
from page_run import ROOT
from test_documents import PAGES

LINK = re.compile(r"\]\(([^)\s]+)\)")


@pytest.mark.parametrize("page", PAGES)
def test_links_of_the_page(page):
    text = re.sub(r"```.*?```|`[^`]*`", "", (ROOT / page).read_text(), flags=re.S)
    missing = [target for target in LINK.findall(text)
               if not re.match(r"[a-z]+:|#", target)
               and not ((ROOT / page).parent / target.split("#")[0]).exists()]
    assert not missing, f"{page}: {missing}"
