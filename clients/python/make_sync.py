#!/usr/bin/env python3
"""Makes the blocking client (reprise_client/_sync) from the one for asyncio (_async).

    make_sync.py            write the files
    make_sync.py --check    only say whether they are what they should be
"""

import argparse
import pathlib
import re
import sys

PACKAGE = pathlib.Path(__file__).resolve().parent / "src" / "reprise_client"
FILES = ["connection.py", "tries.py", "generation.py", "choices.py", "session.py", "feeding.py", "client.py"]

REPLACEMENTS = [
    (r"\basync (def|with|for)\b", r"\1"),
    (r"\bawait ", ""),
    (r"\bAwaitable\[(\w+)\]", r"\1"),
    (r"\bAwaitable, ", ""),
    (r"\bAsync(Choices|Client|Session|Generation|Connection|Iterator|Tries)\b", r"\1"),
    (r"\b__a(enter|exit|iter)__", r"__\1__"),
    (r"\basynccontextmanager\b", "contextmanager"),
    (r"\b_async\b", "_sync"),
    (r"^import grpc\.aio\n", ""),
    (r"\bIterator, Iterator\b", "Iterator"),
]


def sync_text(name):
    text = (PACKAGE / "_async" / name).read_text()
    for pattern, replacement in REPLACEMENTS:
        text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    head = f"# Made from _async/{name} by make_sync.py: edit there.\n"
    return head + text


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = []
    for name in FILES:
        path = PACKAGE / "_sync" / name
        text = sync_text(name)
        if not path.exists() or path.read_text() != text:
            stale.append(name)
            if not check:
                path.write_text(text)
    if check and stale:
        sys.exit(f"_sync is not what make_sync.py makes: {', '.join(stale)}")


if __name__ == "__main__":
    main()
