"""`tta evaluate`: from files and options to an evaluation, and its report in print.

Knows how a report looks; how one comes about is `tta.evaluate`'s.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

from tta.cli_common import note, open_chat, say, say_json
from tta.errors import InvalidSetting
from tta.evaluate import Percentiles, Report, Score, Step, evaluate
from tta.labelled import answers_of, check_targets, read_answers, read_examples

BAR = 24
"""Characters of the progress bar and of the curve's bars."""


def run(args: argparse.Namespace) -> None:
    """Evaluate the file the arguments name."""
    examples = read_examples(args.file, text=args.input, target=args.target)
    answers = read_answers(args.labels) if args.labels else answers_of(examples)
    check_targets(examples, answers)
    for out in (args.json_out, args.plot):
        _check_writable(out)
    steps = min(args.steps or len(examples), len(examples))
    with open_chat(args) as chat:
        note(f"{steps} of {len(examples)} examples, {len(answers)} answers, model {args.model}")
        report = evaluate(
            chat,
            examples,
            answers,
            feedback=args.feedback,
            flip=args.flip,
            steps=steps,
            seed=args.seed,
            task=args.task or args.target,
            progress=progress_bar(steps) if sys.stderr.isatty() else None,
        )
    _write(report, args)


def _write(report: Report, args: argparse.Namespace) -> None:
    if args.plot is not None:
        from tta.plot import plot

        plot(report, args.plot)
        note(f"curve drawn to {args.plot}")
    if args.json_out == "-":
        say_json(report.to_dict())
        return
    say(curve(report))
    if args.json_out is not None:
        text = json.dumps(report.to_dict(), indent=2) + "\n"
        Path(args.json_out).write_text(text, encoding="utf-8")


def _check_writable(out: str | Path | None) -> None:
    """A long run must not end in a path that cannot be written."""
    if out in (None, "-"):
        return
    path = Path(str(out))
    if path.is_dir() or not path.parent.is_dir():
        raise InvalidSetting(
            f"{str(path)!r} cannot be written", value=str(path), hint="Name a file in a folder"
        )


def curve(report: Report) -> str:
    """Accuracy of each fifth, adapted and frozen, and one line of figures."""
    lines = [f"{'steps':>11}  adapted   frozen"]
    for first, last, adapted, frozen in report.fifths():
        lines.append(_row(f"{first}-{last}", adapted, frozen))
    lines.append(_row("all", report.adapted.accuracy, report.frozen.accuracy))
    return "\n".join([*lines, "", *_figures(report)])


def _row(name: str, adapted: float, frozen: float) -> str:
    bar = _bar(adapted, frozen)
    return f"{name:>11}  {100 * adapted:5.1f} %  {100 * frozen:5.1f} %  {bar}"


def _bar(adapted: float, frozen: float) -> str:
    """Filled up to the adapted accuracy, with a mark where the frozen one is."""
    filled, mark = round(BAR * adapted), min(BAR - 1, round(BAR * frozen))
    cells = ["█"] * filled + ["░"] * (BAR - filled)
    cells[mark] = "|"
    return "".join(cells)


def _figures(report: Report) -> list[str]:
    gain = _gain(report.adapted, report.frozen)
    unchanged = "unchanged" if report.weights_unchanged else "CHANGED"
    return [
        f"adapted minus frozen: {gain[0]:+.1f} points, {gain[1]:+.1f} in the last fifth",
        f"a step took {_times(report.ms_per_step)}, of which learning {_times(report.learn_ms)}",
        f"confidence is off by {100 * report.calibration_error:.1f} points on average",
        f"feedback: {report.feedback}; weights: {unchanged}",
    ]


def _gain(adapted: Score, frozen: Score) -> tuple[float, float]:
    return (
        100 * (adapted.accuracy - frozen.accuracy),
        100 * (adapted.last_fifth - frozen.last_fifth),
    )


def _times(percentiles: Percentiles) -> str:
    return f"{percentiles.p50:.1f} ms (95 %: {percentiles.p95:.1f} ms)"


def progress_bar(steps: int) -> Callable[[Step], None]:
    """Redraws one line on standard error after each step; the caller checks for a terminal."""
    taken: list[Step] = []

    def show(step: Step) -> None:
        taken.append(step)
        adapted, frozen = (
            100 * sum(getattr(s, field) for s in taken) / len(taken)
            for field in ("right", "frozen_right")
        )
        filled = BAR * len(taken) // steps
        end = "\n" if len(taken) == steps else ""
        sys.stderr.write(
            f"\r{'█' * filled}{'░' * (BAR - filled)} {len(taken)}/{steps}"
            f"  adapted {adapted:.1f} %  frozen {frozen:.1f} %{end}"
        )
        sys.stderr.flush()

    return show
