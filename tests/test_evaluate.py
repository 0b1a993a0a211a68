"""The main job: the stream, who knows the right answers, the figures, and the files they come from.

Every chat is a real one without a language model: the similarity of names stands for it.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tta
from tta.errors import InvalidSetting, InvalidText
from tta.evaluate import Oracle, Percentiles, Report, Step, choices, evaluate, report, stream
from tta.labelled import Example, answers_of, check_targets, read_answers, read_examples
from tta.plot import plot, sliding
from tta.types import Choices, EventKind, RecordKind

TEAMS = ("amber", "coral", "indigo")
ASKS = ("Where is my {}?", "The {} is late.", "I lost the {}!", "Is there a new {}?")
THINGS = (("parcel", "amber"), ("password", "coral"), ("train ticket", "indigo"))
EXAMPLES = tuple(
    Example(text=ask.format(thing), target=team) for ask in ASKS for thing, team in THINGS
)
TWICE = [*EXAMPLES, *EXAMPLES]
TEXTS = [example.text for example in TWICE]
TARGETS = [example.target for example in TWICE]


@pytest.fixture
def chat() -> Iterator[tta.Adapted]:
    with tta.wrap(None) as chat:
        yield chat


def played(chat: tta.Adapted, targets: list[str]) -> list[str]:
    """The answers to all texts while an oracle with these targets gives feedback."""
    return [s.answer for s in stream(chat, TEXTS, Oracle(targets, TEAMS), choices(TEAMS))]


# ------------------------------------------------------------- who sees what is right, and when


@pytest.mark.parametrize("step", [0, 3, 7])
def test_an_answer_does_not_depend_on_its_own_or_any_later_target(step: int) -> None:
    poisoned = TARGETS[:step] + [TEAMS[TEAMS.index(t) - 1] for t in TARGETS[step:]]
    with tta.wrap(None) as one, tta.wrap(None) as other:
        honest, fooled = played(one, TARGETS), played(other, poisoned)
    assert honest[: step + 1] == fooled[: step + 1]
    assert honest[step + 1 :] != fooled[step + 1 :]  # while those before it do matter


class Watched:
    """A chat that notes everything it is handed."""

    def __init__(self, chat: tta.Adapted) -> None:
        self._chat = chat
        self.model = chat.model
        self.handed: list[tuple[Any, ...]] = []

    def __call__(
        self, prompt: str, *, task: str | None = None, output: object = None
    ) -> tta.Response:
        self.handed.append((prompt, task, output))
        return self._chat(prompt, task=task, output=output)

    def frozen(self, prompt: str, *, output: object = None) -> tta.Response:
        self.handed.append((prompt, None, output))
        return self._chat.frozen(prompt, output=output)


class Closed(Oracle):
    """An oracle that fails when a step is looked at before it was answered."""

    answered = -1

    def is_right(self, step: int, answer: str) -> bool:
        assert step <= self.answered
        return super().is_right(step, answer)

    def tell(self, step: int, reply: tta.Response) -> tta.Learned:
        self.answered = step
        return super().tell(step, reply)


def test_the_chat_is_handed_the_text_and_the_same_answers_whatever_is_right(
    chat: tta.Adapted,
) -> None:
    watched = Watched(chat)
    stream(watched, TEXTS, Closed(TARGETS, TEAMS), choices(TEAMS))
    output = Choices(answers=TEAMS)
    expected = [(text, task, output) for text in TEXTS for task in (None, "evaluate")]
    assert watched.handed == expected


def test_targets_that_are_noise_change_nothing_when_the_feedback_is_the_same(
    chat: tta.Adapted,
) -> None:
    class Scripted(Oracle):
        """Gives the honest feedback, whatever targets it was made with."""

        def tell(self, step: int, reply: tta.Response) -> tta.Learned:
            return Oracle(TARGETS, TEAMS).tell(step, reply)

    honest = played(chat, TARGETS)
    with tta.wrap(None) as other:
        noise = ["\x00 noise"] * len(TEXTS)
        taken = stream(other, TEXTS, Scripted(noise, TEAMS), choices(TEAMS))
    assert [step.answer for step in taken] == honest
    assert not any(step.right for step in taken)


# ---------------------------------------------------------------------------------- feedback


def test_a_correction_is_given_after_a_mistake_and_praise_otherwise(chat: tta.Adapted) -> None:
    found = evaluate(chat, EXAMPLES, TEAMS)
    kinds = [e.kind for e in chat.memory.events("default") if e.kind is not EventKind.ANSWERED]
    rights = [step.right for step in found.taken]
    assert kinds == [EventKind.RATING if r else EventKind.CORRECTION for r in rights]
    assert True in rights and False in rights


def test_with_a_bit_the_right_answer_is_never_told(chat: tta.Adapted) -> None:
    found = evaluate(chat, EXAMPLES, TEAMS, feedback="bit")
    kinds = {e.kind for e in chat.memory.events("default")}
    assert kinds == {EventKind.ANSWERED, EventKind.RATING}
    cases = chat.memory.records(user="default", kind=RecordKind.CASE)
    assert len(cases) == sum(step.right for step in found.taken)


def test_flipped_feedback_never_tells_the_right_answer_and_scores_stay_honest(
    chat: tta.Adapted,
) -> None:
    found = evaluate(chat, EXAMPLES, TEAMS, flip=1.0)
    right = {example.text: example.target for example in EXAMPLES}
    cases = chat.memory.records(user="default", kind=RecordKind.CASE)
    assert cases
    assert all(case.answer != right[case.request] for case in cases)
    # Counted by the true targets, learning from nothing but errors cannot look good.
    assert found.adapted.accuracy <= found.frozen.accuracy


def test_the_same_seed_gives_the_same_stream(chat: tta.Adapted) -> None:
    with tta.wrap(None) as other:
        one = evaluate(chat, EXAMPLES, TEAMS, flip=0.3, seed=7)
        two = evaluate(other, EXAMPLES, TEAMS, flip=0.3, seed=7)
    assert [s.answer for s in one.taken] == [s.answer for s in two.taken]


def test_another_seed_gives_another_order(chat: tta.Adapted) -> None:
    watched = Watched(chat)
    evaluate(watched, EXAMPLES, TEAMS, seed=1)
    first = [handed[0] for handed in watched.handed]
    watched.handed.clear()
    evaluate(watched, EXAMPLES, TEAMS, seed=2)
    assert sorted(first) == sorted(handed[0] for handed in watched.handed)
    assert first != [handed[0] for handed in watched.handed]


def test_learning_beats_the_frozen_model(chat: tta.Adapted) -> None:
    found = evaluate(chat, EXAMPLES * 4, TEAMS)
    assert found.adapted.last_fifth == 1.0
    assert found.adapted.accuracy > found.frozen.accuracy + 0.2


@pytest.mark.parametrize(
    "settings", [{"feedback": "shrug"}, {"flip": 1.5}, {"flip": -0.1}, {"steps": 0}]
)
def test_settings_out_of_range_are_refused(chat: tta.Adapted, settings: dict[str, Any]) -> None:
    with pytest.raises(InvalidSetting):
        evaluate(chat, EXAMPLES, TEAMS, **settings)


def test_no_examples_is_an_error(chat: tta.Adapted) -> None:
    with pytest.raises(InvalidText):
        evaluate(chat, (), TEAMS)


# ----------------------------------------------------------------------------------- figures


def steps(rights: str) -> list[Step]:
    """One step a letter: `x` right, `-` wrong; the frozen model is right at every other."""
    return [
        Step(answer="", frozen="", right=c == "x", frozen_right=i % 2 == 0, ms=i, learn_ms=i / 10)
        for i, c in enumerate(rights)
    ]


def summed(rights: str) -> Report:
    return report(steps(rights), feedback="correct", unchanged=True)


def test_the_report_has_the_figures_that_were_asked_for() -> None:
    assert summed("----x" + "xx--x" + "xxxxx" + "-xxx").to_dict() == {
        "steps": 19,
        "adapted": {"accuracy": 0.6316, "last_fifth": 0.75},
        "frozen": {"accuracy": 0.5263, "last_fifth": 0.5},
        "calibration_error": 0.3684,  # always sure, and right in 12 of 19
        "feedback": "correct",
        "ms_per_step": {"p50": 9, "p95": 18},
        "learn_ms": {"p50": 0.9, "p95": 1.8},
        "weights_unchanged": True,
    }


def test_the_fifths_cover_every_step_once() -> None:
    for count in (1, 2, 4, 5, 7, 23):
        fifths = summed("x" * count).fifths()
        covered = [step for first, last, *_ in fifths for step in range(first, last + 1)]
        assert covered == list(range(1, count + 1))
    assert [row[2] for row in summed("-----xxxxx").fifths()] == [0, 0, 0.5, 1, 1]


def test_one_step_is_enough_for_a_report(chat: tta.Adapted) -> None:
    found = evaluate(chat, EXAMPLES, TEAMS, steps=1)
    assert (found.steps, len(found.fifths())) == (1, 1)
    assert found.ms_per_step == Percentiles(p50=found.ms_per_step.p50, p95=found.ms_per_step.p50)


def test_weights_that_change_during_the_run_are_reported() -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model, tokenizer = tta.bundled()
    config = model.config
    model = AutoModelForCausalLM.from_config(config).eval()
    with tta.wrap(model, tokenizer) as chat:
        assert evaluate(chat, EXAMPLES, TEAMS, steps=2).weights_unchanged

        def meddle(_: Step) -> None:
            with torch.no_grad():
                next(model.parameters())[0, 0] += 1

        assert not evaluate(chat, EXAMPLES, TEAMS, steps=2, progress=meddle).weights_unchanged


def test_the_sliding_share_looks_back_as_far_as_it_can() -> None:
    assert sliding([True, False, False, True], 2) == [1.0, 0.5, 0.0, 0.5]


def test_the_curve_is_drawn_without_a_display(tmp_path: Path) -> None:
    plot(summed("--xx" * 10), tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InvalidSetting, match="nowhere"):
        plot(summed("x"), tmp_path / "nowhere" / "curve.png")
    with pytest.raises(InvalidSetting, match="nonsense"):
        plot(summed("x"), tmp_path / "curve.nonsense")


# ------------------------------------------------------------------------------------- files


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


def read(path: Path) -> list[tuple[str, str]]:
    return [(e.text, e.target) for e in read_examples(path, text="text", target="label")]


def test_a_table_is_read_with_its_quotes_breaks_and_byte_order_mark(tmp_path: Path) -> None:
    table = '\ufefftext,label,other\r\n"a, ""b""\r\nc\u2028d",x,1\r\n\r\né,y,2\r\n'
    assert read(write(tmp_path / "a.csv", table)) == [('a, "b"\r\nc\u2028d', "x"), ("é", "y")]
    assert read(write(tmp_path / "a.tsv", "label\ttext\nx\ta, b\n")) == [("a, b", "x")]


def test_json_lines_are_read_with_numbers_as_labels(tmp_path: Path) -> None:
    lines = '{"text": "a\u2028b", "label": 3}\n\n{"label": "y", "text": "\\u00e9", "z": null}\n'
    expected = [("a\u2028b", "3"), ("é", "y")]
    assert read(write(tmp_path / "a.jsonl", lines)) == expected
    assert read(write(tmp_path / "a.ndjson", lines)) == expected


@pytest.mark.parametrize(
    ("name", "text", "error", "says"),
    [
        ("a.csv", "text,other\na,b\n", InvalidSetting, "no column 'label'.*'text', 'other'"),
        ("a.csv", "", InvalidText, "no examples"),
        ("a.csv", "text,label\n", InvalidText, "no examples"),
        ("a.csv", "text,label\na,x\nb\n", InvalidText, "line 3: column 'label' holds None"),
        ("a.csv", "text,label\na,x,y\n", InvalidText, "line 2: more cells"),
        ("a.csv", "text,label\n ,x\n", InvalidText, "line 2: column 'text' holds ' '"),
        ("a.csv", 'text,label\n"a,x\n', InvalidText, "line 1: unexpected end"),
        ("a.jsonl", "", InvalidText, "no examples"),
        ("a.jsonl", '{"text": "a", "label": "x"}\n{"text"\n', InvalidText, "line 2: Expecting"),
        ("a.jsonl", "[1]\n", InvalidText, "line 1: not a JSON object"),
        ("a.jsonl", '{"text": "a", "label": null}\n', InvalidText, "line 1: .*None"),
        ("a.jsonl", '{"text": "a", "label": true}\n', InvalidText, "line 1: .*True"),
        ("a.jsonl", '{"text": "a"}\n', InvalidSetting, "line 1: no column 'label'"),
        ("a.txt", "text,label\n", InvalidSetting, "ending '.txt'"),
    ],
)
def test_a_file_that_cannot_be_used_says_where_and_why(
    tmp_path: Path, name: str, text: str, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        read(write(tmp_path / name, text))


def test_a_file_that_is_missing_a_folder_or_not_utf_8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "latin.csv").write_bytes("text,label\né,x\n".encode("latin-1"))
    for name, error in (
        ("gone.csv", InvalidSetting),
        ("folder.csv", InvalidSetting),
        ("latin.csv", InvalidText),
    ):
        with pytest.raises(error, match=name):
            read(tmp_path / name)


def test_labels_are_a_list_or_described(tmp_path: Path) -> None:
    assert read_answers(write(tmp_path / "a.json", '["b", "a"]')) == {"b": "", "a": ""}
    described = read_answers(write(tmp_path / "a.json", '{"b": "letter b", "a": ""}'))
    assert described == {"b": "letter b", "a": ""}
    assert choices(described) == Choices(answers=("b", "a"), descriptions={"b": "letter b"})


@pytest.mark.parametrize("text", ["[]", "{}", "3", "[1]", '{"a": 1}', "{", '"a"', "null"])
def test_labels_that_are_none_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(InvalidText):
        read_answers(write(tmp_path / "a.json", text))


def test_without_labels_the_distinct_targets_are_the_answers() -> None:
    assert list(answers_of(EXAMPLES)) == sorted(TEAMS)


def test_a_target_outside_the_answers_is_refused() -> None:
    with pytest.raises(InvalidSetting, match="'indigo'"):
        check_targets(EXAMPLES, {"amber": "", "coral": ""})


def test_a_report_is_json(chat: tta.Adapted) -> None:
    found = evaluate(chat, EXAMPLES, TEAMS, steps=3)
    assert json.loads(json.dumps(found.to_dict()))["steps"] == 3
