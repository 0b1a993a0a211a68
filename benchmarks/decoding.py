"""The decoding engine against what a user would otherwise call, side by side in one process.

    python -m benchmarks.decoding [ROW ...] [--repeats 2] [--json OUT] [--threads 1]

Each row runs the baseline and the engine in turns and takes the median of the CPU time of each
(wall-clock time is reported beside it); only ratios mean anything. The model has random weights
(Llama, 56 million parameters, 32,000 tokens) unless the row says otherwise; nothing is downloaded.
With `--device cuda` times are wall-clock and the model is in bfloat16; `--width` makes it larger.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks import constraints, serving
from tta.decoding import choices, engine, layers, sample, stop
from tta.decoding.cache import PrefixCache, prefill
from tta.decoding.engine import Fork, Prefix, Row, Rules
from tta.decoding.plan import plan
from tta.decoding.sample import Sampling

VOCABULARY = 32_000
QUESTIONS = 10_000
PLAIN = Sampling(top_p=1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Of one run."""

    repeats: int = 2
    device: str = "cpu"
    width: int = 512
    layers: int = 8


SETTINGS = Settings()


@cache
def model(vocabulary: int = VOCABULARY) -> Any:  # noqa: ANN401 - as users hold it
    torch.manual_seed(0)
    width = SETTINGS.width
    config = LlamaConfig(
        hidden_size=width,
        num_hidden_layers=SETTINGS.layers,
        num_attention_heads=width // 64,
        num_key_value_heads=width // 128,
        intermediate_size=width * 11 // 4,
        vocab_size=vocabulary,
        max_position_embeddings=8192,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        tie_word_embeddings=vocabulary != VOCABULARY,
    )
    made: Any = LlamaForCausalLM(config).eval()
    made.generation_config.eos_token_id = None
    if SETTINGS.device != "cpu":
        made.to(device=SETTINGS.device, dtype=torch.bfloat16)
    return made


def prompt(tokens: int, seed: int = 0) -> list[int]:
    return [int(i) for i in np.random.default_rng(seed).integers(3, 30_000, tokens)]


# ------------------------------------------------------------------------------------ timing


Timed = tuple[float, float]
"""Seconds of CPU time (on a GPU: wall-clock) and of wall-clock time."""


def timed(call: Callable[[], object]) -> Timed:
    cpu, wall = process_time(), perf_counter()
    call()
    if SETTINGS.device != "cpu":
        torch.cuda.synchronize()
        return perf_counter() - wall, perf_counter() - wall
    return process_time() - cpu, perf_counter() - wall


def against(
    base: Callable[[], object], ours: Callable[[], object], repeats: int | None = None
) -> dict[str, float]:
    """Baseline and ours in turns: medians and their ratios."""
    pairs = [(timed(base), timed(ours)) for _ in range(repeats or SETTINGS.repeats)]
    medians = [
        statistics.median(pair[side][clock] for pair in pairs)
        for side in (0, 1)
        for clock in (0, 1)
    ]
    return {
        "ratio": medians[0] / medians[2],
        "wall_ratio": medians[1] / medians[3],
        "baseline_s": medians[0],
        "ours_s": medians[2],
    }


def generate(ids: Sequence[int], n: int, tokens: int, **more: object) -> object:
    given = torch.tensor([list(ids)], device=SETTINGS.device)
    how: dict[str, Any] = {"do_sample": True, "top_k": 0, "num_return_sequences": n}
    how = {**how, "attention_mask": torch.ones_like(given), "max_new_tokens": tokens, **more}
    call: Any = model().generate
    return call(given, **how)


def rows_of(n: int, tokens: int, matchers: Sequence[Any] | None = None) -> list[Row]:
    held = matchers or [None] * n
    return [Row(uniforms=sample.uniforms(0, i, tokens), matcher=held[i]) for i in range(n)]


def drawn(ids: Sequence[int], n: int, tokens: int, how: Fork = Fork.SHARED) -> list[Row]:
    rows = rows_of(n, tokens)
    engine.draw(Prefix(model(), ids), rows, Rules(ends=(), limit=tokens, sampling=PLAIN), how)
    return rows


# -------------------------------------------------------------------------------------- rows


def prefill8() -> dict[str, float]:
    ids = prompt(1024)
    return against(lambda: generate(ids, 8, 1), lambda: drawn(ids, 8, 1))


def call8() -> dict[str, float]:
    ids = prompt(1024)
    return against(lambda: generate(ids, 8, 32), lambda: drawn(ids, 8, 32))


def call16() -> dict[str, float]:
    ids = prompt(2048)
    return against(lambda: generate(ids, 16, 16), lambda: drawn(ids, 16, 16), repeats=1)


def batch8() -> dict[str, float]:
    """Continuous batching with as many blocks as it needs: left to itself it takes 90 % of the
    memory and is three times slower here."""
    from transformers import GenerationConfig
    from transformers.generation.configuration_utils import ContinuousBatchingConfig

    ids = prompt(1024)
    config = GenerationConfig(
        max_new_tokens=32, do_sample=True, top_k=0, num_return_sequences=8, eos_token_id=-1
    )
    blocks = ContinuousBatchingConfig(num_blocks=64, max_batch_tokens=1100)
    call: Any = model().generate_batch

    def base() -> object:
        return call(
            [list(ids)],
            generation_config=config,
            continuous_batching_config=blocks,
            progress_bar=False,
        )

    return against(base, lambda: drawn(ids, 8, 32))


def kv8() -> dict[str, float]:
    """Bytes of keys and values after 32 tokens in 8 rows."""
    prefix = Prefix(model(), prompt(1024))
    held = {}
    for how in (Fork.SHARED, Fork.FORKED):
        rows = prefix.fork(8, how)
        for _ in range(32):
            rows.forward(torch.full((8, 1), 7))
        assert rows.cache is not None
        held[how] = layers.size(rows.cache)
    return {
        "ratio": held[Fork.FORKED] / held[Fork.SHARED],
        "baseline_mb": held[Fork.FORKED] / 1e6,
        "ours_mb": held[Fork.SHARED] / 1e6,
    }


def reuse() -> dict[str, float]:
    """Another question after the same 1536 tokens: 16 tokens, and the first alone."""
    kept = PrefixCache()
    prefill(model(), prompt(1536), kept)
    runs = 4 * SETTINGS.repeats + 20
    asked = iter([prompt(1536) + prompt(64, seed=i + 7) for i in range(runs)])
    grouped = plan(model()).grouped

    def ours(tokens: int) -> object:
        ids = next(asked)
        filled = prefill(model(), ids, kept, grouped=grouped)
        assert filled.reused == 1536
        rows = [Row(uniforms=None)]
        return engine.draw(filled.prefix, rows, Rules(ends=(), limit=tokens))

    ids = prompt(1600)
    found = {
        tokens: against(
            lambda t=tokens: generate(ids, 1, t, do_sample=False, top_k=None),  # type: ignore[misc]
            lambda t=tokens: ours(t),  # type: ignore[misc]
        )
        for tokens in (16, 1)
    }
    return {**found[16], "first_ratio": found[1]["ratio"], "first_goal": 12.0}


def sampler() -> dict[str, float]:
    from transformers.generation.logits_process import (
        LogitsProcessorList,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    logits = torch.randn(16, 151_936, device=SETTINGS.device) * 3
    ids = torch.zeros(16, 4, dtype=torch.long, device=SETTINGS.device)
    chain: Any = LogitsProcessorList(
        [TemperatureLogitsWarper(0.7), TopKLogitsWarper(50), TopPLogitsWarper(0.9)]
    )
    u = [float(x) for x in sample.uniforms(0, 0, 16)]
    cut = Sampling(temperature=0.7, top_k=50, top_p=0.9)
    norm = torch.zeros(16, device=SETTINGS.device)  # only a nucleus without top-k needs it
    row = torch.tensor(u, device=SETTINGS.device)[:, None]

    def base() -> None:
        for _ in range(4):
            torch.multinomial(torch.softmax(chain(ids, logits.clone()), -1), 1)

    def ours() -> None:
        for _ in range(4):
            sample.drawn(logits, norm, row, cut)

    def whole() -> None:
        for _ in range(4):
            sample.step(logits, u, sampling=cut)

    ours()
    found = against(base, ours)
    return {**found, "with_statistics_ratio": against(base, whole)["ratio"]}


def choice(answers: int, longest: int) -> dict[str, float]:
    """A decision after the prefill, against 8 constrained samples that share it."""
    draw = random.Random(answers)
    sets = [
        [draw.randrange(3, VOCABULARY) for _ in range(draw.randint(2, longest))]
        for _ in range(answers)
    ]
    prefix = Prefix(model(), prompt(512))
    way = plan(model()).choices

    def base() -> None:
        rows = prefix.fork(8)
        for _ in range(longest):
            rows.forward(torch.full((8, 1), 7))

    def ours() -> object:
        return choices.score(prefix, sets, (), way)

    ours()
    return against(base, ours, repeats=5)


def choice4() -> dict[str, float]:
    return choice(4, 3)


def choice20() -> dict[str, float]:
    return choice(20, 4)


def ragged() -> dict[str, float]:
    """16 rows of 8 to 64 tokens, against keeping those that are over, as generate does: in
    transformers' own cache, and (`same_cache_ratio`) in the engine's."""
    ids, lengths = prompt(512), np.random.default_rng(0).integers(8, 65, 16)

    def run(leave: bool) -> None:
        rows = rows_of(16, 64)
        over = {id(row): int(n) for row, n in zip(rows, lengths, strict=True)}

        def reject(live: Sequence[Row]) -> list[int]:
            return [i for i, row in enumerate(live) if len(row.ids) >= over[id(row)]]

        rules = Rules(ends=(), limit=64, sampling=PLAIN, reject=reject if leave else None)
        engine.draw(Prefix(model(), ids), rows, rules, Fork.FORKED)

    def base() -> None:
        prefix = Prefix(model(), ids)
        held = prefix.continued()
        held.reorder_cache(torch.zeros(16, dtype=torch.long))  # type: ignore[arg-type]
        rows, logits = engine.Rows(model(), prefix.ids, held), prefix.logits.expand(16, -1)
        for step in range(63):
            u = [float(sample.uniforms(0, i, 64)[step]) for i in range(16)]
            taken = sample.step(logits, u, sampling=PLAIN)
            logits = rows.forward(torch.tensor([[t.token] for t in taken]))[:, -1]

    same = against(lambda: run(False), lambda: run(True), repeats=1)["ratio"]
    return {**against(base, lambda: run(True)), "same_cache_ratio": same}


def n1() -> dict[str, float]:
    """One greedy answer; the ratio is ours to the baseline's time here."""
    ids = prompt(256)

    def ours() -> object:
        return engine.draw(Prefix(model(), ids), [Row(uniforms=None)], Rules(ends=(), limit=48))

    def base() -> object:
        return generate(ids, 1, 48, do_sample=False, top_k=None)

    base(), ours()
    found = against(base, ours, repeats=5)
    return {**found, "ratio": 1 / found["ratio"], "wall_ratio": 1 / found["wall_ratio"]}


def votes() -> dict[str, float]:
    """Samples to the answer of 40 votes, over 10,000 questions of mixed difficulty."""
    draw = random.Random(0)
    rule = stop.BetaStop()
    taken = right = full = waves = 0
    for _ in range(QUESTIONS):
        p = draw.betavariate(1.6, 1.2)
        rest = [1 / (i + 1) for i in range(8)]
        shares = [p, *((1 - p) * w / sum(rest) for w in rest)]
        samples = draw.choices(range(9), shares, k=40)
        n = 0
        while size := rule.wave(stop.votes(samples[:n]), remaining=40 - n):
            n, waves = n + size, waves + 1
        taken += n
        right += next(iter(stop.votes(samples[:n]))) == 0
        full += next(iter(stop.votes(samples))) == 0
    lost = 100 * (full - right) / QUESTIONS
    return {"ratio": 40 * QUESTIONS / taken, "points_lost": lost, "waves": waves / QUESTIONS}


def json16() -> dict[str, float]:
    return constraints.json16(model(len(constraints.tokenizer())), against)


def acall8() -> dict[str, float]:
    return serving.acall8(against)


def compile500() -> dict[str, float]:
    return constraints.compile500(against)


# ----------------------------------------------------------------------------------- running

ROWS: dict[str, tuple[Callable[[], dict[str, float]], float, str]] = {
    "prefill8": (prefill8, 6.4, "generate(num_return_sequences=8), first token, P=1024"),
    "call8": (call8, 3.0, "generate(num_return_sequences=8), P=1024 T=32"),
    "call16": (call16, 8.0, "generate(num_return_sequences=16), P=2048 T=16"),
    "batch8": (batch8, 1.3, "generate_batch, P=1024 N=8 T=32"),
    "kv8": (kv8, 5.0, "bytes of generate's keys and values, P=1024 N=8 T=32"),
    "reuse": (reuse, 2.2, "cold generate, 1600 tokens, T=16"),
    "sampler": (sampler, 15.0, "transformers' processors and multinomial, V=152k N=16"),
    "json16": (json16, 5.0, "outlines + generate, nested schema, V=100k P=1k N=16 T=24, warm"),
    "first": (constraints.first, 6.0, "outlines, first constrained token of a process, cold"),
    "compile500": (compile500, 200.0, "outlines_core, 500 choices to the first mask"),
    "choice4": (choice4, 4.0, "8 constrained samples after a shared prefill"),
    "choice20": (choice20, 3.0, "8 constrained samples after a shared prefill"),
    "votes": (votes, 2.0, "40 votes"),
    "ragged": (ragged, 1.4, "keeping rows that are over"),
    "acall8": (acall8, 1.0, "the same 8 calls one after the other, bundled model, no goal given"),
    "steps": (serving.steps, 1.0, "tokens of best-of-N, as many as are right as often, no goal"),
    "remembered": (serving.remembered, 1.0, "right of four samples by majority, no goal"),
    "n1": (n1, 1.03, "generate, greedy (ratio: ours to its time, at most the goal)"),
}


def run(name: str) -> dict[str, object]:
    measure, goal, baseline = ROWS[name]
    found = {key: round(value, 3) for key, value in measure().items()}
    return {"id": name, **found, "goal": goal, "baseline": baseline}


def main() -> None:
    """The command line."""
    global SETTINGS
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="*", default=list(ROWS), help=f"of {', '.join(ROWS)}")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if unknown := sorted(set(given.rows) - set(ROWS)):
        parser.error(f"no such rows: {', '.join(unknown)}")
    SETTINGS = Settings(
        repeats=given.repeats, device=given.device, width=given.width, layers=given.layers
    )
    torch.set_num_threads(given.threads)
    found = []
    for name in given.rows:
        found.append(run(name))
        print(json.dumps(found[-1]), flush=True)
    if given.json:
        given.json.write_text(json.dumps({"rows": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
