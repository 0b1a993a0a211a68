"""The sampler draws from the distribution it says, one random number a token."""

import itertools

import numpy as np
import pytest
import torch
from transformers.generation.logits_process import (
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from tta.decoding import sample
from tta.decoding.sample import Sampling, step
from tta.errors import InvalidSetting, UnsupportedModel

GRID = 20_000


def drawn(logits: torch.Tensor, sampling: Sampling, allowed: object = None) -> np.ndarray:
    """Shares of each token over an even grid of random numbers."""
    u = ((np.arange(GRID) + 0.5) / GRID).tolist()
    rows = logits.expand(GRID, -1)
    steps = step(rows, u, sampling=sampling, allowed=[allowed] * GRID)  # type: ignore[list-item]
    return np.bincount([s.token for s in steps], minlength=logits.shape[-1]) / GRID


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    list(itertools.product((0.7, 1.0, 1.6), (0, 3, 40), (0.5, 0.95, 1.0))),
)
def test_the_distribution_is_that_of_transformers_own_processors(
    temperature: float, top_k: int, top_p: float
) -> None:
    logits = torch.randn(1, 60, generator=torch.Generator().manual_seed(0)) * 2
    ids = torch.zeros(1, 1, dtype=torch.long)
    expected = TemperatureLogitsWarper(temperature)(ids, logits.clone())
    if top_k:
        expected = TopKLogitsWarper(top_k)(ids, expected)
    expected = TopPLogitsWarper(top_p)(ids, expected).softmax(-1)[0]
    found = drawn(logits, Sampling(temperature=temperature, top_k=top_k, top_p=top_p))
    np.testing.assert_allclose(found, expected, atol=2 / GRID + 1e-5)


def test_a_nucleus_wider_than_the_first_guess_is_drawn_from_in_full() -> None:
    logits = torch.log(torch.linspace(1.0, 2.0, 3000))[None]
    steps = step(logits.expand(4000, -1), np.linspace(0, 0.9999, 4000), sampling=Sampling())  # type: ignore[arg-type]
    tokens = {s.token for s in steps}
    assert 2000 < len(tokens) < 3000
    assert 150 < min(tokens) < 300


def test_wide_and_narrow_rows_in_one_batch_do_not_mix() -> None:
    flat, sharp = torch.zeros(1000), torch.full((1000,), -50.0)
    sharp[7] = 0.0
    both = step(torch.stack([flat, sharp, flat]), [0.1, 0.9, 0.8], sampling=Sampling())
    alone = [
        step(z[None], [u], sampling=Sampling())[0]
        for z, u in ((flat, 0.1), (sharp, 0.9), (flat, 0.8))
    ]
    assert [s.token for s in both] == [s.token for s in alone]
    assert both[1].token == 7


def test_a_draw_is_masked_before_it_is_cut() -> None:
    """The nucleus of what is allowed, even where the model gives it next to nothing."""
    logits = torch.log(torch.tensor([[0.9, 0.06, 0.02, 0.011, 0.009]]))
    mask = np.array([False, False, True, True, True])
    found = drawn(logits, Sampling(top_p=0.75), mask)
    np.testing.assert_allclose(found, [0, 0, 20 / 31, 11 / 31, 0], atol=1e-3)
    (greedy,) = step(logits, [None], sampling=Sampling(), allowed=[mask])
    assert greedy.token == 2
    assert greedy.logprob == pytest.approx(np.log(0.02), abs=1e-5)
    assert greedy.mask_mass == pytest.approx(np.log(0.04), abs=1e-5)


def test_masked_and_free_rows_share_a_step() -> None:
    logits = torch.tensor([[3.0, 2.0, 1.0]]).expand(2, -1)
    mask = np.array([False, False, True])
    free, masked = step(logits, [None, None], sampling=Sampling(), allowed=[None, mask])
    assert (free.token, masked.token) == (0, 2)
    assert free.mask_mass == 0.0


@pytest.mark.parametrize("u", [0.0, 0.5, np.nextafter(1.0, 0.0)])
def test_a_token_without_probability_is_never_drawn(u: float) -> None:
    logits = torch.full((1, 300), -torch.inf)
    logits[0, 100:103] = 0.0
    for sampling in (Sampling(), Sampling(top_p=1.0), Sampling(top_k=2), Sampling(top_k=50)):
        (taken,) = step(logits, [float(u)], sampling=sampling)
        assert taken.token in (100, 101, 102)


def test_what_a_step_reports_is_of_the_raw_logits() -> None:
    logits = torch.randn(1, 64, generator=torch.Generator().manual_seed(1))
    p = logits[0].double().log_softmax(-1)
    (taken,) = step(logits, [0.3], sampling=Sampling(temperature=0.5), ends=(3, 9), vocabulary=60)
    assert taken.logprob == pytest.approx(float(p[taken.token]), abs=1e-5)
    assert taken.end_logprob == pytest.approx(float(p[[3, 9]].logsumexp(0)), abs=1e-5)
    assert taken.certainty == pytest.approx(float(-p[:60].mean() - np.log(60)), abs=1e-5)
    assert taken.confidence == pytest.approx(float(-p.topk(20).values.mean()), abs=1e-5)


def test_random_numbers_depend_on_seed_and_sample_alone() -> None:
    assert np.array_equal(sample.uniforms(1, 2, 5), sample.uniforms(1, 2, 9)[:5])
    assert len({sample.uniforms(s, i, 1)[0] for s in (0, 1, -1) for i in range(3)}) == 9


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), -float("inf")])
def test_logits_that_are_not_numbers_are_refused(broken: float) -> None:
    with pytest.raises(UnsupportedModel, match="not numbers"):
        step(torch.full((2, 8), broken), [None, 0.5], sampling=Sampling())


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": 0.0},
        {"temperature": float("nan")},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.1},
    ],
)
def test_a_sampling_that_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidSetting, match=next(iter(wrong))):
        Sampling(**wrong)  # type: ignore[arg-type]
