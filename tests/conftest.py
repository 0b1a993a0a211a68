"""Tiny real models and tokenizers, built here: no hub, no mock.

Models have random weights (seeded) and real architectures; `MODELS` names them all. The tokenizer
is a byte-level BPE trained on a few lines; `chat_tokenizer` has a ChatML template, and
`tiny_tokenizer` has none.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from postgres_server import database, postgres
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    Lfm2Config,
    Lfm2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OlmoConfig,
    OlmoForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3NextConfig,
    Qwen3NextForCausalLM,
)

import tta
from tta.testing import HashEmbedder

LINES = [
    "Where is my parcel? It was sent on Monday and the tracking number is ABC-123.",
    'card lost, card stolen, refund wanted, yes, no, true, false, null, {"name": "Ada", "age": 36}',
    "The quick brown fox jumps over the lazy dog. 0 1 2 3 4 5 6 7 8 9",
    "User: hello\nAssistant: hello to you\n",
]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
VOCAB = 384
"""Wider than the tokenizer, as in most published models."""

_SMALL: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": None,
}


def _gpt2() -> PreTrainedModel:
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=256,
            bos_token_id=0, eos_token_id=0,
        )
    )  # fmt: skip


def _neox() -> PreTrainedModel:
    config = {k: v for k, v in _SMALL.items() if k != "num_key_value_heads"}
    return GPTNeoXForCausalLM(GPTNeoXConfig(**config))


def _lfm2() -> PreTrainedModel:
    layers = ["conv", "full_attention", "conv"]
    config = {**_SMALL, "num_hidden_layers": 3, "layer_types": layers, "block_multiple_of": 8}
    return Lfm2ForCausalLM(Lfm2Config(**config))


def _gemma3() -> PreTrainedModel:
    layers = ["sliding_attention", "full_attention"]
    config = {**_SMALL, "head_dim": 8, "sliding_window": 16, "layer_types": layers}
    return Gemma3ForCausalLM(Gemma3TextConfig(**config))


def _phi3() -> PreTrainedModel:
    return Phi3ForCausalLM(Phi3Config(**{**_SMALL, "pad_token_id": 0}))


def _mixtral() -> PreTrainedModel:
    return MixtralForCausalLM(MixtralConfig(**_SMALL, num_local_experts=4))


def _mamba() -> PreTrainedModel:
    config = MambaConfig(
        vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, state_size=8,
        bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    return MambaForCausalLM(config)


def _qwen3_next() -> PreTrainedModel:
    linear: dict[str, Any] = {"linear_num_key_heads": 2, "linear_num_value_heads": 2}
    config = Qwen3NextConfig(
        **_SMALL, **linear, head_dim=8, linear_key_head_dim=8, linear_value_head_dim=8,
        layer_types=["linear_attention", "full_attention"], mlp_only_layers=[0, 1],
        num_experts=0,
    )  # fmt: skip
    return Qwen3NextForCausalLM(config)


MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**_SMALL)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**_SMALL)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**_SMALL, sliding_window=16)),
    "gpt2": _gpt2,
    "gpt_neox": _neox,
    "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(**_SMALL, head_dim=8, sliding_window=16)),
    "gemma3": _gemma3,
    "lfm2": _lfm2,
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**_SMALL, head_dim=8)),
    "phi3": _phi3,
    "olmo": lambda: OlmoForCausalLM(OlmoConfig(**_SMALL)),
    "mixtral": _mixtral,
    "mamba": _mamba,
    "qwen3_next": _qwen3_next,
}


def build(name: str) -> PreTrainedModel:
    """A model of `MODELS` with seeded weights, spread enough that its answers are not constant."""
    torch.manual_seed(0)
    model = MODELS[name]()
    model.eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.15)
    return model


def train_tokenizer(*, chat: bool) -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=340, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(LINES, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        additional_special_tokens=special[1:],
    )
    if chat:
        tokenizer.chat_template = CHATML
    return tokenizer


@pytest.fixture
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Without a chat template."""
    return train_tokenizer(chat=False)


@pytest.fixture
def chat_tokenizer() -> PreTrainedTokenizerFast:
    """With a ChatML template."""
    return train_tokenizer(chat=True)


@pytest.fixture
def tiny_llama() -> PreTrainedModel:
    return build("llama")


@pytest.fixture
def tiny_lfm2() -> PreTrainedModel:
    """Short convolutions and attention: the cache of a hybrid model."""
    return build("lfm2")


@pytest.fixture(params=list(MODELS))
def any_model(request: pytest.FixtureRequest) -> PreTrainedModel:
    """Each architecture in turn."""
    return build(request.param)


@pytest.fixture
def stories() -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A trained model of 260 thousand parameters, beside the data folder."""
    data = os.environ.get("TTA_DATA")
    path = Path(data).parent / "models" / "stories260k" if data else None
    if path is None or not path.is_dir():
        pytest.skip("TTA_DATA names no folder with models/stories260k beside it")
    model = AutoModelForCausalLM.from_pretrained(str(path))
    tokenizer = AutoTokenizer.from_pretrained(str(path))
    assert isinstance(model, PreTrainedModel)
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    return model, tokenizer


@pytest.fixture(scope="session")
def cluster() -> Iterator[str]:
    """The URL of a PostgreSQL server, without the name of a database."""
    with postgres() as url:
        yield url


@pytest.fixture(scope="session")
def model() -> tuple[Any, Any]:
    """The bundled model and its tokenizer."""
    return tta.bundled()


@pytest.fixture
def chat(model: tuple[Any, Any]) -> Iterator[tta.Adapted]:
    with tta.wrap(*model, embedder=HashEmbedder()) as chat:
        yield chat


@pytest.fixture
def names_only() -> Iterator[tta.Adapted]:
    with tta.wrap(None, embedder=HashEmbedder()) as chat:
        yield chat


@pytest.fixture
def tiny() -> Iterator[tta.Adapted]:
    """A language model of random weights, where only its cost is of interest."""
    model, tokenizer = build("llama"), train_tokenizer(chat=True)
    with tta.wrap(model, tokenizer, embedder=HashEmbedder(), budget=64) as chat:
        yield chat


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database of the test's own, for a journal."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'shared.db'}"
    return database(request.getfixturevalue("cluster"))
