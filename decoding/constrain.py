"""What `output=` means: a closed set, or a grammar that the answer cannot leave.

Knows Python types, JSON schemas and patterns. Refuses to know models and tokens. What llguidance
cannot enforce is refused by name, never quietly ignored.
"""

from __future__ import annotations

import datetime
import enum
import json
import re
import types
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal, cast, get_args, get_origin

from tta.errors import InvalidOutput
from tta.types import Choices, Finish, Grammar, Regex, Text

WHITESPACE = r"[ \n]{0,2}"
"""Between the parts of JSON. Unbounded, a model can spend all its tokens on it."""

_SCALARS = (int, float, datetime.date, datetime.time, datetime.datetime)
_SCHEMA_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_SCHEMA_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_SCHEMA_KEYS = """
    items additionalProperties not if then else contains propertyNames
    unevaluatedItems unevaluatedProperties contentSchema"""
_SCHEMAS = frozenset(_SCHEMA_KEYS.split())
_OTHER_KEYS = """
    type enum const minimum maximum exclusiveMinimum exclusiveMaximum multipleOf
    minLength maxLength pattern format minItems maxItems uniqueItems minContains maxContains
    required minProperties maxProperties dependentRequired dependencies
    $ref $id $schema $anchor $comment $vocabulary $dynamicRef $dynamicAnchor
    title description default examples example deprecated readOnly writeOnly discriminator
    contentEncoding contentMediaType
    id"""  # the last as draft 4 spells $id
_ANNOTATIONS = ("x-", "_")
_KEYWORDS = frozenset(_OTHER_KEYS.split()).union(_SCHEMA_LISTS, _SCHEMA_MAPS, _SCHEMAS)
_CASES = ("", "lower", "upper")
Reader = Callable[[str], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """`output=` understood: `choices` when the set is closed, and a `grammar`, unless all that is
    asked for is how a free `text` is written."""

    source: object
    choices: tuple[str, ...] | None = None
    descriptions: Mapping[str, str] = field(default_factory=dict, compare=False)
    grammar: str = field(default="", repr=False)
    text: Text | None = None
    read: Reader = field(default=str, repr=False, compare=False)

    @staticmethod
    def of(output: object) -> Output | None:
        """None when the answer is free text: for `None`, `str`.

        Closed: `Literal`, `Enum` (by value), `bool`, a list or tuple of choices, `tta.Choices`.
        Open: `int`, `float`, dates; a pydantic model, dataclass, `TypedDict` or other structured
        type, answered as JSON; a JSON schema (dict, or its text), `tta.Regex`, `tta.Grammar`, an
        outlines term; `tta.Text`.
        `InvalidOutput`: none of these, or it cannot be enforced; `value` is the part at fault.
        """
        if output is None or output is str:
            return None
        if isinstance(output, Output):
            return output
        if isinstance(output, Choices):
            return _closed(output, output.answers, output.descriptions)
        members = _members(output)
        return _closed(output, members) if members is not None else _open(output)

    def accepts(self, text: str) -> bool:
        """Whether `text` is an answer of this type."""
        try:
            self.parse(text)
        except InvalidOutput:
            return False
        return True

    def parse(self, text: str, finish: Finish = Finish.STOP) -> object:
        """The typed value of an answer: a member, an instance, the text of a pattern.

        `InvalidOutput`: the answer was cut off (`finish` is LENGTH), or is no such value.
        """
        if finish is Finish.LENGTH:
            raise InvalidOutput(
                f"The answer was cut off before it was complete: {text!r}",
                value=text,
                hint="Raise max_new_tokens",
            )
        try:
            return self.read(text)
        except (ValueError, LookupError) as error:
            raise InvalidOutput(
                f"{text!r} is no {_name(self.source)}: {error}",
                value=text,
                hint="If it was cut off, raise max_new_tokens",
            ) from error


# --------------------------------------------------------------------------------- closed sets


def _members(output: object) -> Sequence[object] | None:
    if output is bool:
        return (True, False)
    if get_origin(output) is Literal:
        return get_args(output)
    if isinstance(output, enum.EnumMeta):
        return list(output)
    return output if isinstance(output, (list, tuple)) else None


def _closed(
    source: object, members: Sequence[object], descriptions: Mapping[str, str] | None = None
) -> Output:
    if not members:
        raise InvalidOutput("No choices", value=source, hint="Give at least one")
    if not descriptions and set(map(type, members)) == {str}:
        return replace(_of_texts(cast(tuple[str, ...], tuple(members))), source=source)
    return _of_members(source, members, descriptions or {})


@lru_cache(maxsize=64)
def _of_texts(texts: tuple[str, ...]) -> Output:
    """Kept: a chat is asked with the same choices again and again."""
    return _of_members(texts, texts, {})


def _of_members(
    source: object, members: Sequence[object], descriptions: Mapping[str, str]
) -> Output:
    by_text: dict[str, object] = {}
    for member in members:
        text = _choice_text(member)
        if text in by_text:
            raise InvalidOutput(f"{text!r} is there twice", value=member, hint="Give each once")
        by_text[text] = member
    if unknown := sorted(set(descriptions) - set(by_text)):
        raise InvalidOutput(f"Descriptions of no choice: {unknown!r}", value=unknown)
    return Output(
        source=source,
        choices=tuple(by_text),
        descriptions=dict(descriptions),
        grammar=_alternatives(tuple(by_text)),
        read=by_text.__getitem__,
    )


@lru_cache(maxsize=64)
def _alternatives(texts: tuple[str, ...]) -> str:
    """Kept, as `_of_texts` is."""
    return _regex("|".join(map(re.escape, texts)), texts)


def _choice_text(member: object) -> str:
    value = member.value if isinstance(member, enum.Enum) else member
    if not isinstance(value, (str, int, float, bool, types.NoneType)):
        raise InvalidOutput(f"{member!r} is no choice", value=member, hint="Use texts or numbers")
    text = str(value)
    if not text.strip():
        raise InvalidOutput(f"The choice {text!r} is empty", value=member, hint="Name it")
    return text


# --------------------------------------------------------------------------------------- open


def _open(output: object) -> Output:
    if isinstance(output, Regex):
        return _pattern(output, output.pattern)
    if isinstance(output, Grammar):
        return _lark(output, output.lark)
    if isinstance(output, Text):
        return _text(output)
    if isinstance(output, (dict, str)):
        return _schema(output, _as_dict(output), json.loads)
    if isinstance(output, type) and output in _SCALARS:
        return _scalar(output)
    if isinstance(output, type) or get_origin(output) is not None:
        return _structured(output)
    return _outlines_term(output)


def _pattern(source: object, pattern: str) -> Output:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InvalidOutput(
            f"The pattern {pattern!r} is not a regular expression: {error}", value=pattern
        ) from error

    def read(text: str) -> str:
        if not compiled.fullmatch(text):
            raise ValueError(f"it does not match {pattern!r}")
        return text

    return Output(source=source, grammar=_regex(_translated(pattern), source), read=read)


def _text(output: Text) -> Output:
    if not 0 <= output.kept <= max(0, len(output.end) - 1) or output.case not in _CASES:
        raise InvalidOutput(
            f"No way in which a text can be written: {output!r}",
            value=output,
            hint=f"Keep less than all of its end; case is one of {_CASES}",
        )

    def read(text: str) -> str:
        if not text.strip() or output.of(text) != text:
            raise ValueError("it is empty, goes on behind its end, or is in another case")
        return text

    return Output(source=output, text=output, read=read)


def _translated(pattern: str) -> str:
    r"""The pattern with `\d` and `\w` as llguidance may use them without leaving Python's.

    There, `\d` is any digit of any script, `\w` has marks that Python's has not, and both know a
    newer Unicode than Python does. Here: 0 to 9; letters, digits and the underscore.
    """
    # Capped at what llguidance knows: a newer Python must not make the name unknown there.
    known = min(float(".".join(unicodedata.unidata_version.split(".")[:2])), 16.0)
    word = rf"[[\p{{L}}\p{{Nd}}_]&&\p{{Age={known}}}]"
    parts = re.split(r"(\\.)", pattern, flags=re.DOTALL)
    return "".join({r"\d": "[0-9]", r"\w": word}.get(part, part) for part in parts)


def _lark(source: object, lark: str) -> Output:
    from llguidance import LLMatcher

    return Output(source=source, grammar=_checked(LLMatcher.grammar_from_lark(lark), source))


def _schema(
    source: object, schema: dict[str, Any], read: Reader, *, exclusive: bool = False
) -> Output:
    """`exclusive`: the branches of a `oneOf` exclude each other, so that any of them will do."""
    from llguidance import LLMatcher

    _check_keywords(schema)
    options: Any = {"whitespace_pattern": WHITESPACE, "coerce_one_of": exclusive, "lenient": False}
    try:
        grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=options)
    except (TypeError, ValueError) as error:
        raise InvalidOutput(f"Not a JSON schema: {error}", value=schema) from error
    return Output(source=source, grammar=_checked(grammar, source), read=read)


def _check_keywords(schema: object) -> None:
    """JSON Schema lets unknown words pass, so a misspelt one would constrain nothing."""
    if not isinstance(schema, dict):
        return
    # Drafts disagree on what such a reference is relative to.
    if "$id" in schema and not str(schema.get("$ref", "#")).startswith("#"):
        raise InvalidOutput(
            "$id stands beside $ref", value="$id", hint="Remove it, or put it around the reference"
        )
    for key, value in schema.items():
        if key not in _KEYWORDS and not str(key).startswith(_ANNOTATIONS):
            raise InvalidOutput(
                f"{key!r} is no keyword of JSON Schema",
                value=key,
                hint="Correct its spelling, or begin an annotation's name with x- or _",
            )
        named = value.values() if key in _SCHEMA_MAPS and isinstance(value, dict) else ()
        listed = value if key in _SCHEMA_LISTS else [value] if key in _SCHEMAS else ()
        for part in (*named, *listed):
            _check_keywords(part)


def _scalar(source: type) -> Output:
    """Numbers and dates are written plainly, as outlines has them."""
    from outlines.types.dsl import python_types_to_terms, to_regex
    from pydantic import TypeAdapter

    adapter: TypeAdapter[object] = TypeAdapter(source)
    grammar = _regex(_translated(to_regex(python_types_to_terms(source))), source)
    return Output(source=source, grammar=grammar, read=adapter.validate_strings)


def _structured(source: Any) -> Output:  # noqa: ANN401 - any annotation
    """Everything that pydantic has a JSON schema for."""
    from pydantic import TypeAdapter
    from pydantic.errors import PydanticUserError

    try:
        adapter = TypeAdapter(source)
        schema = _sealed(adapter.json_schema())
    except PydanticUserError as error:
        raise InvalidOutput(
            f"{_name(source)} has no JSON schema: {error.message}",
            value=source,
            hint="Use a pydantic model, a dataclass, a TypedDict or a JSON schema",
        ) from error
    # pydantic writes oneOf only for unions that a field's constant tells apart.
    return _schema(source, schema, adapter.validate_json, exclusive=True)


def _sealed(schema: Any) -> Any:  # noqa: ANN401 - any JSON
    """The schema without properties that the type does not name, unless it asks for them."""
    if isinstance(schema, list):
        return [_sealed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    parts = {key: _sealed(part) for key, part in schema.items()}
    if schema.get("type") == "object" and "properties" in schema:
        parts.setdefault("additionalProperties", False)
    return parts


def _outlines_term(output: object) -> Output:
    from outlines.types.dsl import CFG, JsonSchema, Term, to_regex

    if isinstance(output, JsonSchema):
        return _schema(output, json.loads(output.schema), json.loads)
    if isinstance(output, CFG):
        return _lark(output, output.definition)
    if isinstance(output, Term):
        return _pattern(output, to_regex(output))
    raise InvalidOutput(
        f"{output!r} is no type that can be decoded into",
        value=output,
        hint="Use Literal, an Enum, a list of choices, a pydantic model, a dataclass, "
        "a JSON schema, tta.Regex, tta.Grammar or tta.Text",
    )


def _as_dict(schema: dict[str, Any] | str) -> dict[str, Any]:
    try:
        read = json.loads(schema) if isinstance(schema, str) else schema
    except ValueError:
        read = None
    if isinstance(read, dict):
        return read
    raise InvalidOutput(
        f"A text given as output= is read as a JSON schema, and {schema!r} is none",
        value=schema,
        hint="For choices pass a list, for a pattern tta.Regex",
    )


def _regex(pattern: str, source: object) -> str:
    from llguidance import LLMatcher

    return _checked(LLMatcher.grammar_from_regex(pattern), source)


def _checked(grammar: str, source: object) -> str:
    """The grammar, once llguidance says that it can enforce all of it."""
    from llguidance import LLMatcher

    fault = LLMatcher.validate_grammar(grammar)
    if fault:
        raise InvalidOutput(
            f"{_name(source)} cannot be enforced: {fault.strip()}",
            value=source,
            hint="Remove what is named, or check it yourself afterwards",
        )
    return grammar


def _name(source: object) -> str:
    return source.__name__ if isinstance(source, type) else repr(source)
