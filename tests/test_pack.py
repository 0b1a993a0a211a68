"""Packing: the prompt contract, the budget, and what is said to be dropped."""

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tta.errors import InvalidSetting, ModelNotFound
from tta.retrieval import estimate
from tta.retrieval.pack import TURN_TOKENS, Packed, pack
from tta.types import Message, Recall, Recalled, Record, RecordKind, Request


def item(kind: RecordKind, answer: str, request: str = "", channel: str = "") -> Recalled:
    record = Record(
        id=f"{kind}-{request}-{answer}", kind=kind, user="ada", task="t",
        request=request, answer=answer, source="f", created=0.0,
    )  # fmt: skip
    return Recalled(record=record, score=0.5, channel=channel or kind.value)


def frozen(request: Request, answers: Sequence[str] | None = None) -> tuple[Message, ...]:
    """What is asked when nothing is recalled."""
    return pack(request, Recall(), budget=0, count=words, answers=answers).messages


def rule(text: str) -> Recalled:
    return item(RecordKind.RULE, text)


def case(request: str, answer: str, channel: str = "demonstration") -> Recalled:
    return item(RecordKind.CASE, answer, request, channel)


def words(text: str) -> int:
    return len(text.split())


def ask(*texts: str, system: str = "") -> Request:
    roles = ["user", "assistant"] * len(texts)
    turns = [Message(role=r, content=t) for r, t in zip(roles, texts, strict=False)]
    lead = [Message(role="system", content=system)] if system else []
    return Request(messages=(*lead, *turns), user="ada")


FULL = Recall(
    rules=(rule("old rule"), rule("new rule")),
    notes=(item(RecordKind.NOTE, "what I mean", "pattern"),),
    cases=(case("near", "A"), case("far", "B"), case("only a vote", "C", "vote")),
    rejected=(item(RecordKind.REJECTED, "refused", "near"),),
)


def test_the_prompt_has_the_agreed_form() -> None:
    request = ask("earlier", "reply", "question", system="Be kind.")
    packed = pack(request, FULL, budget=1_000, count=words, answers=("A", "B"))
    assert [(m.role, m.content) for m in packed.messages] == [
        (
            "system",
            "Be kind.\n\nRules:\n- old rule\n- new rule\n\nNotes:\n- what I mean\n\nAnswers: A, B",
        ),
        ("user", "far"),
        ("assistant", "B"),
        ("user", "near"),
        ("assistant", "A"),
        ("user", "earlier"),
        ("assistant", "reply"),
        ("user", "question"),
    ]
    assert packed.dropped == ()


def test_without_anything_to_say_there_is_no_system_turn() -> None:
    request = ask("question")
    assert pack(request, Recall(), budget=100, count=words).messages == request.messages
    assert frozen(request) == request.messages


def test_the_frozen_prompt_holds_nothing_recalled_but_lists_a_small_answer_set() -> None:
    small, large = ("yes", "no"), tuple(f"a{i}" for i in range(17))
    assert frozen(ask("question"), small)[0].content == "Answers: yes, no"
    assert frozen(ask("question"), large) == ask("question").messages


def test_what_was_refused_and_what_only_votes_is_never_shown() -> None:
    packed = pack(ask("question"), FULL, budget=1_000, count=words)
    text = "\n".join(m.content for m in packed.messages)
    assert "refused" not in text
    assert "only a vote" not in text


def test_a_tight_budget_drops_demonstrations_before_notes_before_rules() -> None:
    sizes = []
    for budget in range(120):
        packed = pack(ask("question"), FULL, budget=budget, count=words)
        kinds = Counter(item.record.kind for item in packed.shown)
        sizes.append((kinds[RecordKind.RULE], kinds[RecordKind.NOTE], kinds[RecordKind.CASE]))
    assert list(dict.fromkeys(sizes)) == [
        (0, 0, 0), (1, 0, 0), (2, 0, 0), (2, 1, 0), (2, 1, 1), (2, 1, 2)
    ]  # fmt: skip


def test_the_newest_rule_is_the_last_to_go() -> None:
    packed = pack(ask("question"), Recall(rules=FULL.rules), budget=12, count=words)
    assert [item.record.answer for item in packed.shown] == ["new rule"]


def test_a_rule_of_several_lines_stays_one_item() -> None:
    recall = Recall(rules=(rule("first\n\nsecond"),))
    packed = pack(ask("question"), recall, budget=100, count=words)
    assert packed.messages[0].content == "Rules:\n- first\n  second"


def test_a_tokenizer_counts_as_well_as_a_function() -> None:
    class Tokenizer:
        def count(self, text: str) -> int:
            return words(text)

    by_object = pack(ask("q"), FULL, budget=40, count=Tokenizer())
    assert by_object == pack(ask("q"), FULL, budget=40, count=words)


def test_a_negative_budget_is_refused() -> None:
    with pytest.raises(InvalidSetting, match="-1"):
        pack(ask("q"), FULL, budget=-1, count=words)


TEXT = st.text(alphabet="ab c\n", min_size=1, max_size=60).filter(str.strip)
RECALLS = st.builds(
    Recall,
    rules=st.lists(TEXT.map(rule), max_size=4).map(tuple),
    notes=st.lists(TEXT.map(lambda t: item(RecordKind.NOTE, t, "p")), max_size=3).map(tuple),
    cases=st.lists(st.builds(case, TEXT, TEXT), max_size=6).map(tuple),
    rejected=st.lists(TEXT.map(lambda t: item(RecordKind.REJECTED, t, "q")), max_size=3).map(tuple),
)


def size(messages: tuple[Message, ...]) -> int:
    return sum(len(m.content) for m in messages)


@given(RECALLS, st.integers(0, 400))
def test_what_is_shown_fits_and_nothing_is_lost(recall: Recall, budget: int) -> None:
    request = ask("earlier", "reply", "question", system="Be kind.")
    packed = pack(request, recall, budget=budget, count=len, answers=("a", "b"))
    assert size(packed.messages) - size(frozen(request, ("a", "b"))) <= packed.tokens <= budget
    offered = Counter((*recall.rules, *recall.notes, *recall.cases))
    assert Counter((*packed.shown, *packed.dropped)) == offered
    assert packed.messages[-3:] == request.messages[-3:]


@given(RECALLS)
def test_more_room_never_shows_less(recall: Recall) -> None:
    def packed(budget: int) -> Packed:
        return pack(ask("q"), recall, budget=budget, count=len)

    assert len(packed(10_000).shown) == len((*recall.rules, *recall.notes, *recall.cases))
    assert packed(0).shown == ()


def passage(text: str, score: float = 0.5) -> Recalled:
    found = item(RecordKind.PASSAGE, "book.md", text)
    return Recalled(record=found.record, score=score, channel="passage")


def scored(request: str, answer: str, score: float) -> Recalled:
    return Recalled(record=case(request, answer).record, score=score, channel="demonstration")


def test_passages_stand_below_the_notes_with_the_best_last() -> None:
    recall = Recall(rules=FULL.rules[:1], passages=(passage("best"), passage("second\nline", 0.4)))
    packed = pack(ask("question"), recall, budget=100, count=words, answers=("A", "B"))
    assert packed.messages[0].content == (
        "Rules:\n- old rule\n\nFacts:\n- second\n  line\n- best\n\nAnswers: A, B"
    )


def test_what_is_worth_more_for_its_tokens_is_shown() -> None:
    long = "word " * 40
    recall = Recall(passages=(passage(long, 0.6), passage("short and to the point", 0.5)))
    packed = pack(ask("question"), recall, budget=45, count=words)
    assert [r.record.request for r in packed.shown] == ["short and to the point"]
    assert packed.costs[packed.dropped[0].record.id] == 41


def test_another_answer_is_worth_more_than_the_same_once_more() -> None:
    near = [scored(f"near {i}", "A", 0.8) for i in range(3)]
    recall = Recall(cases=(*near, scored("less near", "B", 0.7)))
    shown = pack(ask("question"), recall, budget=40, count=words).shown
    assert sorted(r.record.answer for r in shown) == ["A", "B"]


def test_what_is_much_less_near_than_the_nearest_only_distracts() -> None:
    cases = tuple(
        scored(f"request {i}", f"answer {i}", score) for i, score in enumerate((0.9, 0.73, 0.7))
    )
    packed = pack(ask("question"), Recall(cases=cases), budget=1_000, count=words)
    assert [r.score for r in packed.shown] == [0.9, 0.73]
    assert [r.score for r in packed.dropped] == [0.7]


def test_demonstrations_and_passages_share_the_budget() -> None:
    cases = tuple(case(f"request {i}", f"answer {i}") for i in range(9))
    recall = Recall(cases=cases, passages=tuple(passage(f"fact number {i}") for i in range(9)))
    kinds = Counter(r.record.kind for r in pack(ask("q"), recall, budget=120, count=words).shown)
    assert kinds == {RecordKind.CASE: 3, RecordKind.PASSAGE: 9}


def test_every_cost_is_told_of_what_is_shown_and_of_what_is_not() -> None:
    packed = pack(ask("question"), FULL, budget=40, count=words)
    assert packed.costs.keys() == {r.record.id for r in (*packed.shown, *packed.dropped)}
    shown = sum(packed.costs[r.record.id] for r in packed.shown)
    assert 0 <= packed.tokens - shown <= 2 * (1 + TURN_TOKENS)  # the titles of the sections


def test_a_model_that_is_known_by_name_is_counted_with_tiktoken() -> None:
    recall = Recall(passages=(passage("Antidisestablishmentarianism."),))
    cost = pack(ask("q"), recall, budget=100, count="gpt-4o").costs
    assert list(cost.values()) == [8]
    with pytest.raises(ModelNotFound, match="no encoding for 'nonsense'"):
        pack(ask("q"), recall, budget=100, count="nonsense")


def test_an_estimate_needs_no_model() -> None:
    assert [estimate(text) for text in ("", "a", "four", "fives")] == [0, 1, 1, 2]
