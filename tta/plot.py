"""The learning curve as a picture, and who was listened to. Knows matplotlib and a report; it shows
no window."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from tta.errors import InvalidSetting, MissingExtra
from tta.evaluate import Report, Step

EXPERTS = 6
"""How many experts' weights are drawn."""


def plot(report: Report, path: Path) -> None:
    """Draw the sliding share of right answers, adapted and frozen, and below it the weights of the
    experts that came to count most, to a .png, .svg or .pdf file.

    Raises MissingExtra without matplotlib, InvalidSetting when the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure  # not pyplot: it would choose a window system
    except ImportError as error:
        raise MissingExtra(
            "matplotlib is not installed",
            value="notebook",
            hint="Install it with pip install 'tta-sdk[notebook]'",
        ) from error
    width = max(1, report.steps // 10)
    figure = Figure(figsize=(7, 6), layout="constrained")
    axes, below = figure.subplots(2, sharex=True)
    for label, rights in (
        ("adapted", [step.right for step in report.taken]),
        ("frozen", [step.frozen_right for step in report.taken]),
    ):
        shares = sliding(rights, width)
        axes.plot(range(1, len(shares) + 1), shares, label=label)
    axes.set(ylabel=f"accuracy of the last {width} steps", ylim=(0, 1))
    axes.legend()
    for name, weights in leading(report.taken).items():
        below.plot(range(1, len(weights) + 1), weights, label=name)
    below.set(xlabel="step", ylabel="weight of the expert", ylim=(0, 1))
    if report.taken[-1].weights:
        below.legend(fontsize="small")
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise InvalidSetting(
            f"no picture can be written to {str(path)!r}: {error}", value=str(path)
        ) from error


def leading(taken: Sequence[Step]) -> dict[str, list[float]]:
    """The weights over time of the experts that had most of it in all, the first leading."""
    names = {name for step in taken for name in step.weights}
    curves = {name: [step.weights.get(name, 0.0) for step in taken] for name in sorted(names)}
    return dict(sorted(curves.items(), key=lambda pair: -sum(pair[1]))[:EXPERTS])


def sliding(rights: Sequence[bool], width: int) -> list[float]:
    """The share of `rights` among the last `width`, or among all while there are fewer."""
    sums = [0, *accumulate(int(right) for right in rights)]
    return [(sums[i] - sums[max(0, i - width)]) / min(i, width) for i in range(1, len(sums))]
