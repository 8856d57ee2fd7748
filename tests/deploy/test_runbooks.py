"""Every alert has a section in docs/operations.md that says what to do, and every such section an alert."""

import re

import yaml

from helm import ROOT


def test_every_alert_has_its_section():
    alerts = {}
    for file in (ROOT / "deploy" / "prometheus").glob("*.yaml"):
        for group in yaml.safe_load(file.read_text())["groups"]:
            alerts |= {rule["alert"]: rule for rule in group["rules"] if "alert" in rule}
    assert len(alerts) >= 10
    page = (ROOT / "docs" / "operations.md").read_text().partition("\n## Alerts\n")[2]
    sections = dict(re.findall(r"^### (\w+)\n\n(.+)$", page, re.M))
    assert sections.keys() == alerts.keys()
    for name, rule in alerts.items():
        assert rule["annotations"]["runbook_url"].endswith(f"docs/operations.md#{name.lower()}")


def test_sections_name_metrics_and_rules_that_exist():
    page = (ROOT / "docs" / "operations.md").read_text()
    known = (ROOT / "docs" / "metrics.md").read_text() + "".join(
        file.read_text() for file in (ROOT / "deploy" / "prometheus").glob("*.yaml"))
    named = set(re.findall(r"`(reprise[_:][\w:]+)`", page))
    assert len(named) > 8
    for name in named:
        assert re.search(rf"\b{re.escape(name)}\b", known), name


def test_flags_of_the_page_exist():
    page = (ROOT / "docs" / "operations.md").read_text()
    documented = (ROOT / "docs" / "configuration.md").read_text()
    flags = set(re.findall(r"`--([a-z-]+)[ :`]", page))
    assert len(flags) > 8
    for flag in flags:
        assert f"| `--{flag}` |" in documented, flag
