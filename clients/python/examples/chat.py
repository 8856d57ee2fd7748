#!/usr/bin/env python3
"""A chat that survives everything: the conversation is a session on the server.

    chat.py --session fireside          type; the same session goes on tomorrow
    /undo takes back the last exchange, /quit ends (or the end of input)
"""

import argparse
import sys

from reprise_client import Client


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server", default="", help="host:port (default: REPRISE_SERVER)")
    parser.add_argument("--session", default="", help="its name; without one it is forgotten")
    parser.add_argument("--max-tokens", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()

    with Client(arguments.server) as client, client.session(arguments.session) as session:
        before = []  # a snapshot per exchange, for /undo
        for line in sys.stdin:
            line = line.strip()
            if line == "/quit":
                break
            if line == "/undo":
                if before:
                    session.rewind(before.pop())
                    print("(taken back)")
                else:
                    print("(nothing to take back)")
                continue
            begun = session.get().token_count > 0
            if begun:
                before.append(session.snapshot())
            # A base model continues a dialogue; the next speaker's name ends the answer.
            prompt = f'{chr(10) if begun else ""}"{line}" said the visitor.\n"'
            answer = session.generate(prompt, stop=['"'], max_tokens=arguments.max_tokens,
                                      temperature=0.7, seed=arguments.seed, resumable=True)
            for text in answer.texts():
                print(text, end="", flush=True)
            print(f"\n({session.get().token_count} tokens in {session.name})", file=sys.stderr)


if __name__ == "__main__":
    main()
