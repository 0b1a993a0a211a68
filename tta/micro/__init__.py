"""The bundled model: a small causal LM of our own, so that everything runs with no download.

Knows where its weights are and how to load them. Refuses to know what they are used for. Importing
this package imports neither torch nor transformers; `bundled` does. The weights are made by
``python -m tta.micro.train`` from text that ``tta.micro.corpus`` generates.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["FOLDER", "bundled"]

FOLDER = Path(__file__).parent


def bundled() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The bundled model, ready to generate, and its tokenizer. Nothing is downloaded.

    A new pair each time: what one caller does to its model reaches no other.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with _quiet():
        tokenizer = AutoTokenizer.from_pretrained(FOLDER, local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(FOLDER, local_files_only=True)
        model.train(False)
        _run_once(model)
    return model, tokenizer


def _run_once(model: PreTrainedModel) -> None:
    """LFM2 says once that it has no CUDA kernels for its convolutions, which this model needs not:
    let it say so while nobody has to read it."""
    import torch

    with torch.no_grad():
        out = model(input_ids=torch.tensor([[0, 1]]), use_cache=True)
        model(input_ids=torch.tensor([[1]]), past_key_values=out.past_key_values)


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bar and no notice while the model is read; restored afterwards."""
    from transformers.utils import logging as bars

    kernels = logging.getLogger("transformers.integrations.hub_kernels")
    level, shown = kernels.level, bars.is_progress_bar_enabled()
    kernels.setLevel(logging.ERROR)
    bars.disable_progress_bar()
    try:
        yield
    finally:
        kernels.setLevel(level)
        if shown:
            bars.enable_progress_bar()
