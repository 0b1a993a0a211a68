"""Rows of `benchmarks.decoding` that need text: awaited calls and search over steps, both on the
bundled model.

Knows the chat and the bundled model's lists. Refuses to know how rows are timed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import cache
from itertools import count
from random import Random
from typing import Any

import tta
from tta.decoding import HFModel, load
from tta.micro.corpus_words import words
from tta.testing import HashEmbedder
from tta.types import Message, Prompt, Steps

Against = Callable[[Callable[[], object], Callable[[], object]], dict[str, float]]
SHOWN = ("red lamp, old cup, blue door", "tin box, map")
LISTS = 24
MOST = 64
"""Samples of best-of-N, at most."""
TOKENS = 48
RANDOM_SEED = 3


@cache
def chat() -> tta.Adapted:
    return tta.wrap(*tta.bundled(), embedder=HashEmbedder())


def acall8(against: Against) -> dict[str, float]:
    """Eight calls awaited at once against one after the other; all prompts are new."""
    rng, users = Random(RANDOM_SEED), count()
    asked = [f"Repeat: {words(rng, 4, 8)}" for _ in range(8)]

    def base() -> None:
        for prompt in asked:
            chat()(prompt, user=f"user {next(users)}")

    async def all_at_once() -> None:
        calls = (chat().acall(prompt, user=f"user {next(users)}") for prompt in asked)
        await asyncio.gather(*calls)

    def ours() -> None:
        asyncio.run(all_at_once())

    ours()
    return against(base, ours)


def steps() -> dict[str, float]:
    """Lists to be written item by item: tokens drawn to a right one by a verifier of lines, against
    samples that are verified when they are whole, as many (up to `MOST`) as are right as often."""
    model, rng = load(*tta.bundled()), Random(RANDOM_SEED)
    tasks = [[words(rng, 1, 2) for _ in range(rng.randint(3, 5))] for _ in range(LISTS)]
    found = [_searched(model, items) for items in tasks]
    sampled = [_sampled(model, items) for items in tasks]
    right = sum(ok for ok, _ in found)
    n = next((n for n in range(1, MOST) if _right(sampled, n) >= right), MOST)
    drawn = sum(tokens for _, tokens in found)
    return {
        "ratio": sum(_drawn(lengths, first, n) for lengths, first in sampled) / drawn,
        "right": right / LISTS,
        "baseline_right": _right(sampled, n) / LISTS,
        "baseline_n": n,
        "tokens": drawn / LISTS,
    }


def remembered() -> dict[str, float]:
    """Lists that share their items, each corrected where it is wrong: how many are right at once
    with memory as the judge of lines, against four samples by majority."""
    ours, base = _taught(verify_step=Steps(), n=1), _taught(n=4)
    return {
        "ratio": ours[0] / max(1, base[0]),
        "right": ours[0] / LISTS,
        "baseline_right": base[0] / LISTS,
        "tokens": ours[1] / LISTS,
        "baseline_tokens": base[1] / LISTS,
    }


def _taught(**how: Any) -> tuple[int, int]:  # noqa: ANN401 - options of a call
    """How many were right, and the tokens drawn."""
    rng, right, drawn = Random(RANDOM_SEED), 0, 0
    known = [words(rng, 1, 2) for _ in range(10)]
    with tta.wrap(*tta.bundled(), embedder=HashEmbedder()) as taught:
        for seed in range(LISTS):
            items = rng.sample(known, rng.randint(3, 5))
            reply = taught(f"List: {', '.join(items)}", seed=seed, max_new_tokens=TOKENS, **how)
            drawn += reply.cost.drawn
            right += reply.text == _listed(items)
            reply.correct(_listed(items))
    return right, drawn


def _prompt(model: HFModel, items: Sequence[str]) -> Prompt:
    turns = [
        Message(role=role, content=text)
        for shown in SHOWN
        for role, text in (("user", f"List: {shown}"), ("assistant", _listed(shown.split(", "))))
    ]
    return model.render([*turns, Message(role="user", content=f"List: {', '.join(items)}")])


def _listed(items: Sequence[str]) -> str:
    return "\n".join(f"- {item}" for item in items)


def _searched(model: HFModel, items: Sequence[str]) -> tuple[bool, int]:
    """Whether it was found, and the tokens drawn."""

    def check(lines: Sequence[str]) -> bool:
        return list(lines) == [f"- {item}" for item in items][: len(lines)]

    (best,), cost, _ = model.search(
        _prompt(model, items),
        Steps(check),
        lambda lines: float(check(lines)),
        n=1,
        max_new_tokens=TOKENS,
        seed=RANDOM_SEED,
    )
    return best.text == _listed(items), cost.drawn


def _sampled(model: HFModel, items: Sequence[str]) -> tuple[list[int], int]:
    """How long each sample is, and which is the first that is right."""
    prompt = _prompt(model, items)
    drawn, _ = model.draw(prompt, n=MOST, max_new_tokens=TOKENS, seed=RANDOM_SEED)
    right = (i for i, c in enumerate(drawn) if c.text == _listed(items))
    return [len(c.token_ids) for c in drawn], next(right, MOST)


def _right(sampled: Sequence[tuple[list[int], int]], n: int) -> int:
    return sum(first < n for _, first in sampled)


def _drawn(lengths: Sequence[int], first: int, n: int) -> int:
    """Tokens of `n` samples, of which none is drawn after one that is right."""
    return sum(lengths[: min(first + 1, n)])
