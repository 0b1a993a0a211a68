import dataclasses
import datetime
import enum
import json
import re
from typing import Annotated, Literal

import jsonschema  # type: ignore[import-untyped]
import pytest
import torch
from pydantic import BaseModel, Field
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from typing_extensions import TypedDict

from tta.decoding import HFModel, Output, load
from tta.errors import InvalidOutput, UnsupportedModel
from tta.types import Candidate, Choices, Finish, Grammar, Message, Regex

ASK = (Message(role="user", content="Where is my parcel?"),)


class Colour(enum.Enum):
    RED = "red"
    BLUE = "dark blue"


class Size(enum.IntEnum):
    SMALL = 1
    LARGE = 2


class Person(BaseModel):
    name: str = Field(max_length=8)
    age: int = Field(ge=0, le=120)
    colour: Literal["red", "blue"]


@dataclasses.dataclass
class Point:
    x: Annotated[int, Field(ge=-9, le=9)]
    y: Annotated[int, Field(ge=-9, le=9)]


class Row(TypedDict):
    ok: bool
    tag: Literal["a", "b"]


class Cat(BaseModel):
    kind: Literal["cat"]


class Dog(BaseModel):
    kind: Literal["dog"]
    good: bool


SCHEMA = {
    "type": "object",
    "properties": {
        "id": {"type": "integer", "minimum": 0, "maximum": 9},
        "on": {"type": "boolean"},
    },
    "required": ["id", "on"],
    "additionalProperties": False,
}


@pytest.fixture
def model(tiny_llama: PreTrainedModel, chat_tokenizer: PreTrainedTokenizerFast) -> HFModel:
    """Random weights: whatever is right about its answers is the constraint's doing."""
    return load(tiny_llama, chat_tokenizer)


def drawn(model: HFModel, output: object, *, seeds: int = 4, tokens: int = 80) -> list[Candidate]:
    prompt = model.render(ASK)
    return [
        candidate
        for seed in range(seeds)
        for candidate in model.draw(prompt, n=6, max_new_tokens=tokens, seed=seed, output=output)[0]
    ]


# ---------------------------------------------------------------------------------- closed


@pytest.mark.parametrize(
    ("output", "choices", "values"),
    [
        (Literal["yes", "no"], ("yes", "no"), ("yes", "no")),
        (Literal["a", 1, None], ("a", "1", "None"), ("a", 1, None)),
        (Colour, ("red", "dark blue"), (Colour.RED, Colour.BLUE)),
        (Size, ("1", "2"), (Size.SMALL, Size.LARGE)),
        (bool, ("True", "False"), (True, False)),
        (["card lost", "card"], ("card lost", "card"), ("card lost", "card")),
        ((1, 2.5), ("1", "2.5"), (1, 2.5)),
        ([Colour.RED], ("red",), (Colour.RED,)),
    ],
)
def test_a_closed_set_has_its_texts_and_reads_back_its_members(
    output: object, choices: tuple[str, ...], values: tuple[object, ...]
) -> None:
    read = Output.of(output)
    assert read is not None
    assert read.choices == choices
    assert tuple(read.parse(text) for text in choices) == values
    with pytest.raises(InvalidOutput, match="nonsense"):
        read.parse("nonsense")


def test_drawing_from_a_closed_set_stays_in_it_and_reaches_all_of_it(model: HFModel) -> None:
    output = ["card", "card lost", "a.b*c|(d)", 'say "hi"\n\\', "über 日本"]
    texts = {c.text for c in drawn(model, output)}
    assert texts <= set(output)
    assert len(texts) > 2


@pytest.mark.parametrize(
    "output", [[], Literal[()], ["a", "a"], Literal["1", 1], ["a", ""], ["a", " "], [["a"]]]
)
def test_a_set_without_choices_with_empty_or_repeated_ones_is_refused(output: object) -> None:
    with pytest.raises(InvalidOutput):
        Output.of(output)


def test_free_text_has_no_constraint() -> None:
    assert Output.of(None) is None
    assert Output.of(str) is None


# ------------------------------------------------------------------------------------ open


@pytest.mark.parametrize(
    "pattern",
    [
        r"[A-Z]{3}-\d+",
        r"\d{4}-[\d.]{2}",
        r"(yes|no), [a-z ]{1,10}\.",
        r"\w+@\w{2,5}\.(com|org)",
        r"[\w.-]{2}|[\w-]{3}|[-\w\d]{4}|[^\W\d_]{5}",
        r"[^a-z]{2,4}",
        r".{3,5}!",
        r"\[[\]\\d]{2}\]",
    ],
)
def test_every_complete_answer_matches_the_whole_pattern(model: HFModel, pattern: str) -> None:
    candidates = drawn(model, Regex(pattern=pattern))
    complete = [c for c in candidates if c.finish is Finish.STOP]
    assert len(complete) > len(candidates) // 4
    output = Output.of(Regex(pattern=pattern))
    assert output is not None
    for candidate in complete:
        assert re.fullmatch(pattern, candidate.text), candidate.text
        assert output.parse(candidate.text) == candidate.text


@pytest.mark.parametrize("kind", [Person, Point, Row, list[Point], dict[str, bool] | None])
def test_json_of_a_type_always_validates(model: HFModel, kind: object) -> None:
    output = Output.of(kind)
    assert output is not None
    complete = [c for c in drawn(model, kind) if c.finish is Finish.STOP]
    assert len(complete) > 4
    for candidate in complete:
        value = output.parse(candidate.text)
        if isinstance(kind, type) and kind is not Row:
            assert type(value) is kind


@pytest.mark.parametrize("schema", [SCHEMA, json.dumps(SCHEMA)])
def test_json_of_a_schema_always_validates(model: HFModel, schema: object) -> None:
    output = Output.of(schema)
    assert output is not None
    for candidate in drawn(model, schema):
        assert candidate.finish is Finish.STOP
        jsonschema.validate(output.parse(candidate.text), SCHEMA)


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (int, "-12", -12),
        (float, "2.5", 2.5),
        (datetime.date, "2026-11-22", datetime.date(2026, 11, 22)),
        (Person, '{"name": "Ada", "age": 36, "colour": "red"}', None),
        (Point, '{"x": 1, "y": 2}', Point(1, 2)),
        (Row, '{"ok": true, "tag": "a"}', {"ok": True, "tag": "a"}),
        (list[int], "[1, 2]", [1, 2]),
        (SCHEMA, '{"id": 3, "on": true}', {"id": 3, "on": True}),
        (Grammar(lark='start: "a" | "b"'), "a", "a"),
    ],
)
def test_answers_are_read_as_values_of_the_type(kind: object, text: str, value: object) -> None:
    output = Output.of(kind)
    assert output is not None
    assert output.choices is None
    expected = Person(name="Ada", age=36, colour="red") if value is None else value
    assert output.parse(text) == expected


def test_a_union_told_apart_by_a_constant_is_drawn_and_read(model: HFModel) -> None:
    union = Annotated[Cat | Dog, Field(discriminator="kind")]
    output = Output.of(union)
    assert output is not None
    assert {type(output.parse(c.text)) for c in drawn(model, union)} == {Cat, Dog}
    assert output.parse('{"kind": "cat"}') == Cat(kind="cat")


@pytest.mark.parametrize("kind", [int, float])
def test_numbers_are_drawn_as_numbers(model: HFModel, kind: type) -> None:
    output = Output.of(kind)
    assert output is not None
    values = [output.parse(c.text) for c in drawn(model, kind) if c.finish is Finish.STOP]
    assert values
    assert all(type(value) is kind for value in values)


def test_a_grammar_is_never_left(model: HFModel) -> None:
    lark = 'start: "move" " " DIRECTION (" " /[0-9]{1,2}/)?\nDIRECTION: "left" | "right"'
    for candidate in drawn(model, Grammar(lark=lark)):
        assert re.fullmatch(r"move (left|right)( [0-9]{1,2})?", candidate.text)


def test_properties_may_have_any_name_and_annotations_begin_with_x_or_a_dash() -> None:
    marked = {"type": "integer", "x-unit": "m", "_comment": "metres"}
    schema = {"id": "http://a.b/c", "type": "object", "properties": {"minlength": marked}}
    assert Output.of(schema) is not None


def test_outlines_terms_are_understood(model: HFModel) -> None:
    from outlines.types import CFG, JsonSchema
    from outlines.types import Regex as OutlinesRegex

    for term, pattern in (
        (OutlinesRegex("[ab]{2}"), "[ab]{2}"),
        (CFG('start: "x" "y"'), "xy"),
        (JsonSchema({"type": "boolean"}), "true|false"),
        (OutlinesRegex("v") + OutlinesRegex("[0-9]"), "v[0-9]"),
    ):
        for candidate in drawn(model, term, seeds=1):
            assert re.fullmatch(pattern, candidate.text)


def test_a_type_is_answered_with_the_fields_it_names_and_no_others(model: HFModel) -> None:
    named = {field.name for field in dataclasses.fields(Point)}
    for candidate in drawn(model, Point, seeds=2):
        if candidate.finish is Finish.STOP:
            assert set(json.loads(candidate.text)) == named


def test_whitespace_in_json_is_bounded(model: HFModel) -> None:
    for candidate in drawn(model, SCHEMA):
        assert not re.search(r"\s{3}", candidate.text)


def test_an_answer_that_was_cut_off_is_not_read(model: HFModel) -> None:
    cut = drawn(model, Regex(pattern="[0-9]+x?"), tokens=2, seeds=2)
    assert {c.finish for c in cut} >= {Finish.LENGTH}
    output = Output.of(Regex(pattern="[0-9]+x?"))
    assert output is not None
    for candidate in cut:
        if candidate.finish is Finish.LENGTH:
            with pytest.raises(InvalidOutput, match="max_new_tokens"):
                output.parse(candidate.text, candidate.finish)
    person = Output.of(Person)
    assert person is not None
    with pytest.raises(InvalidOutput, match="max_new_tokens"):
        person.parse('{"name": "A')


def test_an_answer_complete_with_its_last_token_is_not_cut_off(model: HFModel) -> None:
    candidates = drawn(model, Regex(pattern="[0-9]{2}"), tokens=2)
    assert all(c.finish is Finish.STOP for c in candidates if len(c.text) == 2)


# ----------------------------------------------------------------------------------- refusal


@pytest.mark.parametrize(
    ("output", "named"),
    [
        ({"type": "array", "items": {"type": "integer"}, "uniqueItems": True}, "uniqueItems"),
        ({"type": "integer", "not": {"const": 3}}, "not"),
        ({"type": "integer", "minimum": 5, "maximum": 3}, "5"),
        ({"type": "strng"}, "strng"),
        ({"type": "object", "properties": {"a": {"minlength": 3}}}, "minlength"),
        ({"anyOf": [{"type": "string"}, {"$defs": {"b": {"typ": "string"}}}]}, "typ"),
        (set[int], "uniqueItems"),
        ({"enum": []}, "empty"),
        ({"allOf": [{"$id": "http://a.b/c", "$ref": "d.json"}]}, r"\$id"),
        ({"$ref": "#/$defs/gone"}, "gone"),
        ({"type": "string", "format": "zork"}, "zork"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf"),
        ({"type": "string", "default": {1, 2}}, "schema"),
        ("[1, 2]", "JSON schema"),
        ("just text", "JSON schema"),
        (Regex(pattern="(a"), r"\(a"),
        (Regex(pattern="(?=a)b"), "look-around"),
        (Grammar(lark='start: "a" | foo'), "foo"),
        (3.5, "3.5"),
        (object(), "object"),
        (lambda x: x, "lambda"),
        (re.Match, "Match"),
    ],
)
def test_what_cannot_be_enforced_is_refused_by_name(output: object, named: str) -> None:
    with pytest.raises(InvalidOutput, match=named):
        Output.of(output)


def test_a_pattern_that_the_tokenizer_cannot_write_is_refused(tiny_llama: PreTrainedModel) -> None:
    from tokenizers import Tokenizer, decoders, models

    letters = {letter: i for i, letter in enumerate(["<end>", *"yesno"])}
    backend = Tokenizer(models.BPE(vocab=letters, merges=[]))
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>")
    model = load(tiny_llama, tokenizer)
    prompt = model.render([Message(role="user", content="yes")])
    (said, *_), _ = model.draw(prompt, n=2, max_new_tokens=9, seed=0, output=["yes", "no"])
    assert said.text in {"yes", "no"}
    with pytest.raises(InvalidOutput, match="tokenizer"):
        model.draw(prompt, n=2, max_new_tokens=9, seed=0, output=["BAD"])


def test_a_slow_tokenizer_gets_a_typed_error(
    model: HFModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import ByT5Tokenizer

    slow = load(model.model, ByT5Tokenizer())
    prompt = slow.render(ASK)
    slow.draw(prompt, n=1, max_new_tokens=2, seed=0)
    with pytest.raises(UnsupportedModel, match="fast tokenizer"):
        slow.draw(prompt, n=1, max_new_tokens=2, seed=0, output=int)


# -------------------------------------------------------------------------- ends and widths


def test_any_of_several_end_ids_may_end_a_constrained_answer(model: HFModel) -> None:
    model.model.generation_config.eos_token_id = [2, 0, 350]  # 350: the logits' width is 384
    assert set(model.end_ids) == {0, 2, 350}
    candidates = drawn(model, Regex(pattern="[a-z]{1,12}"))
    assert {c.finish for c in candidates} == {Finish.STOP}
    assert len({len(c.text) for c in candidates}) > 3


def test_a_constraint_works_for_every_architecture_and_its_rows(
    any_model: PreTrainedModel, chat_tokenizer: PreTrainedTokenizerFast
) -> None:
    model = load(any_model, chat_tokenizer)
    for candidate in drawn(model, Regex(pattern="[a-f]{1,3}(-[0-9]{2}){1,3}"), seeds=1):
        assert re.fullmatch("[a-f]{1,3}(-[0-9]{2}){1,3}", candidate.text)


def test_a_trained_model_with_a_sentencepiece_vocabulary_is_constrained(
    stories: tuple[PreTrainedModel, PreTrainedTokenizerFast],
) -> None:
    model = load(*stories)
    for candidate in drawn(model, Regex(pattern="[A-Z][a-z]+ [a-z]+\\."), seeds=2, tokens=60):
        if candidate.finish is Finish.STOP:
            assert re.fullmatch("[A-Z][a-z]+ [a-z]+\\.", candidate.text)


def test_choices_carry_descriptions_of_nothing_but_themselves() -> None:
    output = Output.of(Choices(answers=("HUM", "LOC"), descriptions={"HUM": "human person"}))
    assert output is not None
    assert output.choices == ("HUM", "LOC")
    assert output.descriptions == {"HUM": "human person"}
    assert output.accepts("LOC") and not output.accepts("NUM")
    with pytest.raises(InvalidOutput, match="NUM"):
        Output.of(Choices(answers=("HUM",), descriptions={"NUM": "number"}))


# ------------------------------------------------------------------------------ forced tokens


KEYED = {
    "type": "object",
    "properties": {
        "tracking_number_of_the_parcel": {"type": "integer", "minimum": 0, "maximum": 9},
        "quick_brown_fox": {"type": "boolean"},
    },
    "required": ["tracking_number_of_the_parcel", "quick_brown_fox"],
    "additionalProperties": False,
}


def test_forced_tokens_are_run_in_fewer_passes_and_scored_as_any_others(model: HFModel) -> None:
    prompt = model.render(ASK)
    (one,), cost = model.draw(prompt, n=1, max_new_tokens=120, seed=0, output=KEYED)
    assert cost.passes < cost.drawn * 0.7
    jsonschema.validate(json.loads(one.text), KEYED)
    with torch.no_grad():
        logits = model.model(input_ids=torch.tensor([[*prompt.ids, *one.token_ids]])).logits[0]
    logp = logits.double().log_softmax(-1)[len(prompt.ids) - 1 :]
    expected = sum(float(logp[t, i]) for t, i in enumerate(one.token_ids))
    expected += float(logp[-1, list(model.end_ids)].logsumexp(0))
    assert one.logprob == pytest.approx(expected, abs=1e-3)


def test_forced_tokens_are_followed_in_every_way_and_whatever_other_rows_do(
    any_model: PreTrainedModel, chat_tokenizer: PreTrainedTokenizerFast
) -> None:
    model = load(any_model, chat_tokenizer)
    prompt = model.render(ASK)
    output = ["tracking number", "tracking is lost", "card"]
    one, _ = model.draw(prompt, n=1, max_new_tokens=30, seed=2, output=output)
    many, _ = model.draw(prompt, n=5, max_new_tokens=30, seed=2, output=output)
    best, _ = model.using(rows=model.plan.rows).draw(
        prompt, n=5, max_new_tokens=30, seed=2, output=output
    )
    assert one[0].token_ids == many[0].token_ids
    assert [c.token_ids for c in many] == [c.token_ids for c in best]
    assert {c.text for c in many} <= set(output)


@pytest.mark.parametrize("tokens", range(1, 12))
def test_a_limit_in_the_middle_of_forced_tokens_cuts_there(model: HFModel, tokens: int) -> None:
    (one,), _ = model.draw(model.render(ASK), n=1, max_new_tokens=tokens, seed=0, output=KEYED)
    assert len(one.token_ids) == tokens
    assert one.finish is Finish.LENGTH
