"""What is shown of what was recalled, and how often the model alone is then right.

    python -m benchmarks.packing [--streams facts,nonce,formats] [--seeds 7,21] [--every 4]

A stream of open answers of which every right answer is remembered, as corrections would have it;
from step 20 on, every so many steps, the bundled model answers once for each way of packing, with
nothing else to decide: no votes, no mixture. Tokens are those of the material shown.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from benchmarks.bench import NEW_TOKENS
from benchmarks.streams import Drawn, Item, named
from tta.cli_common import quiet_libraries, say, table
from tta.decoding import HFModel, load
from tta.memory import Memory
from tta.micro import bundled
from tta.protocols import Embedder
from tta.retrieval import Packed, Recaller, default_embedder, pack
from tta.types import Event, EventKind, Message, Recall, Request, Task

STEPS, FIRST = 100, 20
Way = Callable[[Request, Recall, HFModel], Packed]


def within(budget: int) -> Way:
    """As tta packs."""
    return lambda request, recall, model: pack(request, recall, budget=budget, count=model)


def nearest(k: int, *, budget: int = 4096) -> Way:
    """The `k` nearest, however near: of equal scores, none is left out."""

    def way(request: Request, recall: Recall, model: HFModel) -> Packed:
        alike = tuple(case._replace(score=1.0) for case in recall.cases[:k])
        return pack(request, replace(recall, cases=alike), budget=budget, count=model)

    return way


WAYS: dict[str, Way] = {
    "tta, 512 tokens": within(512),
    "tta, 4,096 tokens": within(4096),
    "k = 1": nearest(1),
    "k = 2": nearest(2),
    "k = 4": nearest(4),
    "k = 16": nearest(16),
    "k = 16 in 512 tokens": nearest(16, budget=512),
}


@dataclass(slots=True)
class Found:
    """Sums over the answers of one way."""

    right: int = 0
    tokens: int = 0
    shown: int = 0


def measure(
    stream: str, *, seeds: Sequence[int], every: int, model: HFModel, embedder: Embedder
) -> tuple[int, dict[str, Found]]:
    """How many answers of each way there were, and what came of them."""
    found = {name: Found() for name in WAYS}
    asked = 0
    for seed in seeds:
        drawn = named(stream)(seed, STEPS)
        for request, recall, target in _recalled(drawn, every, embedder):
            asked += 1
            for name, way in WAYS.items():
                packed = way(request, recall, model)
                prompt = model.render(packed.messages)
                answers, _ = model.draw(prompt, n=1, max_new_tokens=NEW_TOKENS, seed=0)
                found[name].right += answers[0].text == target
                found[name].tokens += packed.tokens
                found[name].shown += len(packed.shown)
    return asked, found


def _recalled(
    drawn: Drawn, every: int, embedder: Embedder
) -> Iterator[tuple[Request, Recall, str]]:
    with Memory.open(None, embedder=embedder) as memory:
        recaller = Recaller(memory, embedder)
        for number, (item, target) in enumerate(
            zip(drawn.stream.items, drawn.targets, strict=True)
        ):
            if number >= FIRST and (number - FIRST) % every == 0:
                message = Message(role="user", content=item.text)
                request = Request(messages=(message,), user=item.user, task=item.task)
                yield request, recaller.recall(request, Task(name=item.task or "")), target
            _correct(memory, item, target, f"r{number}")


def _correct(memory: Memory, item: Item, target: str, name: str) -> None:
    body = {"request": item.text, "pattern": "", "answer": ""}
    about = Event(
        kind=EventKind.ANSWERED,
        user=item.user,
        task=item.task or "",
        response=name,
        id=name,
        body=body,
    )
    memory.record(about)
    told = {**body, "text": target}
    memory.learn(replace(about, kind=EventKind.CORRECTION, id=f"{name}+", body=told))


def main(argv: Sequence[str] | None = None) -> int:
    made = argparse.ArgumentParser(prog="tta-packing", description=(__doc__ or "").split("\n")[0])
    made.add_argument("--streams", default="facts,nonce,formats")
    made.add_argument("--seeds", default="7,21")
    made.add_argument("--every", type=int, default=4)
    args = made.parse_args(argv)
    quiet_libraries()
    model, embedder = load(*bundled()), default_embedder()
    for stream in args.streams.split(","):
        seeds = [int(seed) for seed in args.seeds.split(",")]
        asked, found = measure(
            stream, seeds=seeds, every=args.every, model=model, embedder=embedder
        )
        say(f"{stream}: {asked} answers of each")
        rows = [
            [
                name,
                *(f"{x:.1f}" for x in (100 * f.right / asked, f.tokens / asked, f.shown / asked)),
            ]
            for name, f in found.items()
        ]
        say(table(["", "right %", "tokens", "shown"], rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
