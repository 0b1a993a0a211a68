"""Rows of different prompts and lengths in one pass give the numbers that each has alone."""

import pytest
import torch

from tta.decoding.engine import Prefix
from tta.decoding.plan import plan
from tta.decoding.ragged import Apart, Lanes, Together

from conftest import MODELS, build  # isort: skip

PROMPTS = ([5, 9, 3], list(range(20, 60)), [7] * 17, [4])
"""Shorter and longer than the windows of the tiny models, which are 16 tokens."""


@pytest.mark.parametrize("name", list(MODELS))
def test_rows_run_together_have_the_numbers_each_has_alone(name: str) -> None:
    model = build(name)
    found = plan(model)
    assert found.ragged == (name != "mamba")
    kinds: tuple[type[Apart] | type[Together], ...] = (Apart, Together)
    logits = [
        played(kind, [Prefix(model, ids) for ids in PROMPTS]) for kind in kinds[: 1 + found.ragged]
    ]
    for other in logits[1:]:
        torch.testing.assert_close(other, logits[0], atol=2e-5, rtol=1e-4)


def played(kind: type[Apart] | type[Together], prefixes: list[Prefix]) -> torch.Tensor:
    """Rows that come, double, leave, are set aside and come back."""
    rows: Lanes = kind.of(prefixes[0])
    seen = [rows.forward([11])]
    rows.join(kind.of(prefixes[1]))
    seen += [rows.forward([12, 13]) for _ in range(20)]
    rows.keep([1, 0, 1])
    seen.append(rows.forward([14, 15, 16]))
    aside = rows.taken(2)
    rows.join(kind.of(prefixes[2]))
    rows.join(kind.of(prefixes[3]))
    assert len(rows) == 5
    seen.append(rows.forward([17, 18, 19, 20, 21]))
    rows.keep([3, 1])
    seen.append(rows.forward([22, 23]))
    aside.forward([24])
    rows.join(aside)
    seen += [rows.forward([25, 26, 27]) for _ in range(70)]  # outgrows the room of its rows
    assert len(rows) == 3
    return torch.cat(seen)


@pytest.mark.parametrize("name", ["llama", "lfm2", "qwen3_next", "mistral"])
def test_a_prefix_stays_as_it_was_when_its_rows_go_on(name: str) -> None:
    prefix = Prefix(build(name), PROMPTS[1])
    first = Together.of(prefix).forward([8])
    rows = Together.of(prefix)
    for token in (4, 5, 6):
        rows.forward([token])
    assert torch.equal(Together.of(prefix).forward([8]), first)


def test_room_that_no_row_uses_is_given_back_when_others_come() -> None:
    model = build("llama")
    rows = Together.of(Prefix(model, PROMPTS[1]))
    rows.join(Together.of(Prefix(model, PROMPTS[0])))
    rows.keep([1])
    rows.join(Together.of(Prefix(model, PROMPTS[0])))
    assert rows._cache.get_seq_length() == 3
