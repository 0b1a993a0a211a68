"""Best-of-N on the bundled model's held-out arithmetic: what samples buy, and how few will do.

    python -m benchmarks.best_of_n [--n 300] [--taught 200] [--family arithmetic] [--json OUT]

Every question is of the share that training never sees; all methods answer the same ones through
`tta.wrap`. Knows the corpus and the public surface. Refuses to know how drawing is stopped.

`history` is a chat that was told of other questions before (`good`, `correct`) and is not told
anything while it is measured. Nothing is recalled into prompts (`budget=0`), so that only how much
is drawn differs. Intervals are 95 %: of shares by Wilson, of means and paired differences normal.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from random import Random
from statistics import fmean, stdev
from typing import Any

import tta
from tta.cli_common import quiet_libraries, say
from tta.micro.corpus import FAMILIES, ask
from tta.micro.corpus_episode import Turn
from tta.protocols import Embedder
from tta.retrieval import default_embedder

SAMPLES = 16
TASK = "arithmetic"
_95 = 1.96

Asked = Callable[[tta.Adapted, Turn], tta.Response]
Answered = Callable[[tta.Response], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer: whether it was right, and what it took."""

    right: bool
    samples: int
    tokens: int
    passes: int
    ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """How a question is asked, and which of the reply's answers counts."""

    ask: Asked
    taught: bool = False
    counts: Answered = str


def asked(**options: Any) -> Asked:  # noqa: ANN401 - of a call
    return lambda chat, turn: chat(turn.user, task=TASK, output=int, max_new_tokens=12, **options)


def verified(**options: Any) -> Asked:  # noqa: ANN401 - of a call
    def ask_it(chat: tta.Adapted, turn: Turn) -> tta.Response:
        return asked(verify=lambda value: str(value) == turn.answer, **options)(chat, turn)

    return ask_it


def majority(reply: tta.Response) -> str:
    """The answer of most samples, the earlier of equals: what best-of-N is without tta."""
    return Counter(s for s in reply.why.samples if s is not None).most_common(1)[0][0]


METHODS: Mapping[str, Method] = {
    "greedy": Method(ask=asked(n=1)),
    "16, majority": Method(ask=asked(n=SAMPLES), counts=majority),
    "16, tta": Method(ask=asked(n=SAMPLES)),
    "up to 16": Method(ask=asked(n=tta.UpTo(SAMPLES))),
    "default": Method(ask=asked()),
    "default, history": Method(ask=asked(), taught=True),
    "16, verifier": Method(ask=verified(n=SAMPLES)),
    "default, verifier": Method(ask=verified()),
    "default, verifier, history": Method(ask=verified(), taught=True),
}


def questions(family: str, count: int, seed: str) -> list[Turn]:
    rng = Random(f"best of n/{family}/{seed}")
    found: dict[str, Turn] = {}
    while len(found) < count:
        turn = ask(rng, FAMILIES[family], 0).last
        found[turn.user] = turn
    return list(found.values())


def teach(chat: tta.Adapted, turns: Sequence[Turn]) -> None:
    for turn in turns:
        reply = asked()(chat, turn)
        reply.good() if reply.text == turn.answer else reply.correct(turn.answer)


def play(method: Method, chat: tta.Adapted, turns: Sequence[Turn]) -> list[Answer]:
    found = []
    for turn in turns:
        reply = method.ask(chat, turn)
        samples = len(reply.why.samples)
        right = method.counts(reply) == turn.answer
        cost = reply.cost
        found.append(
            Answer(
                right=right,
                samples=samples,
                tokens=cost.drawn,
                passes=cost.passes,
                ms=cost.ms,
            )
        )
    return found


def measure(model: Any, embedder: Embedder, args: argparse.Namespace) -> dict[str, list[Answer]]:  # noqa: ANN401 - a pair
    """All methods over the same questions, each in a chat of its own."""
    turns = questions(args.family, args.n, "asked")
    known = {turn.user for turn in turns}
    told = [t for t in questions(args.family, args.taught, "told") if t.user not in known]
    found = {}
    for name, method in METHODS.items():
        with tta.wrap(*model, embedder=embedder, budget=0) as chat:
            if method.taught:
                teach(chat, told)
            found[name] = play(method, chat, turns)
    return found


def figures(found: Mapping[str, Sequence[Answer]]) -> dict[str, dict[str, Any]]:
    greedy = [a.right for a in found["greedy"]]
    rows = {}
    for name, answers in found.items():
        right = [a.right for a in answers]
        gains = [float(a) - float(b) for a, b in zip(right, greedy, strict=True)]
        rows[name] = {
            "accuracy": fmean(right),
            "interval": wilson(sum(right), len(right)),
            "above_greedy": interval(gains),
            "samples": interval([a.samples for a in answers]),
            "tokens": fmean(a.tokens for a in answers),
            "passes": fmean(a.passes for a in answers),
            "ms": fmean(a.ms for a in answers),
        }
    return rows


def wilson(right: int, count: int) -> tuple[float, float]:
    share, square = right / count, _95**2
    middle = (share + square / (2 * count)) / (1 + square / count)
    half = share * (1 - share) / count + square / (4 * count**2)
    half = _95 * sqrt(half) / (1 + square / count)
    return middle - half, middle + half


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean, and the ends of its interval."""
    mean, half = fmean(values), _95 * stdev(values) / sqrt(len(values))
    return mean, mean - half, mean + half


def line(name: str, row: Mapping[str, Any]) -> str:
    low, high = row["interval"]
    gain, below, above = row["above_greedy"]
    return (
        f"{name:28s}{100 * row['accuracy']:6.1f} ({100 * low:.1f} to {100 * high:.1f})"
        f"{100 * gain:+7.1f} ({100 * below:+.1f} to {100 * above:+.1f})"
        f"{row['samples'][0]:7.2f} ({row['samples'][1]:.2f} to {row['samples'][2]:.2f})"
        f"{row['tokens']:7.1f}{row['passes']:7.1f}{row['ms']:7.0f}"
    )


def goals(rows: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Tokens drawn by a method to those of another that is to be matched: at most so much. Samples
    that were begun with a wave and then not needed count, as far as they came."""
    wanted = (
        ("majority", "default", "16, majority", 0.4),
        ("verifier", "default, verifier", "16, verifier", 0.4),
        ("history", "default, history", "default", 1.0),
    )
    return [
        {
            "id": name,
            "ratio": rows[few]["tokens"] / rows[many]["tokens"],
            "goal": goal,
            "baseline": many,
            "accuracy_lost": rows[many]["accuracy"] - rows[few]["accuracy"],
        }
        for name, few, many, goal in wanted
    ]


def main(argv: Sequence[str] | None = None, *, embedder: Embedder | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--n", type=int, default=300, help="questions (%(default)s)")
    parser.add_argument("--taught", type=int, default=200, help="told before (%(default)s)")
    parser.add_argument("--family", choices=("arithmetic", "sums"), default="arithmetic")
    parser.add_argument("--json", type=Path, dest="out")
    args = parser.parse_args(argv)
    quiet_libraries()
    rows = figures(measure(tta.bundled(), embedder or default_embedder(), args))
    say(f"{'':28s}right %, above greedy, samples, tokens, passes, ms")
    for name, row in rows.items():
        say(line(name, row))
    for goal in goals(rows):
        say(
            f"{goal['id']}: {goal['ratio']:.2f} of the tokens of {goal['baseline']!r} (goal"
            f" {goal['goal']:.2f}), {100 * goal['accuracy_lost']:+.1f} points lost"
        )
    if args.out:
        found = {"n": args.n, "taught": args.taught, "methods": rows, "rows": goals(rows)}
        args.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
