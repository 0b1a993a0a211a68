"""The prefix cache: what it finds, for whom, and that it never changes a bit of an answer."""

import threading

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from tta.decoding import cache, load
from tta.decoding.cache import PrefixCache, prefill
from tta.decoding.engine import Fork
from tta.decoding.layers import tensors
from tta.decoding.plan import plan
from tta.errors import UnsupportedModel
from tta.types import Prompt

IDS = tuple(3 + (7 * i) % 300 for i in range(70))


@pytest.fixture(autouse=True)
def short_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "CHUNK", 16)


def ends_alike(one: tuple[int, ...], other: tuple[int, ...], model: PreTrainedModel) -> bool:
    """Whether `other`, after `one` was run, is answered to the bit as it is without."""
    warm = PrefixCache()
    prefill(model, one, warm)
    found = prefill(model, other, warm)
    cold = prefill(model, other, PrefixCache())
    assert cold.reused == 0
    return torch.equal(found.prefix.logits, cold.prefix.logits) and found.reused > 0


def test_what_is_reused_changes_no_bit(any_model: PreTrainedModel) -> None:
    if any_model.config.model_type == "mamba":
        assert prefill(any_model, IDS, PrefixCache(), resumes=False).reused == 0
        return
    assert ends_alike(IDS, (*IDS[:40], 5, 5, 5), any_model)
    assert ends_alike(IDS, IDS, any_model)
    assert ends_alike(IDS[:33], IDS, any_model)


def test_a_prompt_run_in_pieces_has_the_logits_of_one_run_at_once(
    any_model: PreTrainedModel,
) -> None:
    if any_model.config.model_type == "mamba":
        return  # never run in pieces
    for tokens in (17, 32, 70):
        with torch.no_grad():
            whole = any_model(input_ids=torch.tensor([IDS[:tokens]])).logits[:, -1]
        for grouped in {False, plan(any_model).grouped}:
            pieces = prefill(any_model, IDS[:tokens], PrefixCache(), grouped=grouped)
            assert pieces.passes == -(-tokens // 16)
            torch.testing.assert_close(pieces.prefix.logits, whole, atol=5e-5, rtol=1e-4)


def test_pieces_are_put_together_where_torch_has_no_operator_that_merges_them(
    tiny_llama: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tta.decoding.attention._flash", None)
    with torch.no_grad():
        whole = tiny_llama(input_ids=torch.tensor([IDS])).logits[:, -1]
    pieces = prefill(tiny_llama, IDS, PrefixCache(), grouped=True)
    assert pieces.passes == -(-len(IDS) // 16)
    torch.testing.assert_close(pieces.prefix.logits, whole, atol=5e-5, rtol=1e-4)


def test_rows_drawn_from_a_cached_prompt_are_the_same(
    any_model: PreTrainedModel, chat_tokenizer: PreTrainedTokenizerFast
) -> None:
    prompts = [Prompt(text="", ids=IDS), Prompt(text="", ids=(*IDS[:50], 9, 8, 7))]
    warm, answers = load(any_model, chat_tokenizer), ["card lost", "card"]
    for prompt in (*prompts, *prompts):
        cold = load(any_model, chat_tokenizer)
        one, _ = warm.draw(prompt, n=3, max_new_tokens=8, seed=1, scope="a")
        other, _ = cold.draw(prompt, n=3, max_new_tokens=8, seed=1, scope="a")
        assert one == other
        scores = [model.choose(prompt, answers, scope="a")[0] for model in (warm, cold)]
        assert np.array_equal(scores[0], scores[1])


def test_the_cost_says_what_was_reused(
    tiny_lfm2: PreTrainedModel, chat_tokenizer: PreTrainedTokenizerFast
) -> None:
    model = load(tiny_lfm2, chat_tokenizer)
    prompt = Prompt(text="", ids=IDS)
    _, first = model.draw(prompt, n=1, max_new_tokens=1, seed=0, scope="a")
    _, same = model.draw(prompt, n=1, max_new_tokens=1, seed=0, scope="a")
    assert (first.prefilled, first.reused, first.passes) == (70, 0, 5)
    assert (same.prefilled, same.reused, same.passes) == (0, 70, 0)
    _, like = model.draw(
        Prompt(text="", ids=(*IDS[:60], 4)), n=1, max_new_tokens=1, seed=0, scope="a"
    )
    assert (like.prefilled, like.reused, like.passes) == (13, 48, 1)


def test_without_a_scope_nothing_is_kept_or_reused(
    tiny_lfm2: PreTrainedModel, chat_tokenizer: PreTrainedTokenizerFast
) -> None:
    model = load(tiny_lfm2, chat_tokenizer)
    prompt = Prompt(text="", ids=IDS)
    model.draw(prompt, n=1, max_new_tokens=1, seed=0, scope="")
    kept = len(model.cache)
    _, cost = model.choose(prompt, ["card"])
    assert cost.reused == 0
    assert len(model.cache) == kept > 0


def test_another_beginning_is_never_taken_for_this_one(tiny_llama: PreTrainedModel) -> None:
    kept = PrefixCache()
    prefill(tiny_llama, IDS, kept)
    for at in (0, 1, 15):
        other = (*IDS[:at], 301, *IDS[at + 1 :])
        assert prefill(tiny_llama, other, kept).reused == 0
    assert prefill(tiny_llama, (*IDS[:20], 301, *IDS[21:]), kept).reused == 16


def test_one_scopes_prompts_are_invisible_to_another(tiny_llama: PreTrainedModel) -> None:
    kept = PrefixCache()
    prefill(tiny_llama, IDS, kept, scope="ada")
    assert prefill(tiny_llama, IDS, kept, scope="bob").reused == 0
    assert prefill(tiny_llama, IDS, kept).reused == 0
    assert prefill(tiny_llama, IDS, kept, scope="ada").reused == 70


def test_forgetting_a_scope_drops_what_it_kept_and_no_more(tiny_llama: PreTrainedModel) -> None:
    kept = PrefixCache()
    for scope in ("ada", "bob"):
        prefill(tiny_llama, IDS, kept, scope=scope)
    kept.forget("ada")
    assert prefill(tiny_llama, IDS, kept, scope="bob").reused == 70
    assert prefill(tiny_llama, IDS, kept, scope="ada").reused == 0
    kept.forget()
    assert (kept.bytes, len(kept)) == (0, 0)


def test_it_is_bounded_in_bytes_and_the_least_used_goes_first(tiny_llama: PreTrainedModel) -> None:
    one = PrefixCache()
    prefill(tiny_llama, IDS, one)
    kept = PrefixCache(limit=3 * one.bytes + 1)
    prompts = [(i, *IDS[1:]) for i in range(4, 9)]
    for prompt in prompts[:3]:
        prefill(tiny_llama, prompt, kept)
    prefill(tiny_llama, prompts[0], kept)  # used: the second is now the oldest
    prefill(tiny_llama, prompts[3], kept)
    assert kept.bytes == 3 * one.bytes
    assert prefill(tiny_llama, prompts[0], kept).reused == 70
    assert prefill(tiny_llama, prompts[1], kept).reused == 0


@pytest.mark.parametrize("limit", [0, 1000])
def test_what_does_not_fit_is_not_kept(limit: int, tiny_llama: PreTrainedModel) -> None:
    kept = PrefixCache(limit=limit)
    for _ in range(2):
        assert prefill(tiny_llama, IDS, kept).reused == 0
    assert (kept.bytes, len(kept)) == (0, 0)


def test_beginnings_of_one_prompt_share_their_memory(tiny_llama: PreTrainedModel) -> None:
    whole, pieces = PrefixCache(), PrefixCache()
    prefill(tiny_llama, IDS, whole, resumes=False)
    prefill(tiny_llama, IDS, pieces)
    logits = 4 * tiny_llama.config.vocab_size
    assert len(pieces) == 5
    assert pieces.bytes == whole.bytes + 4 * logits


def test_prompts_that_begin_alike_hold_their_beginning_once(tiny_llama: PreTrainedModel) -> None:
    kept, again, asked = PrefixCache(), PrefixCache(), (*IDS[:64], 5, 5)
    prefill(tiny_llama, IDS, kept)
    whole = kept.bytes
    assert prefill(tiny_llama, asked, kept).reused == 64
    logits = 4 * tiny_llama.config.vocab_size
    token = (whole - 5 * logits) // len(IDS)
    assert kept.bytes == whole + 2 * token + logits
    prefill(tiny_llama, asked, again)
    kept.limit = kept.bytes - 1
    kept.put("", {})  # one has to go: what the other needs of it stays, and still counts
    assert kept.bytes == again.bytes - 4 * logits
    assert prefill(tiny_llama, asked, kept).reused == 66


def test_what_continues_a_prompt_leaves_its_pieces_as_they_were(
    any_model: PreTrainedModel,
) -> None:
    if any_model.config.model_type == "mamba":
        return  # never run in pieces
    kept, grouped = PrefixCache(), plan(any_model).grouped
    held = prefill(any_model, IDS[:40], kept, grouped=grouped).prefix.cache
    assert held is not None
    before = [t.clone() for layer in held.layers for t in tensors(layer)]
    prefix = prefill(any_model, (*IDS[:40], 5), kept, grouped=grouped).prefix
    for how in (Fork.FORKED, plan(any_model).rows):
        rows = prefix.fork(2, how)
        rows.forward(torch.tensor([[6], [7]]))
        rows.keep([1, 1])
    after = [t for layer in held.layers for t in tensors(layer)]
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))


def test_weights_that_change_leave_nothing_behind(
    tiny_llama: PreTrainedModel, chat_tokenizer: PreTrainedTokenizerFast
) -> None:
    model = load(tiny_llama, chat_tokenizer)
    prompt = Prompt(text="", ids=IDS)
    model.choose(prompt, ["card"], scope="ada")
    with torch.no_grad():
        next(tiny_llama.parameters()).mul_(1.5)
    changed, cost = model.choose(prompt, ["card"], scope="ada")
    assert cost.reused == 0
    assert changed == load(tiny_llama, chat_tokenizer).choose(prompt, ["card"], scope="ada")[0]


def test_a_model_in_training_mode_is_refused_however_much_is_cached(
    tiny_llama: PreTrainedModel,
) -> None:
    kept = PrefixCache()
    prefill(tiny_llama, IDS, kept)
    tiny_llama.train()
    with pytest.raises(UnsupportedModel, match="training mode"):
        prefill(tiny_llama, IDS, kept)


def test_many_threads_may_use_one_cache(
    tiny_lfm2: PreTrainedModel, chat_tokenizer: PreTrainedTokenizerFast
) -> None:
    model = load(tiny_lfm2, chat_tokenizer)
    model.cache.limit = 60_000  # so that entries come and go
    prompts = [Prompt(text="", ids=(*IDS[: 20 + i], i + 3, *IDS[5:30])) for i in range(6)]
    expected = [load(tiny_lfm2, chat_tokenizer).choose(p, ["card", "yes"])[0] for p in prompts]
    wrong: list[int] = []

    def work(scope: str) -> None:
        for _ in range(4):
            for i, prompt in enumerate(prompts):
                scores, _ = model.choose(prompt, ["card", "yes"], scope=scope)
                if not np.allclose(scores, expected[i], atol=1e-5):
                    wrong.append(i)

    threads = [threading.Thread(target=work, args=(f"user {i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert 0 < model.cache.bytes <= model.cache.limit
