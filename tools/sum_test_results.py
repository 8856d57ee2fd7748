#!/usr/bin/env python3
"""Adds up the XML results of all test runners and prints "N passed, M failed".

Usage: sum_test_results.py RESULTS_DIR BUILD_DIR

A C++ test binary that ended without writing its results (a crash, a time-out) counts as one failure. Exits
with 1 when anything failed or nothing ran.
"""
import json
import pathlib
import subprocess
import sys
import xml.etree.ElementTree as ET


def count(path):
    """(passed, failed, skipped) of one JUnit-like file."""
    passed = failed = skipped = 0
    for case in ET.parse(path).getroot().iter("testcase"):
        if case.find("failure") is not None or case.find("error") is not None:
            failed += 1
            print(f"FAILED {case.get('classname')}.{case.get('name')}")
        elif case.find("skipped") is not None or case.get("result") == "skipped":
            skipped += 1
        else:
            passed += 1
    return passed, failed, skipped


def main():
    results, build = map(pathlib.Path, sys.argv[1:3])
    listing = subprocess.run(["ctest", "--test-dir", str(build), "--show-only=json-v1"],
                             capture_output=True, text=True, check=True)
    disabled = {"name": "DISABLED", "value": True}
    expected = {test["name"] for test in json.loads(listing.stdout)["tests"]
                if disabled not in test.get("properties", [])}
    passed = failed = skipped = 0
    for name in sorted(expected - {path.stem for path in results.glob("*.xml")}):
        print(f"FAILED {name}: ended without results")
        failed += 1
    for path in sorted(results.glob("*.xml")):
        totals = count(path)
        passed, failed, skipped = (a + b for a, b in zip((passed, failed, skipped), totals))
    print(f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""))
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
