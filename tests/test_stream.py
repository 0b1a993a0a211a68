"""The benchmark's own rules: who may know what is right, what each stress does, and what counts as
harm. Small streams, real parts."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import build, train_tokenizer
from streamed import EXAMPLES, SET, TEAMS, Watcher, drawn, long

from benchmarks import figures, streams
from benchmarks.bench import Bench
from benchmarks.cell import Plan, leaks, run
from benchmarks.generated import GENERATED
from benchmarks.methods import METHODS, Tta, make, smallest_edit
from benchmarks.oracle import Oracle, Regime, Told
from benchmarks.play import Asking, Step, play
from benchmarks.prompting import levenshtein
from benchmarks.stream import main
from benchmarks.streams import Drawn
from benchmarks.suite import matching
from tta.decoding import load
from tta.errors import InvalidSetting
from tta.testing import HashEmbedder
from tta.types import RecordKind


@pytest.fixture
def bench() -> Bench:
    """No language model: the answers' names stand for it."""
    return Bench(None, HashEmbedder())


@pytest.fixture(scope="module")
def tiny() -> Bench:
    """A language model with random weights and a context of 256 tokens."""
    return Bench(load(build("lfm2"), train_tokenizer(chat=True)), HashEmbedder())


def tellings(regime: Regime, stream: Drawn, *, seed: int = 2) -> Watcher:
    watcher = Watcher()
    play(watcher, stream, Oracle(stream, regime, seed=seed), delay=regime.delay)
    return watcher


# ------------------------------------------------------------------------- who knows what is right


class Scripted(Oracle):
    """Gives another oracle's feedback, whatever targets it was made with."""

    def __init__(self, honest: Oracle, poisoned: Drawn, regime: Regime) -> None:
        super().__init__(poisoned, regime, seed=2)
        self._honest = honest

    def tell(self, step: int, text: str, notes: Sequence[str] = ()) -> Told | None:
        return self._honest.tell(step, text, notes)


@pytest.mark.parametrize("feedback", ["label", "bit"])
@pytest.mark.parametrize("name", list(METHODS))
def test_targets_that_are_noise_change_no_answer_when_the_feedback_is_the_same(
    name: str, feedback: str, bench: Bench, tiny: Bench
) -> None:
    used = tiny if METHODS[name].prompts or "memprompt" in name else bench
    regime, honest = Regime(feedback=feedback), drawn(10)
    poisoned = replace(honest, targets=tuple(f"\x00{i}" for i in range(10)))
    texts = []
    for oracle, stream in (
        (Oracle(honest, regime, seed=2), honest),
        (Scripted(Oracle(honest, regime, seed=2), poisoned, regime), poisoned),
    ):
        method = make(name, used, stream.stream, 2)
        texts.append([step.text for step in play(method, stream, oracle)])
    assert texts[0] == texts[1]


def test_no_value_that_a_method_is_handed_holds_the_target() -> None:
    honest = drawn()
    assert not any(hasattr(honest.stream, name) for name in ("targets", "target"))
    assert not any(hasattr(item, "target") for item in honest.stream.items)
    held_out = {item.text for item, _ in honest.stream.shots}
    assert held_out and held_out.isdisjoint(item.text for item in honest.stream.items)


def test_an_answer_is_given_before_its_feedback() -> None:
    watcher = tellings(Regime(), drawn())
    assert [(at, text) for at, text, _ in watcher.told] == list(enumerate(watcher.seen, 1))


def test_the_order_is_numpys_permutation() -> None:
    order = np.random.default_rng(7).permutation(len(EXAMPLES))[:9]
    assert [i.text for i in drawn(9, 7).stream.items] == [EXAMPLES[i].text for i in order]


# --------------------------------------------------------------------------------- what is told


def test_by_label_the_right_answer_is_told_and_by_bit_it_never_is() -> None:
    stream = drawn()
    labels = [told for _, _, told in tellings(Regime(), stream).told]
    assert [told.answer for told in labels] == list(stream.targets)
    bits = [told for _, _, told in tellings(Regime(feedback="bit"), stream).told]
    assert all(told.answer is None for told in bits)
    assert [told.right for told in bits] == [t == TEAMS[0] for t in stream.targets]
    assert [told.right for told in labels] == [told.right for told in bits]


def test_a_flipped_label_is_any_answer_and_a_flipped_bit_is_inverted() -> None:
    stream = long(4000)
    told = [t.answer for _, _, t in tellings(Regime(flip=0.4), stream).told]
    wrong = [a for a, target in zip(told, stream.targets, strict=True) if a != target]
    # An eighth of the flips draw the right answer by chance.
    assert abs(len(wrong) / 4000 - 0.4 * 7 / 8) < 0.03
    assert min(Counter(wrong).values()) > 0.5 * len(wrong) / len(TEAMS)
    bits = [t.right for _, _, t in tellings(Regime(feedback="bit", flip=0.4), stream).told]
    inverted = [b != (t == TEAMS[0]) for b, t in zip(bits, stream.targets, strict=True)]
    assert abs(np.mean(inverted) - 0.4) < 0.03


@pytest.mark.parametrize("feedback", ["label", "bit"])
def test_noise_tells_nothing_about_what_is_right(feedback: str) -> None:
    stream = long(4000)
    told = tellings(Regime(feedback=feedback, noise=True), stream).told
    right = np.array([target == TEAMS[0] for target in stream.targets])
    said = np.array([t.right for _, _, t in told])
    expected = 1 / 8 if feedback == "label" else 0.5
    assert abs(said[right].mean() - expected) < 0.07
    assert abs(said[~right].mean() - expected) < 0.05


def test_feedback_comes_on_its_share_of_steps() -> None:
    stream = long(4000)
    assert abs(len(tellings(Regime(every=0.3), stream).told) / 4000 - 0.3) < 0.03
    assert not tellings(Regime(every=0), stream).told


def test_late_feedback_is_about_the_step_that_it_was_late_for() -> None:
    stream = drawn()
    watcher = tellings(Regime(delay=5), stream)
    assert [at for at, _, _ in watcher.told] == list(range(6, 25))
    assert [text for _, text, _ in watcher.told] == watcher.seen[:19]
    assert [told.answer for _, _, told in watcher.told] == list(stream.targets[:19])


def test_every_method_meets_the_same_flips_and_silences() -> None:
    stream, regime = long(400), Regime(feedback="bit", flip=0.3, every=0.5)
    one, other = (tellings(regime, stream).told for _ in range(2))
    assert one == other
    different = tellings(regime, stream, seed=3).told
    assert [t for t, *_ in one] != [t for t, *_ in different]


def test_drift_permutes_a_quarter_of_the_labels_in_the_second_half() -> None:
    still, moved = drawn(40), drawn(40, drift=True)
    assert moved.targets[:20] == still.targets[:20]
    pairs = set(zip(still.targets[20:], moved.targets[20:], strict=True))
    changed = {a: b for a, b in pairs if a != b}
    assert set(changed) == set(changed.values()) and len(changed) == 2
    assert moved.stream.blocks == (0, 20)


def test_users_in_conflict_relabel_their_share_and_keep_to_it() -> None:
    base = drawn(40)
    for share, moved in ((0.0, 0), (0.4, 3)):
        found = streams.conflict(SET, seed=2, steps=40, users=3, share=share)
        said: dict[tuple[str, str], set[str]] = {}
        for item, was, now in zip(found.stream.items, base.targets, found.targets, strict=True):
            said.setdefault((item.user, was), set()).add(now)
        assert all(len(answers) == 1 for answers in said.values())
        own = [(user, was) for (user, was), (now,) in said.items() if was != now]
        assert max(Counter(user for user, _ in own).values(), default=0) <= moved
        assert bool(own) == bool(moved)


def test_recurrence_returns_to_the_first_set_with_other_requests() -> None:
    other = replace(SET, name="others")
    found = streams.recur(SET, other, seed=2, steps=30)
    tasks = [item.task for item in found.stream.items]
    assert tasks == ["teams"] * 10 + ["others"] * 10 + ["teams"] * 10
    texts = [item.text for item in found.stream.items]
    assert not set(texts[:10]) & set(texts[20:])
    assert found.stream.blocks == (0, 10, 20)


@pytest.mark.parametrize("name", list(GENERATED))
def test_generated_streams_are_open_repeatable_and_fresh_for_each_seed(name: str) -> None:
    one, again, other = (GENERATED[name](seed, 30) for seed in (2, 2, 3))
    assert one == again
    assert one != other
    assert len(one.targets) == len(one.stream.items) == 30
    assert all(item.answers is None for item in one.stream.items)


def test_a_fact_has_one_value_in_every_wording() -> None:
    found = GENERATED["facts"](2, 400)
    known: dict[frozenset[str], set[str]] = {}
    for item, target in zip(found.stream.items, found.targets, strict=True):
        words = item.text.replace("'s", "").rstrip("?.").split()
        about = frozenset(words) - {"What", "is", "Tell", "me", "the", "of"}
        known.setdefault(about, set()).add(target)
    assert len(known) == 40
    assert all(len(values) == 1 for values in known.values())


@pytest.mark.parametrize("bad", [{"flip": 1.5}, {"every": -1}, {"delay": -1}, {"feedback": "x"}])
def test_regimes_out_of_range_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(InvalidSetting):
        Regime(**bad)  # type: ignore[arg-type]


# -------------------------------------------------------------------------------- tta in the loop


def test_tta_is_told_in_the_verbs_of_its_user(bench: Bench) -> None:
    stream = drawn()
    method = Tta(bench)
    play(method, stream, Oracle(stream, Regime(), seed=2))
    cases = {
        r.request: r.answer
        for r in method.chat.memory.records(user="default", kind=RecordKind.CASE)
    }
    items = [item.text for item in stream.stream.items]
    assert cases == dict(zip(items, stream.targets, strict=True))


def test_the_smallest_edit_turns_one_answer_into_the_other() -> None:
    texts = ["", "a", "ab", "12/03/2020", "2020-03-12", "aab", "ba", "Dear Ada,", "Dear Bob,"]
    for old in texts:
        for new in texts:
            start, stop, text = smallest_edit(old, new)
            assert old[:start] + text + old[stop:] == new
    assert smallest_edit("Dear Ada,", "Dear Bob,") == (5, 8, "Bob")


def test_what_one_user_is_told_changes_no_answer_to_another(bench: Bench) -> None:
    stream = streams.conflict(SET, seed=2, steps=30, users=3, share=0.4)
    assert leaks(bench, stream, seed=2) == 0


def test_asking_at_random_asks_on_its_share_of_steps() -> None:
    stream = long(2000)
    asking = Asking(share=0.3, chosen=False, seed=2)
    steps = play(Watcher(), stream, Oracle(stream, Regime(), seed=2), asking=asking)
    assert abs(np.mean([step.asked for step in steps]) - 0.3) < 0.04


# ------------------------------------------------------------------------------------ the figures


def steps(rights: str, confidence: float | None = None) -> tuple[Step, ...]:
    return tuple(
        Step(
            text="", right=c == "x", confidence=confidence, distance=0.0, tokens=3, reused=0,
            passes=2, shown=1, ms=1.0, learn_ms=0.5, asked=True,
        )
        for c in rights
    )  # fmt: skip


def test_harm_is_more_than_a_point_below_frozen_and_not_by_chance() -> None:
    frozen = [steps("x" * 100)]
    assert figures.paired([steps("-" * 6 + "x" * 94)], frozen).harmful
    assert not figures.paired([steps("-" * 5 + "x" * 95)], frozen).harmful  # p = .0625
    slightly = [steps("-" * 9 + "x" * 991)]
    assert figures.paired(slightly, [steps("x" * 1000)]).p < 0.05
    assert not figures.paired(slightly, [steps("x" * 1000)]).harmful  # within a point
    assert not figures.paired(frozen, [steps("-" * 100)]).harmful


def test_harm_is_pooled_over_the_orders() -> None:
    half = [steps("-" * 3 + "x" * 97)]
    assert not figures.paired(half, [steps("x" * 100)]).harmful
    assert figures.paired(half * 2, [steps("x" * 100)] * 2).harmful


def test_the_sign_test_is_the_exact_binomial() -> None:
    assert figures.sign_test(0, 5) == pytest.approx(2 / 32)
    assert figures.sign_test(1, 5) == pytest.approx(2 * 7 / 64)
    assert figures.sign_test(4, 4) == 1.0
    assert figures.sign_test(0, 0) == 1.0


def test_confidence_that_is_right_on_average_has_no_calibration_error() -> None:
    assert figures.ece(steps("x-x-", confidence=0.5)) == pytest.approx(0)
    assert figures.ece(steps("xxxx", confidence=0.25)) == pytest.approx(75)
    mixed = (*steps("xx", confidence=0.9), *steps("--", confidence=0.3))
    assert figures.ece(mixed) == pytest.approx(100 * (0.1 + 0.3) / 2)


def test_the_summary_has_percent_the_last_fifth_and_the_spread_of_orders() -> None:
    found = figures.summary([steps("-----xxxxx"), steps("xxxxxxxxxx")], (0, 5))
    assert (found["prequential"], found["last"]) == (75.0, 100.0)
    assert found["sd"] == pytest.approx(35.36)
    assert found["blocks"] == [50.0, 100.0]
    assert (found["tokens"], found["passes"]) == (3.0, 2.0)


def test_recovery_counts_the_steps_until_nine_tenths_are_back() -> None:
    run_ = steps("x" * 200 + "-" * 60 + "x" * 200)
    assert figures.recovery([run_], 200) == 50  # ten of a hundred may still be wrong
    assert figures.recovery([steps("x" * 200 + "-" * 200)], 200) is None


def test_an_expert_says_what_frozen_says_until_it_knows_something() -> None:
    told = [{"frozen": True}, {"frozen": True, "a": False}, {"frozen": True, "a": True}]
    run_ = [replace(step, experts=e) for step, e in zip(steps("xxx"), told, strict=True)]
    assert figures.experts([run_]) == {"a": pytest.approx(66.67), "frozen": 100.0}
    skipped = [replace(step, experts={"a": True} if i < 2 else {}) for i, step in enumerate(run_)]
    assert figures.experts([skipped]) == {}
    assert figures.best_expert([skipped]) is None


def test_the_best_expert_is_compared_with_the_mixture_step_by_step() -> None:
    mixture, alone = steps("x" * 50 + "-" * 50), steps("x" * 44 + "-" * 6 + "x" * 50)
    run_ = [
        replace(step, experts={"frozen": False, "a": other.right})
        for step, other in zip(mixture, alone, strict=True)
    ]
    best = figures.best_expert([run_, run_])
    assert best is not None
    name, against = best
    assert (name, against.gain) == ("a", 44.0)
    assert against.p == figures.sign_test(100, 12)


def test_edit_distances_are_levenshteins() -> None:
    assert levenshtein("kitten", "sitting") == 3
    assert levenshtein("", "abc") == 3
    assert levenshtein("abc", "abc", 6) == 0
    assert levenshtein("abcdefgh", "x", 6) >= 6


# ------------------------------------------------------------------------------- the command line


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "teams.csv"
    rows = "\n".join(f'"{e.text}",{e.target}' for e in EXAMPLES)
    path.write_text(f"text,team\n{rows}\n")
    return path


def test_a_file_gives_a_table_and_figures_in_percent(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = file.parent / "out.json"
    words = f"--file {file} --input text --target team --model none --steps 24 --seeds 2,3"
    status = main([*words.split(), "--json", str(out)], embedder=HashEmbedder())
    found, shown = json.loads(out.read_text()), capsys.readouterr().out
    assert status == 0
    assert found["harm"] == 0
    assert found["left_out"]["self-streamicl-16"] == "needs a language model"
    tta_ = found["methods"]["tta"]
    assert {"prequential", "last", "sd", "tokens", "passes", "ms"} <= set(tta_)
    assert tta_["prequential"] == pytest.approx(np.mean(tta_["orders"]), abs=0.01)
    assert 1 < tta_["prequential"] <= 100
    assert tta_["passes"] == 0
    assert "left out: growprompt" in shown
    assert f"{tta_['prequential']:.1f}" in shown
    assert "weights: unchanged" in shown


def test_with_a_language_model_all_methods_run_on_equal_terms(tiny: Bench) -> None:
    plan = Plan(draw=lambda seed, n: drawn(n, seed), steps=4, seeds=(2,))
    found = run(tiny, plan)
    assert not found.left_out
    assert found.weights_unchanged
    methods = found.methods()
    assert {"16-shot", "gold-streamicl", "growprompt", "knn-prompting"} <= set(methods)
    assert methods["frozen"]["passes"] == methods["frozen+calibration"]["passes"] > 0
    assert methods["knn-5"]["passes"] == 0


@pytest.mark.parametrize(
    "words",
    ["", "--stream nothing", "--file a --stream trec", "--suite nothing/*", "--file gone.csv"],
)
def test_input_that_cannot_be_used_says_so(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words.split(), "--model", "none"], embedder=HashEmbedder()) == 2
    assert ": " in capsys.readouterr().err


def test_the_matrix_can_be_run_in_parts() -> None:
    every, bits = matching(["*"]), matching(["trec/bit/*"])
    assert len({cell.name for cell in every}) == len(every)
    assert {cell.stress for cell in bits} >= {"plain", "flip20", "delay50", "noise", "drift"}
    assert all(cell.regime.feedback == "bit" for cell in bits)


@pytest.mark.skipif("TTA_DATA" not in os.environ, reason="TTA_DATA names no data")
def test_a_question_is_understood_when_its_clarification_is_shown() -> None:
    stream = streams.clarifications("hin", seed=2, steps=60)
    oracle = Oracle(stream, Regime(note=1.0), seed=2)
    said, meant = stream.clarifications[0], stream.targets[0]
    other = next(
        c for c, t in zip(stream.clarifications, stream.targets, strict=True) if t != meant
    )
    assert oracle.right(0, "", (said,))
    assert not oracle.right(0, meant, ())
    assert not oracle.right(0, "", (said, other))
    assert oracle.tell(0, meant) == Told(note=said)
    assert oracle.tell(0, "", (said,)) is None
    method = Tta(Bench(None, HashEmbedder()))
    understood = [step.right for step in play(method, stream, oracle)]
    assert sum(understood[:15]) < 15
    assert np.mean(understood[30:]) > 0.9
