"""Statistics of a candidate, against their definitions over the whole sequence."""

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from tta.decoding import engine, sample
from tta.decoding.engine import Prefix, Row, Rules
from tta.decoding.score import Stats, group_confidences, group_size


def test_statistics_are_those_of_the_raw_logits_of_every_token(tiny_llama: PreTrainedModel) -> None:
    prompt = [5, 9, 3]
    rows = [Row(uniforms=sample.uniforms(0, i, 24) if i else None) for i in range(3)]
    engine.draw(Prefix(tiny_llama, prompt), rows, Rules(ends=(), limit=24))
    for row in rows:
        with torch.no_grad():
            logits = tiny_llama(input_ids=torch.tensor([[*prompt, *row.ids]])).logits[0]
        logp = logits.double().log_softmax(-1)[len(prompt) - 1 : -1]
        uniform = -logp.mean(-1) - np.log(logp.shape[-1])  # KL(uniform || p)
        top = -logp.topk(20).values.mean(-1)
        found = row.stats.summary()
        assert found["self_certainty"] == pytest.approx(float(uniform.mean()), abs=1e-4)
        assert found["confidence"] == pytest.approx(float(top.mean()), abs=1e-4)
        groups = top.unfold(0, 3, 1).mean(-1)  # 24 tokens: groups of 3
        assert found["confidence_lowest"] == pytest.approx(float(groups.min()), abs=1e-4)
        assert found["confidence_tail"] == pytest.approx(float(groups[-1]), abs=1e-4)
        lowest = groups.sort().values[:2].mean()  # a tenth of 22 groups
        assert found["confidence_bottom"] == pytest.approx(float(lowest), abs=1e-4)
        assert found["mask_mass"] == 0.0


def test_the_end_of_the_turn_counts_as_a_token(tiny_llama: PreTrainedModel) -> None:
    row = Row(uniforms=None)
    engine.draw(Prefix(tiny_llama, [5, 9, 3]), [row], Rules(ends=tuple(range(384)), limit=5))
    assert row.ids == []
    assert len(row.stats.confidences) == 1


def test_a_flat_distribution_has_no_certainty() -> None:
    (taken,) = sample.step(torch.zeros(1, 50), [None], sampling=sample.Sampling())
    assert taken.certainty == pytest.approx(0.0, abs=1e-6)
    assert taken.confidence == pytest.approx(np.log(50), abs=1e-5)


def test_groups_grow_with_the_answer_up_to_a_limit() -> None:
    assert [group_size(n) for n in (1, 15, 16, 800, 10**6)] == [1, 1, 2, 100, 2048]
    np.testing.assert_allclose(group_confidences([1.0] * 15 + [17.0]), [1.0] * 14 + [9.0])


def test_nothing_drawn_has_no_statistics() -> None:
    assert Stats().summary() == {}
