"""The table of faults in docs/durability.md names tests that exist."""

import re

from page_run import ROOT

TABLE = (ROOT / "docs/durability.md").read_text().split("## Faults, one by one")[1].split("\n## ")[0]
ROWS = [line for line in TABLE.splitlines() if line.startswith("| ") and not line.startswith("| ---")]
NAMED = "\n".join(row.rstrip(" |").split(" | ")[-1] for row in ROWS)


def test_rows_name_tests_that_exist():
    sources = [path.read_text() for folder in ("tests", "state_store/testing") for path in (ROOT / folder).rglob("*.cc")]
    tests = set()
    for text in sources:
        tests |= set(re.findall(r"TEST(?:_P|_F)?\(\s*(\w+),\s*(\w+)\)", text))
    named = re.findall(r"`(\w+)\.(\w+)`", NAMED)
    assert len(named) > 60
    assert [name for name in named if name not in tests] == []
    files = re.findall(r"`(test_\w+\.py)::(\w+)`", NAMED)
    assert len(files) > 5
    assert [name for name in files
            if f"def {name[1]}(" not in (ROOT / "tests/e2e" / name[0]).read_text()] == []


def test_only_what_is_said_to_have_no_test_has_none():
    bare = [row for row in ROWS[1:] if "`" not in row.rstrip(" |").split(" | ")[-1]]
    assert len(bare) == 2
    assert all("there is no" in row for row in bare)
