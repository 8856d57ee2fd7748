#!/usr/bin/env python3
"""The small parts of tools/quickstart.sh that read JSON. Standard library only.

    demo.py stream FILE         JSON events on stdin: show the text as it comes, keep ids in FILE
    demo.py same A B WHOLE      check that A's ids followed by B's are WHOLE's
    demo.py get FILE KEY        one value of a file's JSON, KEY like commit.token_count
    demo.py story N             N sentences of text
    demo.py table SHORT LONG    the measurements that two folders hold
"""

import json
import pathlib
import sys


def stream(path):
    """Keeps {"ids": [...], "finished": {...}}."""
    ids, finished = [], None
    for line in sys.stdin:
        event = json.loads(line)
        print(event["text"], end="", flush=True)
        if event["event"] == "tokens":
            ids.extend(event["ids"])
        else:
            finished = event
    print(flush=True)
    if finished is None:
        sys.exit("the answer ended before it was finished")
    pathlib.Path(path).write_text(json.dumps({"ids": ids, "finished": finished}))


def load(path):
    return json.loads(pathlib.Path(path).read_text())


def same(first, second, whole):
    joined, expected = load(first)["ids"] + load(second)["ids"], load(whole)["ids"]
    for i, (a, b) in enumerate(zip(joined, expected)):
        if a != b:
            sys.exit(f"token {i} differs: {a} after the crash, {b} without it")
    if len(joined) != len(expected):
        sys.exit(f"{len(joined)} tokens with the crash, {len(expected)} without it")
    print(f"    all {len(expected)} tokens are equal")


def get(path, key):
    value = load(path)
    for part in key.split("."):
        value = value[part]
    print(value)


def story(count):
    places = ["the harbour", "the mill", "the old bridge", "the market", "the church", "the wood"]
    acts = ["met a sailor", "lost his way", "found a letter", "heard a bell", "bought some bread"]
    for day in range(1, count + 1):
        print(f"On day {day} he went to {places[day % 6]} and {acts[day % 5]}, and wrote it down.")


def table(short, long):
    folders = [pathlib.Path(short), pathlib.Path(long)]

    def row(name, value):
        print(f"    {name:<36}" + "".join(f"{value(folder):>16}" for folder in folders))

    def seconds(value):
        return f"{value * 1e3:.2f} ms" if value < 1 else f"{value:.2f} s"

    def turn(folder):
        return load(folder / "resumed.json")["finished"]

    def speed(folder):
        finished = turn(folder)
        # The first token comes out of the prefill.
        count = finished["usage"]["completion_tokens"] - 1
        return f"{count / finished['timeline']['decode_seconds']:.1f}"

    row("tokens in the session", lambda f: load(f / "snapshot.json")["token_count"])
    row("bytes of its state", lambda f: f"{load(f / 'snapshot.json')['state_bytes']:,}")
    row("snapshot (call)", lambda f: seconds(load(f / "snapshot.json")["call_seconds"]))
    row("fork (call)", lambda f: seconds(load(f / "fork.json")["call_seconds"]))
    row("resume after the kill (state read)",
        lambda f: seconds(turn(f)["timeline"]["restore_seconds"]))
    row("resume (call to first token)", lambda f: seconds(turn(f)["first_token_seconds"]))
    row("generation (tokens/s)", speed)


COMMANDS = {"stream": (stream, 1), "same": (same, 3), "get": (get, 2), "table": (table, 2),
            "story": (lambda count: story(int(count)), 1)}


def main(arguments):
    command, count = COMMANDS.get(arguments[0] if arguments else "", (None, 0))
    if command is None or len(arguments) != count + 1:
        sys.exit(__doc__)
    command(*arguments[1:])


if __name__ == "__main__":
    main(sys.argv[1:])
