"""A frozen Hugging Face model behind the `Model` protocol.

Knows one model, its tokenizer and its template. Refuses to know memory and tasks, and never
changes what it was handed: no parameter, hook, mode, configuration or tokenizer setting.
"""

from __future__ import annotations

import copy
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from tta.decoding import choices, engine
from tta.decoding.cache import LIMIT, SHARED_SCOPE, Filled, PrefixCache, prefill
from tta.decoding.constrain import Output
from tta.decoding.matcher import TokenMatcher, token_table
from tta.decoding.plan import Plan, forced, pays, plan
from tta.decoding.sample import Sampling, uniforms
from tta.decoding.template import PLAIN_STOP, Template, end_ids, within
from tta.decoding.waves import Waves
from tta.errors import InvalidOutput, InvalidSetting, PromptTooLong, UnsupportedModel
from tta.types import Candidate, Cost, Message, Prompt

if TYPE_CHECKING:
    from llguidance import LLTokenizer
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from tta.protocols import FloatArray, Watch

CONTEXT_FALLBACK = 4096
"""Tokens, for configurations that name no limit (recurrent models, mostly)."""
_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx")
_VOLATILE_KEYS = ("_name_or_path", "transformers_version")
_STEMS = 256
"""How many conversations' beginnings are remembered by length."""
_ANSWERS = 4096
"""How many answers' token ids are remembered."""
_STOP_WINDOW = 16
"""How many of the last tokens are searched for the plain format's stop."""


class HFModel:
    """`model` and `tokenizer` are the very objects that were given.

    `load` checks what can be checked once; that the model is in evaluation mode is checked at
    every call, since its owner may train it in between.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        cache_bytes: int = LIMIT,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.template = Template(tokenizer)
        self.cache = PrefixCache(cache_bytes)
        self.sampling = Sampling()
        self._table: tuple[tuple[object, ...], LLTokenizer] | None = None
        self._plans: dict[tuple[object, ...], Plan] = {}
        self._forced: tuple[str | None, str | None] = (None, None)
        self._answers: dict[tuple[int, str], tuple[int, ...]] = {}
        self._stems: dict[tuple[Message, ...], int] = {}

    def __repr__(self) -> str:
        return f"HFModel({self.id!r}, context_length={self.context_length})"

    @cached_property
    def id(self) -> str:
        """Name and a short hash of the configuration: the same on every machine."""
        config = self.model.config
        name = str(config.name_or_path or config.model_type)
        if Path(name).is_absolute():
            name = Path(name).name
        kept = {k: v for k, v in config.to_dict().items() if k not in _VOLATILE_KEYS}
        text = json.dumps(kept, sort_keys=True, default=str)
        return f"{name}#{hashlib.sha256(text.encode()).hexdigest()[:8]}"

    @cached_property
    def context_length(self) -> int:
        config = self.model.config.get_text_config()
        named = (getattr(config, key, None) for key in _CONTEXT_KEYS)
        limits = [int(n) for n in named if isinstance(n, int) and n > 0]
        return limits[0] if limits else CONTEXT_FALLBACK

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Every id that ends the model's turn: of its template, its configurations, its
        tokenizer."""
        config, generation = self.model.config, self.model.generation_config
        return end_ids(
            (
                list(self.template.turn_ends),
                getattr(generation, "eos_token_id", None),
                getattr(config.get_text_config(), "eos_token_id", None),
                getattr(config, "eos_token_id", None),
                self.tokenizer.eos_token_id,
            )
        )

    def count(self, text: str) -> int:
        return len(self.template.encode(text))

    def render(self, messages: Sequence[Message]) -> Prompt:
        return self.template.render(messages)

    def fingerprint(self) -> str:
        """SHA-256 (hexadecimal) over the names and bits of all parameters and buffers."""
        import torch

        digest = hashlib.sha256()
        named = [*self.model.named_parameters(), *self.model.named_buffers()]
        for name, tensor in sorted(named, key=lambda pair: pair[0]):
            if tensor.device.type == "meta":
                raise UnsupportedModel(
                    f"{name} is not in memory, so it cannot be hashed",
                    value=name,
                    hint="Load the model without offloading",
                )
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    # ------------------------------------------------------------------------------ settings

    @property
    def plan(self) -> Plan:
        """Which of the engine's ways are used: found by trying them, once for each way the
        model's owner sets it up, unless `using` says otherwise."""
        config = self.model.config
        key = (config._attn_implementation, self.model.dtype, self.model.device)
        if key not in self._plans:
            self._plans[key] = plan(self.model)
        found = self._plans[key]
        return found if self._forced == (None, None) else forced(found, *self._forced)

    def using(
        self,
        *,
        rows: str | None = None,
        choices: str | None = None,
        sampling: Sampling | None = None,
    ) -> HFModel:
        """The same model, tokenizer and cache with other settings; this one keeps its own.

        `rows`: "shared", "forked" or "recomputed"; `choices`: "packed", "forest" or "rows"
        (`Plan`). `InvalidSetting`: no such way; `UnsupportedModel`: it does not hold here.
        """
        view = copy.copy(self)
        view._forced = (rows, choices)
        view.sampling = sampling or self.sampling
        _ = view.plan
        return view

    def stem(self, messages: Sequence[Message]) -> int:
        """How many of the first ids of `render(messages)` stay whatever the last turn says: what
        may be passed as `common=` when nothing before that turn is anyone's own."""
        head = tuple(messages[:-1])
        if head not in self._stems:
            ends = [Message(role=messages[-1].role, content=text) for text in ("0", "a b")]
            one, other = (self.render([*head, end]).ids for end in ends)
            if len(self._stems) >= _STEMS:
                self._stems.clear()
            pairs = enumerate(zip(one, other, strict=False))
            self._stems[head] = next((i for i, (a, b) in pairs if a != b), 0)
        return self._stems[head]

    def forget(self, scope: str | None = None) -> None:
        """Drop what the prefix cache keeps of one scope; everything when None."""
        self.cache.forget(scope)

    # --------------------------------------------------------------------------- answering

    def draw(
        self,
        prompt: Prompt,
        *,
        n: int,
        max_new_tokens: int,
        seed: int,
        output: object = None,
        scope: str | None = None,
        common: int = 0,
        watch: Watch | None = None,
        halving: bool = False,
    ) -> tuple[tuple[Candidate, ...], Cost]:
        """`n` candidates from one prefill: the first greedy, the others sampled (`sampling`).

        Random numbers come from (seed, sample, step): sample i does not depend on n. Texts are as
        decoded, special tokens left out, nothing stripped, save for the one space (plain format)
        that stands between prompt and answer. With a `scope` (a user, as a rule) the prompt may
        be continued from one that this scope ran before, its first `common` tokens from one that
        anyone ran; without, nothing is reused or kept. `watch` and `halving` as the protocol says.

        `InvalidSetting`: n or max_new_tokens below 1; `PromptTooLong`; `InvalidOutput`: `output`
        cannot be enforced.
        """
        started = time.perf_counter()
        self._check_draw(prompt, n, max_new_tokens)
        constraint = Output.of(output)
        filled = self._prefill(prompt, scope, common)
        prefix = filled.prefix
        width = prefix.logits.shape[-1]
        ends = within(self.end_ids, width)
        matchers: Callable[[int], Sequence[TokenMatcher | None]] = [None].__mul__
        decode: Callable[[list[int]], str] = self._free_text
        if constraint is not None:
            table = self._token_table(width)
            rows = partial(TokenMatcher.rows, table, constraint.grammar, width=width, ends=ends)
            matchers = lambda count: rows(n=count)  # noqa: E731
            # As the grammar saw it: some tokenizers drop a leading space when they decode.
            decode = table.decode_str
        rules = engine.Rules(
            ends=ends,
            limit=max_new_tokens,
            stops=self._stops if self.template.plain else None,
            sampling=self.sampling,
            vocabulary=min(width, len(self.tokenizer)),
        )
        waves = Waves(
            prefix=prefix,
            rows=partial(_rows, seed, max_new_tokens, matchers),
            read=lambda row: _candidate(row, decode(row.ids)),
            rules=rules,
            fork=partial(self._fork, prefix),
            halving=halving,
        )
        found, spent = waves.draw(n, watch)
        cost = _cost(prompt, filled, started, passes=spent.passes, drawn=spent.drawn)
        return found, cost

    def choose(
        self,
        prompt: Prompt,
        answers: Sequence[str],
        *,
        scope: str | None = None,
        common: int = 0,
    ) -> tuple[FloatArray, Cost]:
        """Log-probability (nats, float64, shape (len(answers),)) of each answer, end of turn
        included; `scope` and `common` as for `draw`.

        In the plain format a line break ends the turn as well. `InvalidOutput`: no answers, one
        that is empty, given twice, or that the tokenizer makes nothing of; `PromptTooLong`.
        """
        started = time.perf_counter()
        choices.check_answers(answers)
        ids = [self._answer_ids(answer) for answer in answers]
        longest = max(map(len, ids))
        self._check_room(prompt, longest)
        filled = self._prefill(prompt, scope, common)
        ends = within(self._answer_ends, filled.prefix.logits.shape[-1])
        way = self.plan.choices_for(len(prompt.ids) + longest)
        scores, tokens, passes = choices.score(filled.prefix, ids, ends, way)
        return scores, _cost(prompt, filled, started, passes=passes, scored=tokens)

    def _prefill(self, prompt: Prompt, scope: str | None, common: int) -> Filled:
        return prefill(
            self.model,
            prompt.ids,
            None if scope is None else self.cache,
            scope=scope or SHARED_SCOPE,
            common=common,
            resumes=self.plan.resumes,
            grouped=self.plan.grouped,
        )

    def _fork(self, prefix: engine.Prefix, n: int) -> engine.Fork:
        """What the plan allows, and, unless it was asked for, pays."""
        how = self.plan.rows
        if how is engine.Fork.SHARED and self._forced[0] is None and not pays(prefix, n):
            return engine.Fork.FORKED
        return how

    def _answer_ids(self, answer: str) -> tuple[int, ...]:
        """Remembered, since the same answers come again at every step."""
        key = (len(self.tokenizer), answer)
        ids = self._answers.get(key)
        if ids is None:
            if len(self._answers) >= _ANSWERS:
                self._answers.clear()
            ids = self._answers[key] = self.template.encode_answer(answer)
        if not ids:
            raise InvalidOutput(
                f"The tokenizer makes no token of the answer {answer!r}",
                value=answer,
                hint="Use an answer that the tokenizer can write",
            )
        return ids

    @property
    def _answer_ends(self) -> tuple[int, ...]:
        if not self.template.plain:
            return self.end_ids
        line_break = self.template.encode("\n")
        return end_ids((list(self.end_ids), list(line_break) if len(line_break) == 1 else None))

    def _check_room(self, prompt: Prompt, answer: int) -> None:
        tokens = len(prompt.ids)
        if tokens + answer > self.context_length:
            raise PromptTooLong(
                f"The prompt has {tokens} tokens and the answer may have {answer}, but the model "
                f"takes {self.context_length}",
                value=tokens,
                hint="Shorten the prompt or lower max_new_tokens",
            )

    def _check_draw(self, prompt: Prompt, n: int, max_new_tokens: int) -> None:
        for name, number in (("n", n), ("max_new_tokens", max_new_tokens)):
            if number < 1:
                raise InvalidSetting(f"{name} is {number!r}", value=number, hint="Use at least 1")
        self._check_room(prompt, max_new_tokens)

    def _token_table(self, width: int) -> LLTokenizer:
        """Kept until the tokenizer or the end ids change."""
        key = (width, len(self.tokenizer), self.end_ids)
        if self._table is None or self._table[0] != key:
            self._table = (key, token_table(self.tokenizer, width=width, ends=self.end_ids))
        return self._table[1]

    def _stops(self, ids: Sequence[int]) -> bool:
        return PLAIN_STOP in self._decode(ids[-_STOP_WINDOW:])

    def _free_text(self, ids: Sequence[int]) -> str:
        text = self._decode(ids)
        if self.template.plain:
            text = text.partition(PLAIN_STOP)[0].removeprefix(self.template.lead)
        return text

    def _decode(self, ids: Sequence[int]) -> str:
        return str(
            self.tokenizer.decode(
                list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )


def _rows(
    seed: int,
    limit: int,
    matchers: Callable[[int], Sequence[TokenMatcher | None]],
    first: int,
    count: int,
) -> list[engine.Row]:
    """Samples number `first` and on; number 0 is greedy."""
    return [
        engine.Row(uniforms=uniforms(seed, i, limit) if i else None, matcher=matcher)
        for i, matcher in enumerate(matchers(count), first)
    ]


def _candidate(row: engine.Row, text: str) -> Candidate:
    assert row.finish is not None  # the loop ends when every row has one
    return Candidate(
        text=text,
        token_ids=tuple(row.ids),
        logprob=row.logprob,
        finish=row.finish,
        stats=row.stats.summary(),
    )


def _cost(
    prompt: Prompt,
    filled: Filled,
    started: float,
    *,
    passes: int,
    drawn: int = 0,
    scored: int = 0,
) -> Cost:
    return Cost(
        prefilled=len(prompt.ids) - filled.reused + scored,
        reused=filled.reused,
        drawn=drawn,
        passes=passes + filled.passes,
        ms=(time.perf_counter() - started) * 1000.0,
    )
