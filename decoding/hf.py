"""A frozen Hugging Face model behind the `Model` protocol.

Knows one model, its tokenizer and its template. Refuses to know memory and tasks, and never
changes what it was handed: no parameter, hook, mode, configuration or tokenizer setting.
"""

from __future__ import annotations

import copy
import hashlib
import json
import threading
import time
from collections.abc import Callable, Generator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from tta.decoding import choices, engine
from tta.decoding.begun import Begun, cost_of
from tta.decoding.cache import LIMIT, Filled, PrefixCache, prefill
from tta.decoding.constrain import Output
from tta.decoding.matcher import TokenMatcher, token_table
from tta.decoding.pieces import Pieces
from tta.decoding.plan import Plan, forced, pays, plan
from tta.decoding.sample import Sampling, uniforms
from tta.decoding.search import Search
from tta.decoding.template import PLAIN_STOP, Template, end_ids, within
from tta.decoding.waves import Waves
from tta.errors import InvalidOutput, InvalidSetting, PromptTooLong, UnsupportedModel
from tta.types import Candidate, Cost, Message, Prompt, Steps, Text

if TYPE_CHECKING:
    from llguidance import LLTokenizer
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from tta.protocols import FloatArray, Watch

CONTEXT_FALLBACK = 4096
"""Tokens, for configurations that name no limit (recurrent models, mostly)."""
_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx")
_VOLATILE_KEYS = ("_name_or_path", "transformers_version")
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
        self._planning = threading.Lock()
        self._forced: tuple[str | None, str | None] = (None, None)
        self._steps: engine.Steps = engine.steps
        self._run: Callable[[PreTrainedModel, Sequence[int]], engine.Prefix] = engine.Prefix
        self._check: Callable[[], None] = lambda: None
        self._answers: dict[tuple[int, str], tuple[int, ...]] = {}

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

    def continued(self, prompt: Prompt, text: str) -> Prompt:
        ids = self.template.encode_answer(text)
        return Prompt(text=prompt.text + self.template.lead + text, ids=(*prompt.ids, *ids))

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
        with self._planning:  # once, however many callers come at the same time
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

    def stepping(
        self,
        steps: engine.Steps,
        run: Callable[[PreTrainedModel, Sequence[int]], engine.Prefix],
        check: Callable[[], None],
    ) -> HFModel:
        """The same model whose rows are drawn by `steps` and whose prompts are begun by `run`, in
        company for one (`batch`); `check` raises where nobody waits for them any more."""
        view = copy.copy(self)
        view._steps, view._check = steps, check
        view._run = run if self.plan.padded else engine.Prefix
        return view

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
        watch: Watch | None = None,
        halving: bool = False,
    ) -> tuple[tuple[Candidate, ...], Cost]:
        """`n` candidates from one prefill: the first greedy, the others sampled (`sampling`).

        Random numbers come from (seed, sample, step): sample i does not depend on n. Texts are as
        decoded, special tokens left out, nothing stripped, save for the one space (plain format)
        that stands between prompt and answer. With a `scope` (a user, as a rule) the prompt may
        be continued from one that this scope ran before; without, nothing is reused or kept.
        `watch` and `halving` as the protocol says.

        `InvalidSetting`: n or max_new_tokens below 1; `PromptTooLong`; `InvalidOutput`: `output`
        cannot be enforced.
        """
        self._check_draw(prompt, n, max_new_tokens)
        begun = self.begin(prompt, max_new_tokens, seed, output, scope)
        waves = Waves(
            prefix=begun.prefix,
            rows=begun.rows,
            read=begun.candidate,
            rules=begun.rules,
            fork=partial(self.fork, begun.prefix),
            steps=self._steps,
            halving=halving,
        )
        found, spent = waves.draw(n, watch)
        return found, begun.cost(spent.passes, spent.drawn)

    def stream(
        self,
        prompt: Prompt,
        *,
        max_new_tokens: int,
        seed: int,
        output: object = None,
        scope: str | None = None,
    ) -> Generator[str, None, tuple[Candidate, Cost]]:
        """The text of `draw`'s first candidate in pieces, as it is drawn; returns the candidate.

        Drawing goes on when the next piece is asked for, and is over when this is closed. Raises
        what `draw` does when the first piece is asked for.
        """
        self._check_draw(prompt, 1, max_new_tokens)
        begun = self.begin(prompt, max_new_tokens, seed, output, scope)
        pieces = Pieces(begun.read, settled=self._settled, marks=begun.marks)
        (row,), passes = begun.rows(0, 1), 0
        how = self.fork(begun.prefix, 1)
        for passes in self._steps(begun.prefix, [row], begun.rules, how):  # noqa: B007 - the last
            if row.finish is None and (piece := pieces.more(row.ids)):
                yield piece
        candidate = begun.candidate(row)
        if piece := pieces.rest(candidate.text):
            yield piece
        return candidate, begun.cost(passes, len(row.ids))

    def search(
        self,
        prompt: Prompt,
        steps: Steps,
        judge: Callable[[tuple[str, ...]], float],
        *,
        n: int,
        max_new_tokens: int,
        seed: int,
        output: object = None,
        scope: str | None = None,
    ) -> tuple[tuple[Candidate, ...], Cost, str]:
        """`n` candidates whose every step `judge` accepts, best first, and why the search ended
        (see `decoding.search`); otherwise as `draw`."""
        self._check_draw(prompt, n, max_new_tokens)
        begun = self.begin(prompt, max_new_tokens, seed, output, scope)
        ragged = self.plan.ragged
        return Search(
            begun=begun, steps=steps, ask=judge, wanted=n, together=ragged, check=self._check
        ).run()

    def begin(
        self, prompt: Prompt, limit: int, seed: int, output: object, scope: str | None
    ) -> Begun:
        """Run the prompt, and get ready to draw rows of at most `limit` tokens behind it."""
        started = time.perf_counter()
        constraint = Output.of(output)
        filled = self._prefill(prompt, scope)
        width = filled.prefix.logits.shape[-1]
        ends = within(self.end_ids, width)
        text = constraint.text if constraint is not None else None
        table = self._token_table(width) if constraint is not None and text is None else None

        def rows(first: int, count: int) -> list[engine.Row]:
            matchers: Sequence[TokenMatcher | None] = [None] * count
            if constraint is not None and table is not None:
                grammar = constraint.grammar
                matchers = TokenMatcher.rows(table, grammar, width=width, ends=ends, n=count)
            return [
                engine.Row(uniforms=uniforms(seed, i, limit) if i else None, matcher=matcher)
                for i, matcher in enumerate(matchers, start=first)
            ]

        # As the grammar saw it: some tokenizers drop a leading space when they decode.
        read = self._free_text(text) if table is None else table.decode_str
        marks = [PLAIN_STOP] if self.template.plain and table is None else []
        marks += [text.end] if text is not None and text.end else []
        rules = engine.Rules(
            ends=ends,
            limit=limit,
            stops=partial(self._stops, marks, text) if marks else None,
            sampling=self.sampling,
            vocabulary=min(width, len(self.tokenizer)),
        )
        return Begun(
            prompt=prompt,
            filled=filled,
            rows=rows,
            rules=rules,
            read=read,
            marks=marks,
            started=started,
        )

    def choose(
        self,
        prompt: Prompt,
        answers: Sequence[str],
        *,
        scope: str | None = None,
    ) -> tuple[FloatArray, Cost]:
        """Log-probability (nats, float64, shape (len(answers),)) of each answer, end of turn
        included; `scope` as for `draw`.

        In the plain format a line break ends the turn as well. `InvalidOutput`: no answers, one
        that is empty, given twice, or that the tokenizer makes nothing of; `PromptTooLong`.
        """
        started = time.perf_counter()
        choices.check_answers(answers)
        ids = [self._answer_ids(answer) for answer in answers]
        longest = max(map(len, ids))
        self._check_room(prompt, longest)
        filled = self._prefill(prompt, scope)
        ends = within(self._answer_ends, filled.prefix.logits.shape[-1])
        way = self.plan.choices_for(len(prompt.ids) + longest)
        scores, tokens, passes = choices.score(filled.prefix, ids, ends, way)
        return scores, cost_of(prompt, filled, started, passes=passes, scored=tokens)

    def _prefill(self, prompt: Prompt, scope: str | None) -> Filled:
        return prefill(
            self.model,
            prompt.ids,
            None if scope is None else self.cache,
            scope=scope or "",
            resumes=self.plan.resumes,
            grouped=self.plan.grouped,
            run=partial(self._run, self.model),
        )

    def fork(self, prefix: engine.Prefix, n: int) -> engine.Fork:
        """How `n` rows continue: what the plan allows, and, unless it was asked for, pays."""
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

    def _stops(self, marks: Sequence[str], asked: Text | None, ids: Sequence[int]) -> bool:
        last = self._decode(ids[-max(_STOP_WINDOW, *map(len, marks)) :])
        if self.template.plain and PLAIN_STOP in last:
            return True
        # The whole is read only where it matters: it must not begin with its end.
        return asked is not None and asked.end in last and asked.is_over(self._unmarked(ids))

    def _settled(self, token: int) -> bool:
        """Not of a byte that is read together with those beside it (byte fallback)."""
        return not str(self.tokenizer.convert_ids_to_tokens(token)).startswith("<0x")

    def _free_text(self, asked: Text | None) -> Callable[[Sequence[int]], str]:
        if asked is None:
            return self._unmarked
        return lambda ids: asked.of(self._unmarked(ids))

    def _unmarked(self, ids: Sequence[int]) -> str:
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
