"""What feedback has said of the experts, as values. Imports nothing of tta and no third party.

`tta.types`, where the other values are, has these names as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Powers:
    """To what power each expert's opinion is pooled, as far as feedback has said: the mean of a
    Gaussian by expert, and its precision matrix, whose rows are in the same order. Both empty
    before there is any (`decoding.pool` knows what holds then)."""

    mean: Mapping[str, float] = field(default_factory=dict)
    precision: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """What feedback has said of the experts of one (scope, task).

    `cells`: for each expert the probability that it is the one to listen to, split by how sharply
    to read it and by the share of wrong feedback (what the places mean is `decoding.mixture`'s to
    say); `mute`: that the feedback says nothing at all. Together they sum to 1.
    `log_loss`: nats of the mixture over all feedback; `expert_log_loss` the same of each expert
    alone (the mixture's where it was not asked); `allowance`: by how much the mixture's may exceed
    it, by theorem. `powers`: those of the expert that pools the others. `corrected` and `refused`:
    how often what was wrong in a closed set came with the right answer, and without.
    """

    cells: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    mute: float = 1.0
    feedback: int = 0
    log_loss: float = 0.0
    expert_log_loss: Mapping[str, float] = field(default_factory=dict)
    allowance: Mapping[str, float] = field(default_factory=dict)
    powers: Powers = field(default_factory=Powers)
    corrected: int = 0
    refused: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Sums over the feedback of one (scope, task) that says whether the answer was right, and of
    which it is known what the frozen model would have answered.

    `steps` of them; `adapted` and `frozen` right; `gained` and `gained_squared` sum the difference.
    """

    steps: int = 0
    adapted: float = 0.0
    frozen: float = 0.0
    gained: float = 0.0
    gained_squared: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Bias:
    """The sum of a model's log-probabilities over `count` requests: of answer a it is
    `rest + sums.get(a, 0)`."""

    count: int = 0
    rest: float = 0.0
    sums: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the user said of a task, against what was learned.

    `free`: open answers are held to no form. `samples`: so many at most where a call does not say
    (None: as learned). `steps`: whether the model thinks step by step before it answers (None:
    where that has paid off; it is tried). `experts`: weights (0 to 1, together at most 1) that
    hold whatever feedback says; the others share the rest.
    """

    free: bool = False
    samples: int | None = None
    steps: bool | None = False
    experts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Thinking:
    """Whether thinking step by step pays off in a task.

    `wanted`: what the user said (see `Settings.steps`). `over` and `at_once`: (feedback, right) of
    the answers that were thought over, and of the others while that was tried; `better` the
    probability that the former are right more often, and `paid` whether that is as good as sure.
    """

    wanted: bool | None = False
    over: tuple[float, float] = (0.0, 0.0)
    at_once: tuple[float, float] = (0.0, 0.0)
    better: float = 0.5
    paid: bool | None = None

    def __str__(self) -> str:
        verdict = {True: "pays off", False: "does not pay off", None: "unknown"}[self.paid]
        over, at_once = (f"{right:.0f} of {told:.0f}" for told, right in (self.over, self.at_once))
        return f"{verdict}: right {over} with steps, {at_once} without"


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What is known of the experts before a request is answered: their weights in its task,
    whether there was any feedback of this user (`experienced`), how many requests of the task were
    answered, the models' biases towards answers, by expert, and how often open answers were right:
    (feedback, right) for each fifth of the confidence that the experts had in them, `unaided` the
    same where the model was shown nothing that was recalled: it is as sure then, and wrong more
    often. `sampled` counts answers that more than one sample was drawn for: how often the best of
    the samples was right (`adapted`), and the first, greedy one (`frozen`); `first` (feedback,
    right) counts the first one wherever it was drawn; `steps` how often answers were right that
    were thought over step by step, and the others while that was tried. `settings` is what the
    user said."""

    weights: Weights = field(default_factory=Weights)
    experienced: bool = False
    answers: int = 0
    biases: Mapping[str, Bias] = field(default_factory=dict)
    reliability: tuple[tuple[float, float], ...] = ()
    unaided: tuple[tuple[float, float], ...] = ()
    sampled: Tally = field(default_factory=Tally)
    first: tuple[float, float] = (0.0, 0.0)
    steps: Mapping[bool, tuple[float, float]] = field(default_factory=dict)
    settings: Settings = field(default_factory=Settings)


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """How adaptation fares in one (scope, task).

    `feedback` counts what moved the weights: where there was one candidate only, nothing is said of
    the experts. `accuracy` and `frozen_accuracy` (0 to 1) are of the same `steps`, those whose
    feedback says what was right; after a mere "wrong", the frozen model's other answer counts by
    how probable it was. `gain` is their difference with its 95 % `interval`. `noise` is the
    inferred share of feedback that is wrong. `log_loss <= expert_log_loss[e] + bound` holds for
    the best expert, always.
    """

    user: str
    task: str
    feedback: int
    steps: int
    accuracy: float
    frozen_accuracy: float
    gain: float
    interval: tuple[float, float]
    weights: Mapping[str, float]
    noise: float
    muted: bool
    why: str
    log_loss: float
    expert_log_loss: Mapping[str, float]
    bound: float

    def __str__(self) -> str:
        return (
            f"{self.user}/{self.task}: {100 * self.accuracy:.1f} % adapted,"
            f" {100 * self.frozen_accuracy:.1f} % frozen over {self.steps} steps"
            f" ({100 * self.gain:+.1f}, {100 * self.interval[0]:+.1f} to"
            f" {100 * self.interval[1]:+.1f}); {self.why}"
        )
