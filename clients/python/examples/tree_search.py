#!/usr/bin/env python3
"""Tree search with forks: several continuations are tried from each of the best states so far.

A fork copies no state and feeds no prompt again, so the price of a branch is its own tokens. What a
branch is worth is here its mean log-probability, plus a bonus for a word that the story should have;
an agent would run its tests or ask a judge instead.
"""

import argparse
import dataclasses

from reprise_client import Client, Session


@dataclasses.dataclass
class Branch:
    session: Session
    text: str
    worth: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server", default="", help="host:port (default: REPRISE_SERVER)")
    parser.add_argument("--prompt", default="The old man looked at the sea and said that")
    parser.add_argument("--word", default="ship")
    parser.add_argument("--depth", type=int, default=3)
    parser.add_argument("--width", type=int, default=2, help="states that are kept at each depth")
    parser.add_argument("--branches", type=int, default=4, help="tried from each of them")
    parser.add_argument("--tokens", type=int, default=16, help="of a branch")
    arguments = parser.parse_args()

    def grow(fork: Session, job: "tuple[Branch, int]") -> Branch:
        parent, seed = job
        result = fork.generate(max_tokens=arguments.tokens, temperature=1.0, seed=seed,
                               ignore_eos=True, logprobs=True).result()
        likelihood = sum(token.logprob for token in result.logprobs) / len(result.logprobs)
        text = parent.text + result.text
        fork.keep = True  # until the best have been chosen
        return Branch(fork, text, likelihood + (2.0 if arguments.word in text else 0.0))

    with Client(arguments.server) as client, client.session() as root:
        fed = root.generate(arguments.prompt, max_tokens=0).result().finished
        best = [Branch(root, "", 0.0)]
        for depth in range(arguments.depth):
            grown = []
            for number, parent in enumerate(best):
                seeds = [1000 * depth + 100 * number + i for i in range(arguments.branches)]
                grown += parent.session.map_forks(grow, [(parent, seed) for seed in seeds])
            grown.sort(key=lambda branch: branch.worth, reverse=True)
            for branch in [b for b in best if b.session is not root] + grown[arguments.width:]:
                branch.session.delete()
            best = grown[:arguments.width]
            print(f"depth {depth + 1}: {len(grown)} branches, best {best[0].worth:.3f}")
        winner = best[0]
        print(arguments.prompt + winner.text)
        print(f"{winner.session.get().token_count} tokens, {fed.usage.prompt_tokens} of them the "
              f"prompt, which was computed once")
        for branch in best:
            branch.session.delete()


if __name__ == "__main__":
    main()
