"""The ways rows and tries are run: what is chosen, and that all of them give the same numbers."""

import threading
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from tta.decoding import attention, engine, layers, load, sample
from tta.decoding.choices import Way
from tta.decoding.engine import Fork, Prefix
from tta.decoding.plan import pays, plan
from tta.errors import InvalidSetting, UnsupportedModel
from tta.types import Finish, Message

from conftest import MODELS, build  # isort: skip

ASK = (Message(role="user", content="Where is my parcel? The quick brown fox."),)
WAYS = {
    "llama": (Fork.SHARED, Way.PACKED),
    "qwen2": (Fork.SHARED, Way.PACKED),
    "mistral": (Fork.FORKED, Way.PACKED),
    "gpt2": (Fork.SHARED, Way.PACKED),
    "gpt_neox": (Fork.SHARED, Way.PACKED),
    "gemma2": (Fork.FORKED, Way.PACKED),
    "gemma3": (Fork.SHARED, Way.PACKED),
    "lfm2": (Fork.SHARED, Way.FOREST),
    "qwen3": (Fork.SHARED, Way.PACKED),
    "phi3": (Fork.SHARED, Way.PACKED),
    "olmo": (Fork.SHARED, Way.PACKED),
    "mixtral": (Fork.SHARED, Way.PACKED),
    "mamba": (Fork.RECOMPUTED, Way.ROWS),
    "qwen3_next": (Fork.SHARED, Way.ROWS),
}


@pytest.mark.parametrize("name", list(MODELS))
def test_every_architecture_gets_the_fastest_way_that_holds_for_it(name: str) -> None:
    found = plan(build(name))
    assert (found.rows, found.choices) == WAYS[name]
    assert found.resumes == (name != "mamba")
    assert found.grouped == (found.rows is Fork.SHARED)
    assert bool(found.why) == (name in ("gemma2", "mamba"))


def test_eager_attention_cannot_share_and_says_so() -> None:
    model = build("llama")
    model.set_attn_implementation("eager")
    found = plan(model)
    assert (found.rows, found.choices) == (Fork.FORKED, Way.PACKED)
    assert "sharing" in found.why[0]


def test_a_changed_attention_implementation_is_planned_anew(
    tiny_llama: PreTrainedModel, chat_tokenizer: PreTrainedTokenizerFast
) -> None:
    model = load(tiny_llama, chat_tokenizer)
    assert model.plan.rows == "shared"
    tiny_llama.set_attn_implementation("eager")
    assert model.plan.rows == "forked"
    model.draw(model.render(ASK), n=3, max_new_tokens=3, seed=0)


def test_a_way_that_gives_other_numbers_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    attend = attention.SharedLayer.attend

    def wrong(self: attention.SharedLayer, *args: Any) -> torch.Tensor:
        return attend(self, *args) * 1.5

    monkeypatch.setattr(attention.SharedLayer, "attend", wrong)
    found = plan(build("llama"))
    assert found.rows is Fork.FORKED
    assert "differ" in found.why[0]


# ------------------------------------------------------------------------------ same numbers


@pytest.mark.parametrize("name", list(MODELS))
def test_shared_forked_and_recomputed_rows_draw_the_same(
    name: str, chat_tokenizer: PreTrainedTokenizerFast
) -> None:
    model = load(build(name), chat_tokenizer)
    prompt = model.render(ASK)
    best = model.plan.rows
    ways = [how for how in Fork if how in (best, Fork.RECOMPUTED) or best is Fork.SHARED]
    drawn = [model.using(rows=how).draw(prompt, n=4, max_new_tokens=24, seed=3)[0] for how in ways]
    for other in drawn[1:]:
        assert [c.token_ids for c in other] == [c.token_ids for c in drawn[0]]
        np.testing.assert_allclose(
            [c.logprob for c in other], [c.logprob for c in drawn[0]], atol=1e-3
        )


@pytest.mark.parametrize("name", list(MODELS))
def test_rows_may_leave_and_double_in_every_way(name: str) -> None:
    model = build(name)
    prefix = Prefix(model, [5, 9, 3, 7])
    best = plan(model).rows
    rows = [prefix.fork(3, how) for how in {best, Fork.RECOMPUTED}]
    moves = (([[4], [5], [6]], [2, 0]), ([[8], [9]], [1, 1, 0]), ([[1], [2], [3]], [0]))
    for tokens, index in moves:
        logits = [state.forward(torch.tensor(tokens)) for state in rows]
        for other in logits[1:]:
            torch.testing.assert_close(other, logits[0], atol=2e-5, rtol=1e-4)
        for state in rows:
            state.keep(index)


def test_the_prompt_is_kept_once_for_all_rows() -> None:
    prefix = Prefix(build("llama"), [5] * 200)
    assert prefix.cache is not None
    sizes = {}
    for how in (Fork.SHARED, Fork.FORKED):
        rows = prefix.fork(8, how)
        for _ in range(10):
            rows.forward(torch.full((8, 1), 7))
        assert rows.cache is not None
        sizes[how] = layers.size(rows.cache)
    one = layers.size(prefix.cache) // 200
    assert sizes == {Fork.SHARED: one * (200 + 80), Fork.FORKED: one * 8 * 210}


def test_sharing_starts_where_copies_outweigh_a_fifth_of_the_weights() -> None:
    short, long = (Prefix(build("llama"), [5] * n) for n in (2, 200))
    assert not pays(short, 2)
    assert pays(long, 8)
    assert not pays(long, 1)


def test_a_prefix_stays_as_it_was_whatever_its_rows_do(any_model: PreTrainedModel) -> None:
    prefix = Prefix(any_model, [5, 9, 3])
    best = plan(any_model).rows
    first = prefix.fork(2, best).forward(torch.tensor([[4], [6]]))
    prefix.fork(3, best).forward(torch.tensor([[7], [8], [9]]))
    again = prefix.fork(2, best).forward(torch.tensor([[4], [6]]))
    assert torch.equal(first, again)


def test_threads_with_different_settings_get_right_answers(
    tiny_lfm2: PreTrainedModel, chat_tokenizer: PreTrainedTokenizerFast
) -> None:
    model = load(tiny_lfm2, chat_tokenizer)
    prompt = model.render(ASK)
    answers = ["card lost", "card", "yes"]
    expected, _ = model.draw(prompt, n=4, max_new_tokens=12, seed=1)
    scores, _ = model.choose(prompt, answers)
    wrong: list[str] = []

    def work(rows: str, way: str) -> None:
        view = model.using(rows=rows, choices=way)
        for _ in range(6):
            drawn, _ = view.draw(prompt, n=4, max_new_tokens=12, seed=1)
            if [c.token_ids for c in drawn] != [c.token_ids for c in expected]:
                wrong.append(rows)
            if not np.allclose(view.choose(prompt, answers)[0], scores, atol=1e-4):
                wrong.append(way)

    settings = [("shared", "forest"), ("forked", "rows"), ("recomputed", "rows")]
    threads = [threading.Thread(target=work, args=setting) for setting in settings]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# --------------------------------------------------------------------------------- settings


def test_what_does_not_hold_cannot_be_forced(chat_tokenizer: PreTrainedTokenizerFast) -> None:
    model = load(build("mamba"), chat_tokenizer)
    with pytest.raises(UnsupportedModel, match="cache"):
        model.using(rows="shared")
    with pytest.raises(UnsupportedModel, match="packed"):
        load(build("lfm2"), chat_tokenizer).using(choices="packed")
    with pytest.raises(InvalidSetting, match="tree"):
        model.using(choices="tree")
    with pytest.raises(InvalidSetting, match="copied"):
        model.using(rows="copied")


def test_a_view_with_other_settings_leaves_the_model_as_it_was(
    tiny_llama: PreTrainedModel, chat_tokenizer: PreTrainedTokenizerFast
) -> None:
    model = load(tiny_llama, chat_tokenizer)
    view = model.using(rows="forked", choices="rows")
    assert (view.plan.rows, view.plan.choices) == (Fork.FORKED, Way.ROWS)
    assert (model.plan.rows, model.plan.choices) == (Fork.SHARED, Way.PACKED)
    assert view.model is model.model
    assert view.cache is model.cache


# ----------------------------------------------------------------------------------- traps


def test_a_window_shorter_than_prompt_and_answer_is_not_packed(
    chat_tokenizer: PreTrainedTokenizerFast,
) -> None:
    config = MistralConfig(**{**build("mistral").config.to_diff_dict(), "sliding_window": 40})
    model = load(MistralForCausalLM(config).eval(), chat_tokenizer)
    assert model.plan.choices_for(39) is Way.PACKED
    assert model.plan.choices_for(40) is Way.ROWS
    words = "Where is my parcel? "
    for repeats in (1, 2, 3):  # within the window, about its end, beyond
        prompt = model.render([Message(role="user", content=words * repeats)])
        scores, _ = model.choose(prompt, ["card lost", "card"])
        plain, _ = model.using(choices="rows").choose(prompt, ["card lost", "card"])
        np.testing.assert_allclose(scores, plain, atol=1e-5)


def test_rows_that_leave_are_replaced_by_the_last() -> None:
    assert engine._places([True, False, True, False, True]) == [0, 4, 2]
    assert engine._places([True, True]) == [0, 1]
    assert engine._places([False, False, True]) == [2]
    assert engine._places([False]) == []


@pytest.mark.parametrize(
    "moves", [[[0, 4, 2]], [[4, 1]], [[2, 0, 1]], [[3, 3, 3, 0, 1, 2]], [[0, 1, 2], [2, 1], [1]]]
)
def test_rows_that_grow_in_place_move_as_copied_ones_do(moves: list[list[int]]) -> None:
    model = build("llama")
    prefix = Prefix(model, [5, 9, 3])
    plain = prefix.continued()
    plain.reorder_cache(torch.zeros(5, dtype=torch.long))  # type: ignore[arg-type]
    rows = [prefix.fork(5), engine.Rows(model, prefix.ids, plain)]
    tokens = torch.arange(10, 15)[:, None]
    for state in rows:
        state.forward(tokens)
    for index in moves:
        for state in rows:
            state.keep(index)
        tokens = torch.arange(20, 20 + len(index))[:, None]
        grown, copied = (state.forward(tokens) for state in rows)
        torch.testing.assert_close(grown, copied, atol=1e-5, rtol=1e-5)


def test_rows_outgrow_their_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "SPARE", 1)
    model = build("llama")
    prefix = Prefix(model, [5, 9, 3])
    room, none = prefix.fork(2), prefix.fork(2, Fork.RECOMPUTED)
    for token in range(4, 16):
        tokens = torch.tensor([[token], [token + 20]])
        torch.testing.assert_close(
            room.forward(tokens)[:, -1], none.forward(tokens)[:, -1], atol=1e-5, rtol=1e-4
        )


def test_rows_that_are_rejected_leave_and_say_so(tiny_llama: PreTrainedModel) -> None:
    prefix = Prefix(tiny_llama, [5, 9, 3])

    def uniforms(i: int) -> Any:
        return sample.uniforms(0, i, 8)

    def after_three(live: Any) -> list[int]:
        return [1] if len(live) == 4 and len(live[0].ids) == 3 else []

    plain, cut = ([engine.Row(uniforms=uniforms(i)) for i in range(4)] for _ in range(2))
    engine.draw(prefix, plain, engine.Rules(ends=(), limit=8))
    engine.draw(prefix, cut, engine.Rules(ends=(), limit=8, reject=after_three))
    assert [row.rejected for row in cut] == [False, True, False, False]
    assert [len(row.ids) for row in cut] == [8, 3, 8, 8]
    assert cut[1].finish is Finish.LENGTH
    assert [row.ids for i, row in enumerate(cut) if i != 1] == [
        row.ids for i, row in enumerate(plain) if i != 1
    ]


def test_half_precision_shares_and_packs_too(chat_tokenizer: PreTrainedTokenizerFast) -> None:
    for name in ("llama", "lfm2"):
        model = load(build(name).bfloat16(), chat_tokenizer)
        assert model.plan.rows is Fork.SHARED
        assert model.plan.choices is not Way.ROWS
        prompt = model.render(ASK)
        packed, _ = model.choose(prompt, ["card lost", "card"])
        rows, _ = model.using(choices="rows").choose(prompt, ["card lost", "card"])
        np.testing.assert_allclose(packed, rows, rtol=0.05)
        model.using(rows="shared").draw(prompt, n=3, max_new_tokens=4, seed=0)
