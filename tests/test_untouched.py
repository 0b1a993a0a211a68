"""The wrapped model is never changed: invariant 1."""

import hashlib
import random
from collections.abc import Callable
from typing import Any

import tta
from tta.testing import HashEmbedder

STEPS = 200


def weights(model: Any) -> tuple[str, list[int]]:
    digest = hashlib.sha256()
    for name, tensor in sorted({**model.state_dict(), **dict(model.named_buffers())}.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().numpy().tobytes())
    return digest.hexdigest(), [p._version for p in model.parameters()]


def settings(model: Any, tokenizer: Any) -> dict[str, Any]:
    hooks = [
        (name, kind, len(getattr(module, kind)))
        for name, module in model.named_modules()
        for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    ]
    return {
        "generation_config": model.generation_config.to_dict(),
        "config": model.config.to_dict(),
        "hooks": hooks,
        "training": [m.training for m in model.modules()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "padding_side": tokenizer.padding_side,
        "special": tokenizer.special_tokens_map,
        "template": tokenizer.chat_template,
        "vocabulary": len(tokenizer),
    }


def mixed_step(chat: tta.Adapted, r: random.Random) -> None:
    user, word = r.choice(["ada", "bob"]), r.choice(["kade", "lopi", "zumo", "tevi"])
    if r.random() < 0.6:
        reply = chat(f"{word} {r.randrange(9)}", user=user, output=["red", "blue"], task="t")
        judge: list[Callable[[], object]] = [
            reply.good,
            reply.bad,
            lambda: reply.correct("blue"),
            lambda: None,
        ]
        r.choice(judge)()
        return
    reply = chat(
        f"Say {word}.", user=user, n=r.choice([1, 3]), max_new_tokens=6, seed=r.randrange(9)
    )
    acts: list[Callable[[], object]] = [
        reply.good,
        lambda: reply.correct(word),
        lambda: reply.note("say it twice"),
        lambda: reply.prefer(f"{reply.text}!"),
        lambda: chat.undo(chat.rule("Answer in upper case.", user=user), user=user),
        lambda: chat.frozen(f"Say {word}.", max_new_tokens=4),
        lambda: chat(f"{word}", output=tta.Regex("[a-z]{3}"), max_new_tokens=8),
    ]
    r.choice(acts)()


def test_the_model_is_bit_equal_after_200_mixed_steps() -> None:
    model, tokenizer = tta.bundled()
    before, settings_before = weights(model), settings(model, tokenizer)
    r = random.Random(0)
    with tta.wrap(model, tokenizer, embedder=HashEmbedder()) as chat:
        assert chat.model is not None
        for _ in range(STEPS):
            mixed_step(chat, r)
        chat.forget(user="ada")
    assert weights(model) == before
    assert settings(model, tokenizer) == settings_before
