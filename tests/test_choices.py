import itertools
import math

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

import tta
from tta.decoding import HFModel, choices, forest, load
from tta.decoding.choices import Trie, Way
from tta.decoding.engine import Prefix
from tta.errors import InvalidOutput, PromptTooLong
from tta.types import Message, Prompt

from conftest import build  # isort: skip

ASK = (
    Message(role="system", content="Name the intent."),
    Message(role="user", content="Where is my parcel?"),
)
ANSWERS = ["card lost", "card", "refund wanted please", "yes", "tracking number ABC-123"]


def one_at_a_time(model: HFModel, prompt: Prompt, answer: str, ends: tuple[int, ...]) -> float:
    """The definition: one sequence, one forward pass, no cache, no padding."""
    ids = model.template.encode_answer(answer)
    with torch.no_grad():
        out = model.model(input_ids=torch.tensor([[*prompt.ids, *ids]]), use_cache=False)
    logp = out.logits[0].double().log_softmax(-1)[len(prompt.ids) - 1 :]
    words = sum(float(logp[t, token]) for t, token in enumerate(ids))
    return words + (float(logp[len(ids), list(ends)].logsumexp(0)) if ends else 0.0)


def test_choosing_equals_one_sequence_at_a_time_for_every_architecture(
    any_model: PreTrainedModel, chat_tokenizer: PreTrainedTokenizerFast
) -> None:
    model = load(any_model, chat_tokenizer)
    prompt = model.render(ASK)
    scores, cost = model.choose(prompt, ANSWERS)
    expected = [one_at_a_time(model, prompt, answer, model.end_ids) for answer in ANSWERS]
    np.testing.assert_allclose(scores, expected, atol=2e-5)
    ids = [model.template.encode_answer(answer) for answer in ANSWERS]
    way = model.plan.choices_for(len(prompt.ids) + max(map(len, ids)))
    tokens = sum(map(len, ids)) if way is Way.ROWS else len(Trie.of(ids))
    assert (cost.prefilled, cost.passes, cost.drawn) == (len(prompt.ids) + tokens, 2, 0)


def test_choosing_in_small_chunks_changes_nothing(
    any_model: PreTrainedModel,
    chat_tokenizer: PreTrainedTokenizerFast,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = load(any_model, chat_tokenizer)
    prompt = model.render(ASK)
    whole, _ = model.choose(prompt, ANSWERS)
    model.forget()
    monkeypatch.setattr(choices, "TOKENS_PER_PASS", 1)
    monkeypatch.setattr(choices, "ENTRIES_PER_PASS", 1)
    single, cost = model.choose(prompt, ANSWERS)
    np.testing.assert_allclose(whole, single, atol=1e-5)
    assert cost.passes == 1 + len(ANSWERS)


def test_answers_of_like_length_share_a_pass_and_little_is_padded() -> None:
    lengths = [3, 40, 4, 41, 3, 5, *([4] * 40)]
    fed = [[1] * n for n in lengths]
    chunks = list(choices._chunks(fed, 100))
    assert sorted(i for chunk in chunks for i in chunk) == list(range(len(fed)))
    assert sorted(chunks[0]) == [1, 3]
    assert len(chunks) == 2


def test_a_trained_model_is_scored_exactly_in_the_plain_format(
    stories: tuple[PreTrainedModel, PreTrainedTokenizerFast],
) -> None:
    model = load(*stories)
    prompt = model.render(ASK)
    answers = ["a little girl", "a little", "zebra"]
    scores, _ = model.choose(prompt, answers)
    line_break = model.template.encode("\n")
    ends = model.end_ids + (line_break if len(line_break) == 1 else ())
    expected = [one_at_a_time(model, prompt, answer, ends) for answer in answers]
    np.testing.assert_allclose(scores, expected, atol=2e-5)
    assert scores.argmax() != 2


def test_the_probabilities_of_all_answers_sum_to_one(tiny_llama: PreTrainedModel) -> None:
    """Of one token, first; then, of one token, what ends there and what goes on."""
    prefix = Prefix(tiny_llama, [5, 6, 7])
    end, words = 0, list(range(1, 384))
    single, _, _ = choices.score(prefix, [[w] for w in words], [end])
    reached, _, _ = choices.score(prefix, [[w] for w in words], [])
    at_once = float(prefix.logits[0].double().softmax(-1)[end])
    assert at_once + np.exp(reached).sum() == pytest.approx(1.0, abs=1e-5)
    pairs = [[3, w] for w in words]
    longer, _, _ = choices.score(prefix, pairs, [])
    assert np.exp(longer).sum() + math.exp(single[2]) == pytest.approx(
        math.exp(reached[2]), rel=1e-4
    )


def test_an_answer_that_begins_another_is_not_favoured_for_being_shorter(
    tiny_llama: PreTrainedModel, chat_tokenizer: PreTrainedTokenizerFast
) -> None:
    model = load(tiny_llama, chat_tokenizer)
    prompt = model.render(ASK)
    scores, _ = model.choose(prompt, ["card", "card lost", "card stolen"])
    ids = model.template.encode_answer("card")
    stem, _, _ = choices.score(Prefix(model.model, prompt.ids), [ids], [])
    assert np.exp(scores).sum() < math.exp(stem[0])


def test_a_model_without_any_end_leaves_it_out(
    tiny_llama: PreTrainedModel, chat_tokenizer: PreTrainedTokenizerFast
) -> None:
    model = load(tiny_llama, chat_tokenizer)
    prompt = model.render(ASK)
    ids = [model.template.encode_answer(answer) for answer in ANSWERS]
    expected = [one_at_a_time(model, prompt, answer, ()) for answer in ANSWERS]
    for way in (Way.ROWS, Way.PACKED):
        scores, tokens, _ = choices.score(Prefix(model.model, prompt.ids), ids, [], way)
        np.testing.assert_allclose(scores, expected, atol=2e-5)
        assert tokens <= sum(len(i) - 1 for i in ids)


def test_scores_do_not_depend_on_the_other_answers_or_their_order(
    tiny_lfm2: PreTrainedModel, chat_tokenizer: PreTrainedTokenizerFast
) -> None:
    model = load(tiny_lfm2, chat_tokenizer)
    prompt = model.render(ASK)
    by_answer = dict(zip(ANSWERS, model.choose(prompt, ANSWERS)[0], strict=True))
    for order in itertools.permutations(ANSWERS[:3]):
        scores, _ = model.choose(prompt, order)
        np.testing.assert_allclose(scores, [by_answer[a] for a in order], atol=1e-5)


@pytest.mark.parametrize("answers", [[], ["yes", "no", "yes"], ["yes", ""]])
def test_no_answers_empty_answers_and_duplicates_are_refused(
    answers: list[str], tiny_llama: PreTrainedModel, chat_tokenizer: PreTrainedTokenizerFast
) -> None:
    model = load(tiny_llama, chat_tokenizer)
    with pytest.raises(InvalidOutput):
        model.choose(model.render(ASK), answers)


def test_an_answer_that_the_tokenizer_cannot_write_is_refused(tiny_llama: PreTrainedModel) -> None:
    from tokenizers import Tokenizer, models

    letters = {letter: i for i, letter in enumerate(["<end>", *"yesno"])}
    backend = Tokenizer(models.BPE(vocab=letters, merges=[]))  # drops what it does not know
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>")
    model = load(tiny_llama, tokenizer)
    model.choose(Prompt(text="y", ids=(2,)), ["yes", "no"])
    with pytest.raises(InvalidOutput, match="BAD"):
        model.choose(Prompt(text="y", ids=(2,)), ["yes", "BAD"])


def test_an_answer_that_does_not_fit_behind_the_prompt_is_refused(
    tiny_llama: PreTrainedModel, chat_tokenizer: PreTrainedTokenizerFast
) -> None:
    model = load(tiny_llama, chat_tokenizer)
    prompt = Prompt(text="", ids=(5,) * 255)
    model.choose(prompt, ["y"])
    with pytest.raises(PromptTooLong) as caught:
        model.choose(prompt, ["tracking number"])
    assert caught.value.value == 255


# ------------------------------------------------------------------------------------- tries


def test_what_answers_begin_with_is_held_once() -> None:
    trie = Trie.of([(1, 2, 3), (1, 2), (1, 4), (5,), ()])
    assert trie.tokens == (1, 2, 3, 4, 5)
    assert trie.parents == (-1, 0, 1, 0, -1)
    assert trie.depths == (0, 1, 2, 1, 0)
    assert trie.leaves == (2, 1, 3, 4, -1)


def test_blocks_hold_whole_branches_and_a_scattered_tree_is_one_block(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(forest, "BLOCK", 2)
    assert forest.Tree([-1, 0, 0, -1, 3, -1]).blocks == ((0, 3), (3, 5), (5, 6))
    assert forest.Tree([-1, -1, 0, 1]).blocks == ((0, 4),)


@pytest.mark.parametrize("name", ["lfm2", "llama", "gpt2"])
def test_many_answers_in_many_blocks_and_passes_are_scored_exactly(
    name: str, chat_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forest, "BLOCK", 8)
    model = load(build(name), chat_tokenizer)
    prompt = model.render(ASK)
    answers = [f"{a} {b} {c}" for a in ("card", "no") for b in ("lost", "x") for c in range(9)]
    assert model.plan.choices is not Way.ROWS
    rows, _ = model.using(choices="rows").choose(prompt, answers)
    whole, _ = model.choose(prompt, answers)
    np.testing.assert_allclose(whole, rows, atol=2e-5)
    monkeypatch.setattr(choices, "ENTRIES_PER_PASS", 40 * 384)
    parts, cost = model.choose(prompt, answers[::-1])
    np.testing.assert_allclose(parts[::-1], rows, atol=2e-5)
    assert cost.passes > 1


def test_the_bundled_model_scores_its_answers_exactly() -> None:
    model = load(*tta.bundled())
    prompt = model.render([Message(role="user", content="Where is my parcel?")])
    answers = ["card_arrival", "card_lost", "card", "refund_not_showing_up", "yes", "Yes!"]
    assert model.plan.choices is Way.FOREST
    scores, _ = model.choose(prompt, answers)
    expected = [one_at_a_time(model, prompt, answer, model.end_ids) for answer in answers]
    np.testing.assert_allclose(scores, expected, atol=5e-5)
