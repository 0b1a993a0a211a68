"""How a response looks in a notebook: the text, then everything else folded.

Everything is escaped. No colours and no backgrounds are set, so that it reads in any theme; `$` is
written as an entity because notebooks would typeset what stands between two of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

from tta.types import Candidate, Recalled

if TYPE_CHECKING:
    from tta.protocols import Profile
    from tta.response import Comparison, Response

_PRE = '<pre style="white-space:pre-wrap;margin:0 0 .5em 0">{}</pre>'
_BORDER = "border:1px solid currentColor;border-radius:4px;padding:.2em .6em"


def response_html(response: Response) -> str:
    """The answer, with why, what was recalled, the candidates and the prompt folded below it."""
    parts = [
        _PRE.format(_safe(response.text)),
        _details("why", _why(response)),
        _details(
            f"memory: {len(response.context.shown)} shown, {len(response.context.dropped)} dropped",
            _recalled(response.context.shown, response.context.dropped),
        ),
        _details(f"candidates: {len(response.candidates)}", _candidates(response.candidates)),
        _details(
            f"prompt: {response.context.tokens} tokens", _PRE.format(_safe(response.context.prompt))
        ),
    ]
    return f'<div style="{_BORDER}">{"".join(parts)}</div>'


def comparison_html(comparison: Comparison) -> str:
    """The untouched model's answer beside the adapted one."""
    cells = "".join(
        f'<td style="text-align:left;vertical-align:top;border:1px solid currentColor">'
        f"<b>{name}</b>{_PRE.format(_safe(response.text))}</td>"
        for name, response in (("frozen", comparison.frozen), ("adapted", comparison.adapted))
    )
    return f"<table><tr>{cells}</tr></table>"


def tasks_html(tasks: Mapping[str, Profile]) -> str:
    """What is known of each task, a line each."""
    head = ["task", "accepted", "different", "none of these", "held to", "first sample right"]
    rows = [
        (
            profile.task,
            str(profile.cases),
            str(len(profile.answers)),
            f"{profile.elsewhere:.0%}",
            "free" if profile.free else profile.form or "open",
            f"{profile.prior[0] - 1:.0f} of {sum(profile.prior) - 2:.0f}",
            str(profile.samples),
            str(profile.steps),
            ", ".join(f"{name} {weight:.2f}" for name, weight in [*profile.experts.items()][:3]),
        )
        for profile in tasks.values()
    ]
    return _table([*head, "samples at most", "step by step", "trusted"], rows)


def _why(response: Response) -> str:
    cost = response.cost
    rows = [
        ("task", f"{response.task.name} ({response.task.posterior:.0%} sure)"),
        ("confidence", f"{response.confidence:.2f}"),
        ("stopped", response.why.stopped),
        *((("step by step", response.why.thought),) if response.why.thought else ()),
        *((f"weight of {name}", f"{weight:.2f}") for name, weight in response.why.weights.items()),
        ("spoke for", _names(response.why.spoke_for)),
        ("spoke against", _names(response.why.spoke_against)),
        (
            "cost",
            f"{cost.prefilled} tokens prefilled, {cost.reused} reused, {cost.drawn} drawn, "
            f"{cost.passes} passes, {cost.ms:.0f} ms",
        ),
    ]
    return _table(["", ""], rows)


def _names(recalled: Sequence[Recalled]) -> str:
    return "; ".join(
        f"{r.record.request!r} → {r.record.answer!r} ({r.score:.2f})" for r in recalled
    )


def _recalled(shown: Sequence[Recalled], dropped: Sequence[Recalled]) -> str:
    rows = [
        (state, r.record.kind.value, r.record.request, r.record.answer, f"{r.score:.2f}")
        for state, group in (("shown", shown), ("dropped", dropped))
        for r in group
    ]
    return _table(["", "kind", "request", "answer", "score"], rows)


def _candidates(candidates: Sequence[Candidate]) -> str:
    experts = list(candidates[0].parts) if candidates else []
    rows = [
        (c.text, f"{c.score:.2f}", *(f"{c.parts[e]:.2f}" for e in experts), c.finish.value)
        for c in candidates[:20]
    ]
    return _table(["answer", "score", *experts, "finish"], rows)


def _details(title: str, body: str) -> str:
    return f"<details><summary>{_safe(title)}</summary>{body}</details>"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return (
            "<tr>"
            + "".join(f'<{tag} style="text-align:left">{_safe(c)}</{tag}>' for c in cells)
            + "</tr>"
        )

    return "<table>" + line(head, "th") + "".join(line(row, "td") for row in rows) + "</table>"


def _safe(text: str) -> str:
    return escape(text).replace("$", "&#36;")
