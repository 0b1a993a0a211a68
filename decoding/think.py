"""Thinking step by step before answering: how it is asked for, and where it pays off.

Knows a prompt that asks for steps, and how often answers were right with and without them. Refuses
to know memory and templates: the steps that were drawn lengthen the prompt, and from there on an
answer is drawn or chosen as ever (chain of thought: Wei et al., 2022; Kojima et al., 2022).
"""

from __future__ import annotations

from math import erf, sqrt

from tta.decoding.experts import explored
from tta.protocols import Model
from tta.types import Cost, Message, Prompt, Request, Standing, Text, Thinking

INVITATION = 'Think step by step, then write "Answer:" and the answer.'
ANSWER = "Answer:"
MOST = 192
"""Tokens of steps."""
LEAST = 16
"""With less room than this in the model's context, it answers at once."""
ROOM = 80
"""Tokens that are left for "Answer:" and an answer of which no length was said."""
SURE = 0.95
"""Probability that it is better, or worse, from which on it is settled."""
EVERY = 4
"""Until then every so manieth answer is thought over."""
TRIED = 4
"""Pieces of feedback on such answers before anything is settled."""


def invited(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The conversation, its last turn asking for steps."""
    *before, last = messages
    return (*before, Message(role=last.role, content=f"{last.content}\n\n{INVITATION}"))


def thought(model: Model, request: Request, prompt: Prompt) -> tuple[Prompt, str, Cost]:
    """The prompt with the steps behind it, ready for the answer; the steps; what they took."""
    room = model.context_length - len(prompt.ids) - (request.max_new_tokens or 0) - ROOM
    if room < LEAST:
        return prompt, "", Cost()
    (steps, *_), cost = model.draw(
        prompt,
        n=1,
        max_new_tokens=min(MOST, room),
        seed=request.seed,
        output=Text(end=ANSWER),
        scope=request.user,
    )
    text = steps.text.strip()
    return model.continued(prompt, f"{text}\n{ANSWER}\n"), text, cost


def thinks(request: Request, standing: Standing) -> bool | None:
    """Whether to think this time; None where that is not even tried.

    What the call says holds, then what the user said of the task. While it is tried, a fixed share
    of answers is thought over until it is as good as sure which is better; then the other way is
    still taken at a share of steps that decays as 1 / sqrt(steps).
    """
    wanted = standing.settings.steps if request.think is None else request.think
    if wanted is not None:
        return wanted or None
    paid = thinking(standing).paid
    if paid is None:
        return standing.answers % EVERY == EVERY - 1
    return paid is not explored(standing.answers)


def thinking(standing: Standing) -> Thinking:
    """What it was worth in a task."""
    over = standing.steps.get(True, (0.0, 0.0))
    at_once = standing.steps.get(False, (0.0, 0.0))
    better = _better(over, at_once)
    settled = over[0] >= TRIED and not 1 - SURE < better < SURE
    return Thinking(
        wanted=standing.settings.steps,
        over=over,
        at_once=at_once,
        better=better,
        paid=better >= SURE if settled else None,
    )


def _better(one: tuple[float, float], other: tuple[float, float]) -> float:
    """P(the first is right more often), of (feedback, right): Beta posteriors from uniform priors,
    as normal distributions of their means and variances."""
    (mean, spread), (other_mean, other_spread) = _moments(*one), _moments(*other)
    return (1 + erf((mean - other_mean) / sqrt(2 * (spread + other_spread)))) / 2


def _moments(told: float, right: float) -> tuple[float, float]:
    a, b = 1 + right, 1 + told - right
    return a / (a + b), a * b / ((a + b) ** 2 * (a + b + 1))
