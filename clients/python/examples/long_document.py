#!/usr/bin/env python3
"""Reads a long document once, and answers any number of times.

    long_document.py FILE --session book --ask "The moral is" --ask "His name was"

The document is fed in chunks, each of which is committed. Interrupt the program, or the server, and run
it again: it goes on where it was. A second run finds the document read. Each question goes to a fork, so
that the session stays at the document's end.
"""

import argparse
import pathlib

from reprise_client import Client, Session


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=pathlib.Path)
    parser.add_argument("--server", default="", help="host:port (default: REPRISE_SERVER)")
    parser.add_argument("--session", required=True)
    parser.add_argument("--ask", action="append", default=[])
    parser.add_argument("--chunk-tokens", type=int, default=1024)
    parser.add_argument("--progress", choices=["tqdm", "rich"], default=None)
    arguments = parser.parse_args()

    def answer(fork: Session, question: str) -> str:
        return fork.generate(f"\n{question}", max_tokens=24).result().text

    with Client(arguments.server) as client, client.session(arguments.session) as document:
        fed = document.feed(arguments.file.read_text(encoding="utf-8"),
                            chunk_tokens=arguments.chunk_tokens, durability="sync",
                            progress=arguments.progress)
        print(f"{fed.token_count} tokens read: {fed.computed} now, {fed.skipped} before; "
              f"the state has {document.get().state_bytes} bytes")
        for question, text in zip(arguments.ask, document.map_forks(answer, arguments.ask)):
            print(f"{question}{text}")


if __name__ == "__main__":
    main()
