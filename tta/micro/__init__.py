"""The bundled model: a small causal LM of our own, so that everything runs with no download.

Knows where its weights are and how to load them. Refuses to know what they are used for. Importing
this package imports neither torch nor transformers; `bundled` does. The weights are made by
``python -m tta.micro.train`` from text that ``tta.micro.corpus`` generates.
"""

from __future__ import annotations

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

    tokenizer = AutoTokenizer.from_pretrained(FOLDER, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(FOLDER, local_files_only=True)
    return model.train(False), tokenizer
