"""The rows of `benchmarks.decoding` that decode under a constraint, with a real vocabulary.

The tokenizer is cl100k_base (100,260 tokens), from the copy that llama-index carries. The baseline
is outlines over `model.generate`.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import Any

from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from tta.decoding import engine
from tta.decoding.constrain import Output
from tta.decoding.engine import Fork, Prefix, Row, Rules
from tta.decoding.matcher import TokenMatcher, token_table
from tta.decoding.sample import Sampling, uniforms

PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*"
    r"|\s*[\r\n]|\s+(?!\S)|\s+"
)
ADDRESS = {
    "type": "object",
    "properties": {
        "street": {"type": "string"},
        "zip": {"type": "string", "pattern": "^[0-9]{5}$"},
    },
    "required": ["street", "zip"],
    "additionalProperties": False,
}
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer"},
        "tags": {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 5},
        "addr": ADDRESS,
        "kind": {"enum": ["a", "b", "c"]},
    },
    "required": ["name", "age", "tags", "addr", "kind"],
    "additionalProperties": False,
}
CUT = Sampling(temperature=0.8, top_k=50, top_p=0.9)
Against = Callable[..., dict[str, float]]


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    import llama_index.core
    from transformers.convert_slow_tokenizer import TikTokenConverter

    assert llama_index.core.__file__ is not None
    folder = Path(llama_index.core.__file__).parent / "_static" / "tiktoken_cache"
    (path,) = folder.glob("9b5ad*")
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"]
    converter = TikTokenConverter(
        vocab_file=str(path), pattern=PATTERN, extra_special_tokens=special
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=converter.converted(), eos_token=special[0], pad_token=special[-1]
    )


def model_for(made: LlamaForCausalLM) -> LlamaForCausalLM:
    """The same, with the tokenizer's ends."""
    made.generation_config.eos_token_id = tokenizer().eos_token_id
    made.generation_config.pad_token_id = tokenizer().pad_token_id
    return made


def json16(made: LlamaForCausalLM, against: Against) -> dict[str, float]:
    """A nested schema, 16 samples of 24 tokens after 1,000, everything warm."""
    import outlines
    from outlines.types import JsonSchema

    model, words = model_for(made), tokenizer()
    numbers = random.Random(0)
    text = words.decode([numbers.randrange(1000, 50_000) for _ in range(1000)])
    ids = words(text)["input_ids"]
    ends = [int(words.eos_token_id)]
    width = model.config.vocab_size
    table = token_table(words, width=width, ends=ends)
    constraint = Output.of(SCHEMA)
    assert constraint is not None

    def ours() -> None:
        matchers = TokenMatcher.rows(table, constraint.grammar, width=width, ends=ends, n=16)
        rows = [Row(uniforms=uniforms(0, i, 24), matcher=m) for i, m in enumerate(matchers)]
        rules = Rules(ends=tuple(ends), limit=24, sampling=CUT, vocabulary=len(words))
        engine.draw(Prefix(model, ids), rows, rules, Fork.SHARED)

    wrapped: Any = outlines.from_transformers(model, words)  # type: ignore[arg-type]
    generator: Any = outlines.Generator(
        wrapped, JsonSchema(json.dumps(SCHEMA)), backend="llguidance"
    )
    how = {"do_sample": True, "top_k": 50, "top_p": 0.9, "temperature": 0.8}
    generator("hi", max_new_tokens=3, num_return_sequences=2, **how)

    def base() -> None:
        generator(text, max_new_tokens=24, num_return_sequences=16, **how)

    return against(base, ours, repeats=1)


def compile500(against: Against) -> dict[str, float]:
    """From 500 choices to the first mask; both have the tokenizer ready."""
    from outlines_core import Guide, Index, Vocabulary  # type: ignore[import-untyped]

    words = tokenizer()
    numbers = random.Random(1)
    names = ["".join(numbers.choices("abcdefghij_", k=12)) for _ in range(500)]
    known: dict[str, list[int]] = {}
    for token, i in words.get_vocab().items():
        known.setdefault(words.convert_tokens_to_string([token]), []).append(i)
    known.pop(str(words.eos_token))
    vocabulary = Vocabulary(int(words.eos_token_id), known)
    ends = [int(words.eos_token_id)]
    table = token_table(words, width=len(words), ends=ends)

    def ours() -> None:
        constraint = Output.of(names)
        assert constraint is not None
        (row,) = TokenMatcher.rows(table, constraint.grammar, width=len(words), ends=ends, n=1)
        row.allowed()

    def base() -> None:
        Guide(Index("|".join(names), vocabulary)).get_tokens()

    ours()
    return against(base, ours, repeats=3)


# ------------------------------------------------------------------------------ fresh process

_FRESH = """
import resource, sys, time, warnings
warnings.filterwarnings("ignore")
import torch
torch.set_num_threads(1)
from benchmarks.constraints import tokenizer
from transformers import LlamaConfig, LlamaForCausalLM
words = tokenizer()
model = LlamaForCausalLM(LlamaConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
    num_key_value_heads=1, intermediate_size=32, vocab_size=len(words),
    eos_token_id=words.eos_token_id, pad_token_id=words.pad_token_id)).eval()
def spent():
    return sum(u.ru_utime + u.ru_stime for u in (resource.getrusage(resource.RUSAGE_SELF),
        resource.getrusage(resource.RUSAGE_CHILDREN)))
{imports}
start = spent()
{call}
print("SPENT", spent() - start)
"""
_OURS = (
    "from tta.decoding import load\nfrom tta.types import Prompt, Regex",
    "load(model, words).draw(Prompt(text='hi', ids=(1, 2)), n=1, max_new_tokens=1, seed=0, "
    "output=Regex('[0-9]{3}'))",
)
_THEIRS = (
    "import outlines\nfrom outlines.types import Regex",
    "outlines.Generator(outlines.from_transformers(model, words), Regex('[0-9]{3}'))"
    "('hi', max_new_tokens=1)",
)


def first() -> dict[str, float]:
    """The first constrained token of a process, its tokenizer's set-up and all children included;
    nothing compiled is left over from an earlier one."""
    theirs, ours = (_fresh(code) for code in (_THEIRS, _OURS))
    return {"ratio": theirs[0] / ours[0], "baseline_s": theirs[0], "ours_s": ours[0],
            "wall_ratio": theirs[1] / ours[1]}  # fmt: skip


def _fresh(code: Sequence[str]) -> tuple[float, float]:
    script = _FRESH.format(imports=code[0], call=code[1])
    with tempfile.TemporaryDirectory() as folder:
        more = {"TORCHINDUCTOR_CACHE_DIR": folder, "OMP_NUM_THREADS": "1"}
        start = perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, **more},
            capture_output=True,
            text=True,
            check=True,
        )
        wall = perf_counter() - start
    return float(done.stdout.rpartition("SPENT")[2]), wall
