"""The programs of clients/python/examples against a real server."""

import os
import re
import subprocess
import sys

import pytest
from server_process import ROOT

EXAMPLES = ROOT / "clients" / "python" / "examples"


@pytest.fixture
def example(shared_server):

    def run(name, *arguments, stdin=""):
        done = subprocess.run([sys.executable, str(EXAMPLES / name), *map(str, arguments)],
                              input=stdin, text=True, capture_output=True, timeout=120,
                              env={**os.environ, "REPRISE_SERVER": shared_server.address,
                                   "PYTHONPATH": str(ROOT / "clients" / "python" / "src")})
        assert done.returncode == 0, done.stderr
        return done.stdout, done.stderr

    return run


def tokens_after(err):
    return [int(count) for count in re.findall(r"\((\d+) tokens in", err)]


def test_chat(example, client):
    out, err = example("chat.py", "--session", "py-chat", "--max-tokens", 12,
                       stdin="Good evening\nWhere are you going?\n/undo\nGood night\n/quit\nnever\n")
    assert "(taken back)" in out and '"' not in out
    first, second, third = tokens_after(err)
    assert first < second and first < third
    assert client.get_session("py-chat").token_count == third
    out, err = example("chat.py", "--session", "py-chat", stdin="/undo\nAnd?\n")  # the next day
    assert "nothing to take back" in out and tokens_after(err)[0] > third


def test_tree_search(example, client):
    before = {session.name for session in client.list_sessions()}
    arguments = ["--depth", 2, "--branches", 3, "--tokens", 6]
    out, _ = example("tree_search.py", *arguments)
    assert re.search(r"^depth 1: 3 branches.*\ndepth 2: 6 branches", out, re.M)
    prompt_tokens = len(client.tokenize("The old man looked at the sea and said that")) + 1
    assert f"{prompt_tokens + 12} tokens, {prompt_tokens} of them" in out
    assert example("tree_search.py", *arguments)[0] == out
    # A worthy branch beats a likely one.
    likely = out.splitlines()[2:]
    wanted, _ = example("tree_search.py", "--word", "the", *arguments)
    assert " the" in wanted.splitlines()[2] or wanted.splitlines()[2:] == likely
    assert {session.name for session in client.list_sessions()} == before


def test_long_document(example, tmp_path):
    book = tmp_path / "book.txt"
    book.write_text("He walked over the hill, and saw nobody there. " * 40)
    arguments = [book, "--session", "py-book", "--chunk-tokens", 100, "--ask", "The moral is"]
    first, err = example("long_document.py", *arguments, "--progress", "tqdm")
    count = int(re.search(r"^(\d+) tokens read: \1 now, 0 before", first, re.M).group(1))
    assert count > 400 and "100%" in err
    second, _ = example("long_document.py", *arguments)
    assert f"{count} tokens read: 0 now, {count} before" in second
    assert second.splitlines()[1:] == first.splitlines()[1:] and "The moral is" in second
