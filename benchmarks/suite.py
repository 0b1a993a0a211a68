"""The whole matrix of streams and stresses, one line a cell: harm, regret, gain over frozen.

Knows which cells there are and runs those whose name matches. Refuses to know how a cell is run.
A cell's name is stream/feedback/stress, such as banking77/bit/flip20.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from benchmarks import figures, streams
from benchmarks.bench import Bench
from benchmarks.cell import Cell, Plan, leaks, run
from benchmarks.generated import GENERATED
from benchmarks.oracle import FEEDBACK, Regime
from tta.errors import InvalidSetting

STRESSES: dict[str, Regime] = {
    "plain": Regime(),
    "flip10": Regime(flip=0.1),
    "flip20": Regime(flip=0.2),
    "every10": Regime(every=0.1),
    "every30": Regime(every=0.3),
    "delay10": Regime(delay=10),
    "delay50": Regime(delay=50),
    "noise": Regime(noise=True),
}
DRIFT = "drift"
STRESSED = ("banking77", "trec")


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """One cell of the matrix."""

    stream: str
    regime: Regime
    stress: str

    @property
    def name(self) -> str:
        return f"{self.stream}/{self.regime.feedback}/{self.stress}"


def matrix() -> Iterator[Named]:
    """All cells: every stress on the labelled sets, the other streams without stress."""
    for stream in STRESSED:
        for feedback in FEEDBACK:
            for stress, regime in STRESSES.items():
                yield Named(stream=stream, regime=replace(regime, feedback=feedback), stress=stress)
            yield Named(stream=stream, regime=Regime(feedback=feedback), stress=DRIFT)
    for stream in streams.names():
        if stream in STRESSED:
            continue
        for feedback in ("label",) if stream.startswith("memprompt") else FEEDBACK:
            yield Named(stream=stream, regime=Regime(feedback=feedback), stress="plain")


def matching(patterns: Sequence[str]) -> list[Named]:
    """The cells whose name matches one of the patterns ("*/bit/*"). Raises InvalidSetting when
    none does."""
    found = [c for c in matrix() if any(fnmatchcase(c.name, p) for p in patterns)]
    if not found:
        raise InvalidSetting(
            f"no cell matches {list(patterns)!r}",
            value=list(patterns),
            hint=f"Cells are named like {', '.join(c.name for c in list(matrix())[:3])}",
        )
    return found


def suite(
    bench: Bench,
    patterns: Sequence[str],
    *,
    steps: int,
    seeds: tuple[int, ...],
    methods: str,
    say: Callable[[str], None],
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Run the matching cells; (figures by cell, what failed). `say` gets one line a cell.

    What fails: harm, a regret above its bound, weights that changed, a leak between strict scopes.
    """
    found: dict[str, dict[str, Any]] = {}
    failed: list[str] = []
    say(HEAD)
    for named in matching(patterns):
        if bench.model is None and named.stream in GENERATED:
            continue
        draw = streams.named(
            named.stream, drift=named.stress == DRIFT, open_answers=bench.model is not None
        )
        plan = Plan(draw=draw, regime=named.regime, steps=steps, seeds=seeds, methods=methods)
        cell = run(bench, plan)
        found[named.name] = cell.to_dict()
        failed += [f"{named.name}: {what}" for what in _failures(bench, plan, cell)]
        say(line(named.name, cell))
    return found, failed


def _failures(bench: Bench, plan: Plan, cell: Cell) -> Iterator[str]:
    if cell.harm:
        yield "harm"
    if cell.regret is not None and not cell.regret.holds:
        yield (
            f"regret {cell.regret.nats:.2f} above its bound {cell.regret.bound:.2f}"
            f" in {cell.regret.task}"
        )
    if not cell.weights_unchanged:
        yield "the weights changed"
    if cell.stream.startswith("conflict") and plan.regime == Regime():
        share = leaks(bench, plan.draw(plan.seeds[0], plan.steps), seed=plan.seeds[0])
        if share > 0:
            yield f"{100 * share:.1f} % of one user's answers leaked"


HEAD = (
    f"{'cell':34}{'tta':>7}{'last':>7}{'frozen':>8}{'gain':>7}{'p':>8}{'harm':>6}"
    f"{'regret':>9}{'bound':>8}{'best':>7}{'p':>8}  expert"
)


def line(name: str, cell: Cell) -> str:
    """One cell in one line; the best single expert inside tta stands at the end, with
    the p of its being no better."""
    runs = cell.runs
    if "tta" not in runs:
        shown = (f"{n} {figures.summary(r)['prequential']}" for n, r in runs.items())
        return f"{name:34}" + "  ".join(shown)
    tta, against = figures.summary(runs["tta"]), cell.against_frozen()
    assert against is not None  # `run` sees to it that frozen is there with tta
    frozen = figures.summary(runs["frozen"])
    nats = ("-", "-")
    if cell.regret is not None:
        nats = (f"{cell.regret.nats:.2f}", f"{cell.regret.bound:.2f}")
    best = cell.best_expert()
    alone = f"{tta['prequential'] + best[1].gain:7.1f}{best[1].p:8.3f}  {best[0]}" if best else ""
    return (
        f"{name:34}{tta['prequential']:7.1f}{tta['last']:7.1f}{frozen['prequential']:8.1f}"
        f"{against.gain:+7.1f}{against.p:8.3f}{cell.harm:6d}{nats[0]:>9}{nats[1]:>8}"
        f"{alone}"
    )
