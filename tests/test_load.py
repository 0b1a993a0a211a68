"""What can be wrapped, and what is refused with the way out."""

import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
    TextGenerationPipeline,
)

from tta.decoding import load
from tta.errors import (
    InvalidSetting,
    ModelNotFound,
    UnsupportedModel,
)
from tta.types import Message

ASK = (
    Message(role="system", content="Be brief."),
    Message(role="user", content="Where is my parcel?"),
)


def test_the_id_follows_the_configuration_and_not_the_folder(
    chat_tokenizer: PreTrainedTokenizerFast, tiny_llama: PreTrainedModel, tmp_path: object
) -> None:
    ids = []
    for folder in (f"{tmp_path}/a/mine", f"{tmp_path}/b/mine"):
        tiny_llama.save_pretrained(folder)
        chat_tokenizer.save_pretrained(folder)
        ids.append(load(folder).id)
    assert ids[0] == ids[1]
    assert ids[0].startswith("mine#")
    assert load(tiny_llama, chat_tokenizer).id.partition("#")[0] == "llama"


def test_a_path_and_a_pipeline_answer_as_the_objects_do(
    chat_tokenizer: PreTrainedTokenizerFast, tiny_llama: PreTrainedModel, tmp_path: object
) -> None:
    tiny_llama.save_pretrained(str(tmp_path))
    chat_tokenizer.save_pretrained(str(tmp_path))
    pipe = TextGenerationPipeline(model=tiny_llama, tokenizer=chat_tokenizer)
    models = [load(tiny_llama, chat_tokenizer), load(pipe), load(str(tmp_path))]
    assert models[1].model is tiny_llama
    texts = {m.draw(m.render(ASK), n=1, max_new_tokens=8, seed=0)[0][0].text for m in models}
    assert len(texts) == 1


def test_an_id_under_which_nothing_is_loadable_names_it(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelNotFound, match="no-such") as caught:
        load(f"{tmp_path}/no-such")
    assert "offline" in str(caught.value)


def test_models_that_cannot_be_decoded_are_refused_with_the_way_out(
    chat_tokenizer: PreTrainedTokenizerFast, tiny_llama: PreTrainedModel
) -> None:
    t5 = T5ForConditionalGeneration(
        T5Config(d_model=8, d_ff=8, d_kv=4, num_heads=2, num_layers=1, vocab_size=384)
    )
    bert = BertModel(
        BertConfig(hidden_size=8, num_attention_heads=2, num_hidden_layers=1, intermediate_size=8)
    )
    with torch.device("meta"):
        empty = LlamaForCausalLM(
            LlamaConfig(hidden_size=8, num_attention_heads=2, num_hidden_layers=1)
        )
    for model, words in (
        (t5, "encoder-decoder"),
        (bert, "language head"),
        (empty.eval(), "meta device"),
        (torch.nn.Linear(2, 2), "not a transformers model"),
        (None, "not a transformers model"),
    ):
        with pytest.raises(UnsupportedModel, match=words):
            load(model, chat_tokenizer)
    with pytest.raises(UnsupportedModel, match=r"model\.eval\(\)"):
        load(tiny_llama.train(), chat_tokenizer)


def test_a_model_put_back_into_training_is_refused_at_the_next_call(
    chat_tokenizer: PreTrainedTokenizerFast, tiny_llama: PreTrainedModel
) -> None:
    model = load(tiny_llama, chat_tokenizer)
    tiny_llama.train()
    with pytest.raises(UnsupportedModel, match="training mode"):
        model.draw(model.render(ASK), n=1, max_new_tokens=1, seed=0)
    assert tiny_llama.training


@pytest.mark.parametrize("tokenizer", [None, "gpt2", object()])
def test_a_missing_tokenizer_is_named(tokenizer: object, tiny_llama: PreTrainedModel) -> None:
    with pytest.raises(InvalidSetting, match=r"AutoTokenizer"):
        load(tiny_llama, tokenizer)
