"""docs/api-reference.md says what the protos say."""

import re
import subprocess
import sys

from page_run import ROOT

PAGE = (ROOT / "docs" / "api-reference.md").read_text()


def test_the_page_is_current():
    done = subprocess.run([sys.executable, str(ROOT / "tools" / "make_api_reference.py"), "--check"],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_name_of_the_protos_is_there():
    for path in (ROOT / "proto" / "reprise" / "v1").glob("*.proto"):
        text = re.sub(r"//.*", "", path.read_text())
        for kind, name in re.findall(r"\b(service|message|enum|rpc) (\w+)", text):
            assert (f"| `{name}` |" if kind == "rpc" else f"### {name}\n") in PAGE, name
        for name in re.findall(r"^\s+(?:(?:repeated|optional) )?[\w.<>, ]+ (\w+) = \d+;", text, re.M):
            assert f"| `{name}` |" in PAGE, name


def test_links_lead_somewhere():
    headings = {line[4:].lower() for line in PAGE.splitlines() if line.startswith("### ")}
    assert set(re.findall(r"\]\(#([\w-]+)\)", PAGE)) <= headings
