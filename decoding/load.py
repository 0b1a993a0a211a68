"""From what a user has (objects, a pipeline, an id or a path) to a model that can answer.

Knows `transformers`. Refuses to know which models tta itself carries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tta.decoding.engine import check_evaluating
from tta.decoding.hf import HFModel
from tta.errors import InvalidSetting, MissingExtra, ModelNotFound, UnsupportedModel

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_LOAD_FIRST = "Pass (model, tokenizer) loaded with AutoModelForCausalLM and AutoTokenizer"


def load(model: object, tokenizer: object = None) -> HFModel:
    """A frozen model behind the `Model` protocol.

    `model` is a `PreTrainedModel` (with its tokenizer), a text-generation pipeline, or a hub id or
    local path, which is loaded by `transformers` as it is configured to.

    `ModelNotFound`: nothing loadable under that id or path. `UnsupportedModel`: an
    encoder-decoder, a model without a language head, weights on the meta device, a model in
    training mode. `InvalidSetting`: no tokenizer, or not one.
    """
    from transformers import Pipeline

    if isinstance(model, str):
        model, own = _from_pretrained(model)
    elif isinstance(model, Pipeline):
        model, own = model.model, model.tokenizer
    else:
        own = None
    tokenizer = own if tokenizer is None else tokenizer
    return HFModel(_checked_model(model), _checked_tokenizer(tokenizer, model))


def _from_pretrained(name: str) -> tuple[object, object]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        return AutoModelForCausalLM.from_pretrained(name), AutoTokenizer.from_pretrained(name)
    except OSError as error:
        raise ModelNotFound(
            f"Nothing loadable under {name!r}: {_first_line(error)}",
            value=name,
            hint="Check the id or path; offline, give the path of a downloaded model",
        ) from error
    except ImportError as error:
        raise MissingExtra(
            f"{name!r} needs a package that is not installed: {_first_line(error)}",
            value=name,
            hint="Install it and try again",
        ) from error
    except ValueError as error:
        raise UnsupportedModel(
            f"{name!r} is not a causal language model: {_first_line(error)}",
            value=name,
            hint=_LOAD_FIRST,
        ) from error


def _checked_model(model: object) -> PreTrainedModel:
    from transformers import PreTrainedModel

    kind = type(model).__name__
    if not isinstance(model, PreTrainedModel):
        raise UnsupportedModel(f"{kind} is not a transformers model", value=model, hint=_LOAD_FIRST)
    if model.config.is_encoder_decoder:
        raise UnsupportedModel(
            f"{kind} is an encoder-decoder", value=kind, hint="Use a decoder-only model"
        )
    if not model.can_generate():
        raise UnsupportedModel(f"{kind} has no language head", value=kind, hint=_LOAD_FIRST)
    on_meta = any(p.device.type == "meta" for p in model.parameters())
    if on_meta and getattr(model, "hf_device_map", None) is None:
        raise UnsupportedModel(
            f"{kind} has weights on the meta device, that is, none",
            value=kind,
            hint="Load it with from_pretrained, or call to_empty and load a state dict",
        )
    check_evaluating(model)
    return model


def _checked_tokenizer(tokenizer: object, model: object) -> PreTrainedTokenizerBase:
    from transformers import PreTrainedTokenizerBase

    if isinstance(tokenizer, PreTrainedTokenizerBase):
        return tokenizer
    kind = "No tokenizer" if tokenizer is None else f"{type(tokenizer).__name__} is no tokenizer"
    raise InvalidSetting(
        f"{kind} for {type(model).__name__}",
        value=tokenizer,
        hint="Pass it too: AutoTokenizer.from_pretrained(the model's id or path)",
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
