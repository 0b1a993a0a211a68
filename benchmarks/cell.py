"""One cell: a stream under one regime of feedback, all orders, all methods, and its figures.

Knows how to run a cell and what is checked in it: the weights' hash, harm against the frozen
model, the regret bound that `chat.health()` states. Refuses to know files, options and print.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from benchmarks import figures
from benchmarks.bench import Bench
from benchmarks.methods import Tta, chosen, make
from benchmarks.oracle import Oracle, Regime
from benchmarks.play import Asking, Step, embed_ahead, play
from benchmarks.streams import Draw, Drawn
from tta.errors import InvalidSetting

SEEDS = (2, 3, 7, 21, 42)
"""StreamBench's five orders."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is run: `ask` is the share of steps on which feedback is asked for (None: the regime
    alone decides)."""

    draw: Draw
    regime: Regime = field(default_factory=Regime)
    steps: int = 2000
    seeds: tuple[int, ...] = SEEDS
    methods: str = "all"
    ask: float | None = None

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InvalidSetting(f"steps must be at least 1, was {self.steps!r}", value=self.steps)
        if not self.seeds:
            raise InvalidSetting("no seeds", value=self.seeds)
        if self.ask is not None and not 0 < self.ask <= 1:
            raise InvalidSetting(
                f"ask must be above 0 and at most 1, was {self.ask!r}", value=self.ask
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Regret:
    """The worst of all tasks and orders: nats above the best expert, and the bound stated."""

    nats: float
    bound: float
    task: str = ""

    @property
    def holds(self) -> bool:
        return self.nats <= self.bound


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What was found. `runs`: every step, by method and order; where `Plan.ask` was set, tta is
    there once more, asking on random steps instead (`RANDOM`)."""

    stream: str
    runs: Mapping[str, tuple[tuple[Step, ...], ...]]
    left_out: Mapping[str, str]
    blocks: tuple[int, ...]
    drifts: bool
    open_answers: bool
    regret: Regret | None
    weights_unchanged: bool

    def methods(self) -> dict[str, dict[str, Any]]:
        return {
            name: figures.summary(runs, self.blocks, drifts=self.drifts)
            for name, runs in self.runs.items()
        }

    def against_frozen(self) -> figures.Paired | None:
        if not {"tta", "frozen"} <= set(self.runs):
            return None
        return figures.paired(self.runs["tta"], self.runs["frozen"])

    @property
    def harm(self) -> int:
        """1 when tta is below frozen by more than a point at p < .05, else 0."""
        found = self.against_frozen()
        return int(found is not None and found.harmful)

    def experts(self) -> dict[str, float]:
        return figures.experts(self.runs["tta"]) if "tta" in self.runs else {}

    def best_expert(self) -> tuple[str, figures.Paired] | None:
        return figures.best_expert(self.runs["tta"]) if "tta" in self.runs else None

    def without_passes(self) -> float:
        """Percent of tta's steps that took no pass of the model."""
        every = [step for steps in self.runs["tta"] for step in steps]
        return 100 * sum(step.passes == 0 for step in every) / len(every)

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        against = self.against_frozen()
        return {
            "stream": self.stream,
            "methods": self.methods(),
            "harm": self.harm,
            "gain": None if against is None else round(against.gain, 2),
            "p": None if against is None else against.p,
            "regret": None if self.regret is None else _regret(self.regret),
            "experts": self.experts(),
            "best_expert": _ahead(self.best_expert()),
            "left_out": dict(self.left_out),
            "weights_unchanged": self.weights_unchanged,
        }


def _regret(found: Regret) -> dict[str, object]:
    return {"nats": round(found.nats, 3), "bound": round(found.bound, 3), "task": found.task}


def _ahead(found: tuple[str, figures.Paired] | None) -> dict[str, object] | None:
    """By how many points it is ahead of tta."""
    if found is None:
        return None
    name, against = found
    return {"name": name, "ahead": round(against.gain, 2), "p": against.p}


RANDOM = "tta.asked-at-random"


def run(bench: Bench, plan: Plan, say: Callable[[str], None] = lambda _: None) -> Cell:
    """Run a cell. `say` is told of each order and method as it is done.

    Where tta is run, so is frozen: harm is counted against it.
    """
    before = bench.fingerprint()
    drawn = {seed: plan.draw(seed, plan.steps) for seed in plan.seeds}
    first = next(iter(drawn.values()))
    names, left_out = chosen(plan.methods, bench, first.stream)
    if "tta" in names and "frozen" not in names:
        names = (*names, "frozen")
    runs: dict[str, list[tuple[Step, ...]]] = {name: [] for name in names}
    if plan.ask is not None and "tta" in names:
        runs[RANDOM] = []
    regrets: list[Regret] = []
    for seed, stream in drawn.items():
        embed_ahead(stream, bench.embedder)
        for name in runs:
            steps, found = _one(bench, plan, stream, seed, name)
            runs[name].append(tuple(steps))
            regrets += found
            say(f"{stream.stream.name} seed {seed} {name}: {figures.prequential(steps):.1f} %")
    return Cell(
        stream=first.stream.name,
        runs={name: tuple(orders) for name, orders in runs.items()},
        left_out=left_out,
        blocks=first.stream.blocks,
        drifts=first.stream.drifts,
        open_answers=any(item.answers is None for item in first.stream.items),
        regret=max(regrets, key=lambda r: r.nats - r.bound, default=None),
        weights_unchanged=bench.fingerprint() == before,
    )


def _one(
    bench: Bench, plan: Plan, drawn: Drawn, seed: int, name: str
) -> tuple[list[Step], list[Regret]]:
    method = make("tta" if name == RANDOM else name, bench, drawn.stream, seed)
    oracle = Oracle(drawn, plan.regime, seed=seed)
    asking = None
    if plan.ask is not None:
        asking = Asking(share=plan.ask, chosen=name != RANDOM, seed=seed)
    steps = play(method, drawn, oracle, delay=plan.regime.delay, asking=asking)
    regrets = regrets_of(method) if name == "tta" and isinstance(method, Tta) else []
    if isinstance(method, Tta):
        method.close()
    return steps, regrets


def regrets_of(method: Tta) -> list[Regret]:
    """Of every user and task that got feedback, as `chat.health()` has it."""
    return [
        Regret(
            nats=health.log_loss - min(health.expert_log_loss.values()),
            bound=health.bound,
            task=f"{user}/{health.task}",
        )
        for user in sorted(method.users)
        for health in method.chat.health(user)
        if health.expert_log_loss
    ]


def leaks(bench: Bench, drawn: Drawn, *, seed: int) -> float:
    """The share (0 to 1) of one user's answers that change when the other users were never there.
    Must be 0: strict scopes. Feedback is by label and never wrong."""
    name = drawn.stream.items[0].user
    own = [i for i, item in enumerate(drawn.stream.items) if item.user == name]
    alone = Drawn(
        stream=replace(drawn.stream, items=tuple(drawn.stream.items[i] for i in own)),
        targets=tuple(drawn.targets[i] for i in own),
    )
    texts = []
    for part in (drawn, alone):
        method = Tta(bench)
        texts.append([s.text for s in play(method, part, Oracle(part, Regime(), seed=seed))])
        method.close()
    among = [texts[0][i] for i in own]
    return sum(a != b for a, b in zip(among, texts[1], strict=True)) / len(own)
