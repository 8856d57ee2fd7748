"""The runner itself: a page that lies must be found out."""

import pathlib
import time

import pytest

from document import Command, PageError, commands, output_matches
from page_run import run


def faults(markdown, folder, **options):
    return [outcome.fault for outcome in run(commands(markdown), folder / "page", **options) if outcome.fault]


def alive(pid):
    """Whether it runs: a process that nobody has collected yet does not."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_what_is_run_and_what_is_not():
    page = """
<!-- run:
serve
-->

```sh
one
two
```

<!-- not run: takes
an hour -->
```sh
never
```

- a list

  ```console
  $ three \\
  > four
  output

  $ five
  ```

```python
six
```

```json
{"tools/no.sh": "a"}
```
"""
    assert [(c.language, c.text, c.expected) for c in commands(page)] == [
        ("sh", "serve\n", None), ("sh", "one\ntwo\n", None), ("sh", "three \\\nfour", "output"),
        ("sh", "five", None), ("python", "six\n", None)]
    assert [c.line for c in commands(page)] == [2, 7, 20, 24, 28]


@pytest.mark.parametrize("page, complaint", [
    ("    reprise sessions list\n", "a command in a block of no language"),
    ("```\n$ anything\n```\n", "a command in a block of no language"),
    ("```bash\nls\n```\n", "sh or console"),
    ("```console\noutput only\n```\n", "begins with a command"),
    ("<!-- not run -->\n```sh\nls\n```\n", "allowed: <!-- not run: WHY -->"),
    ("<!-- not run: why -->\nwords\n\n```sh\nls\n```\n", "no block follows"),
    ("<!-- not run: why -->\n```json\n{}\n```\n", "no block that would be run follows"),
])
def test_pages_that_hide_commands_are_refused(page, complaint):
    with pytest.raises(PageError, match=complaint):
        commands(page)


@pytest.mark.parametrize("expected, actual, matches", [
    ("a b", "a b\n", True),
    ("a b", "a  b\n", False),
    ("a b", "a b\nc\n", False),
    ("a ... c", "a b c\n", True),
    ("a ... c", "a b\nc\n", False),
    ("a\n...\nc", "a\nb\nb\nc\n", True),
    ("a\n...\nc", "a\nc\n", True),
    ("a\n...\nc", "a\nb\n", False),
    ("(exit 5)", "exit 5\n", False),
])
def test_output_matches(expected, actual, matches):
    assert output_matches(expected, actual) == matches


def test_one_shell_runs_the_whole_page(tmp_path):
    assert faults("```sh\nx=5\ncd docs\n```\n\n```console\n$ echo $x; basename $PWD\n5\ndocs\n```\n", tmp_path) == []


@pytest.mark.parametrize("page, complaint", [
    ("```sh\ntrue\nfalse\ntrue\n```\n", "failed with 1"),
    ("```sh\nfalse | true\n```\n", "failed with 1"),
    ("```sh\nif\n```\n", "failed with 2"),
    ("```console\n$ echo one\ntwo\n```\n", "two\n--- but was:\none"),
    ("```python\nraise SystemExit(3)\n```\n", "failed with 3"),
    ("```sh\nexit 0\n```\n", "did not end"),
])
def test_a_page_that_is_wrong_is_found_out(page, complaint, tmp_path):
    [fault] = faults(page, tmp_path)
    assert complaint in fault


def test_a_fault_does_not_hide_the_next(tmp_path):
    assert len(faults("```sh\nfalse\n```\n\n```sh\ntrue\n```\n\n```sh\nfalse\n```\n", tmp_path)) == 2


def test_a_command_that_hangs_is_ended(tmp_path):
    [fault] = faults("```sh\necho begun\nsleep 1000\n```\n", tmp_path, timeout=1)
    assert "did not end" in fault and "begun" in fault


def test_ports_are_free_ones_and_look_like_the_pages(tmp_path):
    page = Command(1, "sh", "echo 127.0.0.1:7420 redis://127.0.0.1:6379 --port 6379; echo $REPRISE_SERVER >real")
    [outcome] = run([page], tmp_path / "page")
    assert outcome.output == "127.0.0.1:7420 redis://127.0.0.1:6379 --port 6379\n"
    assert (tmp_path / "page" / "real").read_text() != "127.0.0.1:7420\n"


def test_what_a_page_leaves_running_ends(tmp_path):
    [outcome] = run([Command(1, "sh", "sleep 1000 & echo $! >pid")], tmp_path / "page")
    assert outcome.fault is None
    pid = int((tmp_path / "page" / "pid").read_text())
    give_up = time.monotonic() + 30
    while alive(pid):
        assert time.monotonic() < give_up
        time.sleep(0.01)
