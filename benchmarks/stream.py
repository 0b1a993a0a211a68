"""tta and its peers on a stream: predict, then feedback, then the next.

    python -m benchmarks.stream --file F --input COL --target COL [--labels L.json]
        --feedback label|bit [--flip P] [--noise] [--every Q] [--delay D] [--drift] [--ask SHARE]
        --steps N --seeds 2,3,7 --methods all|a,b --model bundled|none|PATH --json OUT
    python -m benchmarks.stream --stream banking77|trec|bbh|recur|conflict-4-40|memprompt-hin|facts
    python -m benchmarks.stream --suite ['*/bit/*' ...]

The command line and what it prints; benchmarks/README.md says what the protocol is. Streams that
have a name read the folder that TTA_DATA names.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import cell, figures, streams
from benchmarks.bench import BUDGET, Bench
from benchmarks.oracle import FEEDBACK, Regime
from benchmarks.streams import Draw, Labelled
from benchmarks.suite import suite
from tta.cli_common import note, quiet_libraries, say
from tta.errors import InvalidSetting, TTAError
from tta.protocols import Embedder


def main(argv: Sequence[str] | None = None, *, embedder: Embedder | None = None) -> int:
    """Exit status: 0, 1 when something that is asserted failed, 2 for input that cannot be used."""
    args = parser().parse_args(argv)
    quiet_libraries()
    try:
        _check(args)
        bench = Bench.open(args.model, embedder or _embedder(args.embedder), budget=args.budget)
        return _suite(bench, args) if args.suite is not None else _cell(bench, args)
    except TTAError as error:
        note(f"{type(error).__name__}: {error}")
        return 2


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="tta-stream", description=(__doc__ or "").partition("\n")[0]
    )
    source = made.add_argument_group("what is streamed")
    source.add_argument("--file", type=Path, help="a .csv, .tsv or .jsonl file, a row an example")
    source.add_argument("--input", default="text", help="its column of requests (%(default)s)")
    source.add_argument("--target", default="label", help="of right answers (%(default)s)")
    source.add_argument("--labels", type=Path, help="JSON: names, or name -> description")
    source.add_argument("--stream", help=f"one of {', '.join(streams.names())}")
    source.add_argument(
        "--suite", nargs="*", metavar="PATTERN", help="the matrix, or its matching cells"
    )
    source.add_argument("--drift", action="store_true", help="25 %% of labels permuted at half")
    told = made.add_argument_group("what is told")
    told.add_argument("--feedback", choices=FEEDBACK, default="label")
    told.add_argument("--flip", type=float, default=0.0, help="probability of wrong feedback")
    told.add_argument("--noise", action="store_true", help="all feedback is random")
    told.add_argument("--every", type=float, default=1.0, help="share of steps with feedback")
    told.add_argument("--delay", type=int, default=0, help="feedback comes so many steps late")
    told.add_argument("--ask", type=float, help="tta says when, on this share of steps")
    run = made.add_argument_group("who is run, and how long")
    run.add_argument("--steps", type=int, default=2000)
    run.add_argument("--seeds", type=_seeds, default=cell.SEEDS, help="orders (2,3,7,21,42)")
    run.add_argument("--methods", default=None, help="all, or names (suite: tta,frozen)")
    run.add_argument("--model", default="bundled", help="bundled, none, an id or a path")
    run.add_argument("--embedder", help="a sentence-transformers id or path (MiniLM)")
    run.add_argument("--budget", type=int, default=BUDGET, help="recalled tokens (%(default)s)")
    run.add_argument("--json", type=Path, dest="out", help="where to write all figures")
    return made


def _seeds(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _check(args: argparse.Namespace) -> None:
    """A long run must not end in a path that cannot be written."""
    sources = [args.file is not None, args.stream is not None, args.suite is not None]
    if sum(sources) != 1:
        raise InvalidSetting(
            "give one of --file, --stream and --suite", value=(args.file, args.stream, args.suite)
        )
    if args.out is not None and not args.out.parent.is_dir():
        raise InvalidSetting(f"{str(args.out)!r} cannot be written", value=str(args.out))


def _embedder(name: str | None) -> Embedder:
    from tta.retrieval import SentenceEmbedder, default_embedder

    return SentenceEmbedder(name) if name else default_embedder()


def _draw(args: argparse.Namespace) -> Draw:
    if args.stream is not None:
        return streams.named(args.stream, drift=args.drift, open_answers=args.model != "none")
    found = Labelled.read(args.file, text=args.input, target=args.target, labels=args.labels)
    return lambda seed, steps: streams.labelled(found, seed=seed, steps=steps, drift=args.drift)


def _cell(bench: Bench, args: argparse.Namespace) -> int:
    regime = Regime(
        feedback=args.feedback,
        flip=args.flip,
        noise=args.noise,
        every=args.every,
        delay=args.delay,
    )
    plan = cell.Plan(
        draw=_draw(args),
        regime=regime,
        steps=args.steps,
        seeds=args.seeds,
        methods=args.methods or "all",
        ask=args.ask,
    )
    found = cell.run(bench, plan, note if sys.stderr.isatty() else lambda _: None)
    _print(found, plan)
    _write(args, found.to_dict())
    holds = found.regret is None or found.regret.holds
    return int(not (found.weights_unchanged and holds))


def _print(found: cell.Cell, plan: cell.Plan) -> None:
    methods = found.methods()
    some = next(iter(methods.values()))
    columns = (*figures.COLUMNS, "ece", *(["distance"] if found.open_answers else []))
    columns = (*columns, *(["shown"] if any(m["shown"] for m in methods.values()) else []))
    say(f"{found.stream}: feedback by {plan.regime}; {plan.steps} steps, orders {plan.seeds}")
    say(figures.table(methods, columns))
    if "blocks" in some:
        for name, row in methods.items():
            back = f"; steps to recover: {row['recovery']}" if found.drifts else ""
            say(f"{name} by part of the stream: {row['blocks']}{back}")
    for name, why in found.left_out.items():
        say(f"left out: {name} ({why})")
    against = found.against_frozen()
    if against is not None:
        say(f"tta minus frozen: {against.gain:+.1f} points, p = {against.p:.2g}; harm {found.harm}")
    if "tta" in methods:
        tta, share = methods["tta"], found.without_passes()
        say(
            f"a step of tta: p95 {tta['ms_p95']} ms, of which learning p95"
            f" {tta['learn_ms_p95']} ms; {share:.0f} % of the steps without a model pass"
        )
    if found.regret is not None:
        say(f"regret {found.regret.nats:.2f} nats, bound {found.regret.bound:.2f}")
    if alone := found.experts():
        best = sorted(alone.items(), key=lambda pair: -pair[1])[:4]
        say("experts alone: " + ", ".join(f"{name} {value:.1f}" for name, value in best))
    say(f"weights: {'unchanged' if found.weights_unchanged else 'CHANGED'}")


def _suite(bench: Bench, args: argparse.Namespace) -> int:
    found, failed = suite(
        bench,
        args.suite or ["*"],
        steps=args.steps,
        seeds=args.seeds,
        methods=args.methods or "tta,frozen",
        say=say,
    )
    harm = sum(1 for figures_ in found.values() if figures_["harm"])
    say(f"harm count: {harm} of {len(found)} cells")
    for what in failed:
        say(f"FAILED {what}")
    _write(args, {"cells": found, "harm": harm, "failed": failed})
    return int(bool(failed))


def _write(args: argparse.Namespace, found: dict[str, object]) -> None:
    if args.out is not None:
        settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()}
        text = json.dumps({**found, "settings": settings}, indent=1, default=list)
        args.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
