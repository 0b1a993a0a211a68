"""The bundled model: its files, its chat format, its corpus, and that it reads its prompt."""

from __future__ import annotations

import subprocess
import sys
from random import Random
from typing import Any, cast

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from tta.micro import FOLDER, bundled
from tta.micro.corpus import FAMILIES, ask, draw, texts
from tta.micro.corpus_episode import END, SPECIAL, Episode, System, Turn, for_training, held_out
from tta.micro.corpus_heldout import HELD_OUT

Pair = tuple[PreTrainedModel, PreTrainedTokenizerBase]


@pytest.fixture(scope="module")
def pair() -> Pair:
    return bundled()


def said(pair: Pair, episode: Episode) -> str:
    model, tokenizer = pair
    text = tokenizer.apply_chat_template(
        episode.messages(), tokenize=False, add_generation_prompt=True
    )
    batch = tokenizer(str(text), return_tensors="pt")
    with torch.inference_mode():
        out = cast(Any, model).generate(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            max_new_tokens=40,
            do_sample=False,
        )
    answer = tokenizer.decode(out[0, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    assert isinstance(answer, str)
    return answer


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, tta.micro; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_weights_are_small_and_of_a_native_architecture(pair: Pair) -> None:
    model, _ = pair
    assert (FOLDER / "model.safetensors").stat().st_size <= 16_000_000
    assert type(model).__module__ == "transformers.models.lfm2.modeling_lfm2"
    assert not model.training
    plain = AutoModelForCausalLM.from_pretrained(FOLDER, local_files_only=True)
    assert type(plain) is type(model)
    assert model.generation_config is not None
    assert model.generation_config.eos_token_id == SPECIAL.index(END)


def test_the_chat_template_writes_what_the_corpus_writes(pair: Pair) -> None:
    _, tokenizer = pair
    rng = Random(5)
    for name in FAMILIES:
        episode = draw(rng, name)
        answered = [*episode.messages(), {"role": "assistant", "content": episode.last.answer}]
        assert tokenizer.apply_chat_template(answered, tokenize=False) == episode.text()


def test_no_special_token_is_added_or_doubled(pair: Pair) -> None:
    _, tokenizer = pair
    episode = Episode((Turn("Hi", "Ho"), Turn("Héllo, wörld_1 €", "?")), System(facts=("A is B",)))
    text = str(
        tokenizer.apply_chat_template(
            episode.messages(), tokenize=False, add_generation_prompt=True
        )
    )
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert [ids.count(i) for i in range(len(SPECIAL))] == [0, 4, 1, 2, 2]
    assert tokenizer.bos_token is None


def test_a_word_has_the_same_tokens_wherever_it_stands(pair: Pair) -> None:
    _, tokenizer = pair
    alone = tokenizer.tokenize("velvet")
    for text in ("a velvet b", "velvet_b", "'velvet'", "\nvelvet."):
        parts = tokenizer.tokenize(text)
        assert any(parts[i : i + len(alone)] == alone for i in range(len(parts)))


def test_the_corpus_is_a_function_of_its_seed() -> None:
    assert list(texts(3, 50)) == list(texts(3, 50))
    assert list(texts(3, 50)) != list(texts(4, 50))


def test_training_never_sees_what_the_benchmark_asks() -> None:
    rng = Random(0)
    assert all(for_training(draw(rng, name)) for name in FAMILIES for _ in range(20))
    for family in (*FAMILIES.values(), *HELD_OUT.values()):
        assert held_out(ask(rng, family, 2).last)


def test_only_knowable_answers_are_learned() -> None:
    rng = Random(0)
    for _ in range(30):
        episode = FAMILIES["labels"](rng, 5)
        seen: set[str] = set()
        for turn in episode.turns:
            assert turn.known == (turn.answer in seen)
            seen.add(turn.answer)


@pytest.mark.parametrize("name", ["labels", "facts", "rules", "formats", "json", "repeats"])
def test_the_model_reads_its_prompt(pair: Pair, name: str) -> None:
    rng = Random(f"test/{name}")
    episodes = [ask(rng, FAMILIES[name], 3) for _ in range(12)]
    right = sum(said(pair, e) == e.last.answer for e in episodes)
    assert right >= 8


def test_a_correction_changes_the_answer_to_the_same_request(pair: Pair) -> None:
    asked, wanted = "Where is my parcel?", "Ask for the tracking number first."
    assert said(pair, Episode((Turn(asked, ""),))) != wanted
    assert said(pair, Episode((Turn(asked, wanted), Turn(asked, "")))) == wanted


def test_a_convention_carries_over_to_something_new(pair: Pair) -> None:
    shown = (Turn("Greet Ada.", "Dear Ada,"), Turn("Greet Lena.", "Dear Lena,"))
    assert said(pair, Episode((*shown, Turn("Greet Bob.", "")))) == "Dear Bob,"
