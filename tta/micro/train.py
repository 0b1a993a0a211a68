"""Train the bundled model from scratch: ``python -m tta.micro.train --steps N --seed S --out DIR``.

Knows the architecture, the optimizers and the order in which the corpus is shown. Refuses to know
what the tasks mean, and reads no file but its own checkpoints. Every batch is a function of the
seed and its number, so a run that stops and goes on with ``--resume`` sees what it would have seen.

The recipe, chosen by measuring on two CPU cores: LFM2 (Liquid AI 2025), whose short convolutions
learn to copy from context in a few hundred steps where plain attention takes thousands; Muon
(Jordan 2024) for the matrices and AdamW for the rest; a wide initialization (0.05); small batches;
a first phase of dense copying; and loss only on answers that the prompt determines.

A step is four small batches, computed by two threads of one core each: on a shared machine two
cores that work apart are four times as fast as two that wait for each other at every operation.
Gradients are added in a fixed order, so the result does not depend on which thread was faster. Up
to step FIRST all is a function of the seed and the step, whatever ``--steps`` says.
"""

from __future__ import annotations

import argparse
import math
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, cast

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import Lfm2Config, Lfm2ForCausalLM, PreTrainedTokenizerFast

from tta.micro.corpus import AGAIN, FAMILIES, LAST, LATER, WEIGHTS, ask, draw, texts
from tta.micro.corpus_episode import CHAT_TEMPLATE, END, PAD, SPECIAL, Episode

VOCABULARY = 1024
MICRO_TOKENS = 768  # in each of the MICRO batches whose gradients make one step
MICRO = 4
SHORT, LONG = 384, 800  # examples up to SHORT tokens, and one in four of those up to LONG
BLOCK = 1024  # examples drawn at a time and packed into batches of like length
PEAK = {"muon": 0.02, "adamw": 2e-3}
WARMUP = 100
FIRST = 6500  # steps until the learning rate has fallen to zero for the first time
DECLINE = 0.67  # the last part of those, in which it falls
SECOND = 0.35  # share of the peak from which it falls again in the steps after FIRST
CHECKPOINT_EVERY, EXPORT_SECONDS, REPORT_EVERY = 300, 900.0, 2000


@dataclass(frozen=True)
class Phase:
    """Up to step ``until``, a share ``copying`` of the batches is random tokens to copy."""

    until: int
    copying: float


# Which mixture up to which block: about steps 2100, 3700, FIRST, and the rest.
MIXTURES = ((26, WEIGHTS), (51, LATER), (87, LAST), (10**9, AGAIN))
PHASES = (Phase(400, 1.0), Phase(1500, 0.12), Phase(10**9, 0.05))


# ---- tokenizer and model -----------------------------------------------------------------------


def build_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE that isolates spaces, digits and marks: a word has one spelling everywhere."""
    bpe = Tokenizer(models.BPE())
    apart = pre_tokenizers.Split(pattern=Regex(r"\s|\d|_|[^\w\s]"), behavior="isolated")
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([apart, as_bytes])
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator((_plain(text) for text in texts(seed, 20_000)), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=list(SPECIAL[2:]),
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
        padding_side="left",
    )


def _plain(text: str) -> str:
    for mark in SPECIAL:
        text = text.replace(mark, "\n")
    return text


def build_model(seed: int) -> Lfm2ForCausalLM:
    """An untrained LFM2 of about three million parameters."""
    torch.manual_seed(seed)
    config = Lfm2Config(
        vocab_size=VOCABULARY,
        hidden_size=192,
        intermediate_size=512,
        block_auto_adjust_ff_dim=False,
        num_hidden_layers=7,
        num_attention_heads=6,
        num_key_value_heads=6,
        full_attn_idxs=[1, 3, 5],
        max_position_embeddings=2048,
        initializer_range=0.05,
        tie_word_embeddings=True,
        pad_token_id=SPECIAL.index(PAD),
        eos_token_id=SPECIAL.index(END),
        bos_token_id=None,
    )
    return Lfm2ForCausalLM(config)


# ---- batches -----------------------------------------------------------------------------------

Row = tuple[list[int], list[int]]  # token ids, and the same with -100 where nothing is learned


def encode(tokenizer: Tokenizer, episode: Episode) -> Row:
    """Token ids and labels of an example."""
    ids: list[int] = []
    labels: list[int] = []
    for piece, learned in episode.segments():
        part = tokenizer.encode(piece).ids
        ids += part
        labels += part if learned else [-100] * len(part)
    return ids, labels


def task_batches(tokenizer: Tokenizer, seed: int) -> Iterator[list[Row]]:
    """Batches of the task mixture, for ever; rows of one batch have like lengths."""
    block = 0
    while True:
        rng = Random(f"{seed}/tasks/{block}")
        weights = next(mixture for until, mixture in MIXTURES if block < until)
        rows: list[Row] = []
        while len(rows) < BLOCK:
            row = encode(tokenizer, draw(rng, weights=weights))
            if len(row[0]) <= SHORT or (len(row[0]) <= LONG and rng.random() < 0.25):
                rows.append(row)
        by_width: dict[int, list[Row]] = {}
        for row in rows:
            by_width.setdefault(width_of(len(row[0])), []).append(row)
        packed: list[list[Row]] = []
        for width, alike in by_width.items():
            count = max(1, MICRO_TOKENS // width)
            packed += [alike[i : i + count] for i in range(0, len(alike), count)]
        rng.shuffle(packed)
        yield from packed
        block += 1


def copy_batch(seed: int, step: int) -> list[Row]:
    """Random tokens that repeat, or keys and values that are looked up."""
    rng = Random(f"{seed}/copies/{step}")
    length = rng.choice((48, 64, 96, 128))
    row = (_repeated, _looked_up)
    return [rng.choice(row)(rng, length) for _ in range(MICRO_TOKENS // length)]


def _tokens(rng: Random, count: int) -> list[int]:
    return [rng.randrange(len(SPECIAL), VOCABULARY) for _ in range(count)]


def _repeated(rng: Random, length: int) -> Row:
    period = rng.randint(4, length // 2)
    base = _tokens(rng, period)
    ids = (base * (length // period + 1))[:length]
    return ids, [-100] * period + ids[period:]


def _looked_up(rng: Random, length: int) -> Row:
    count = rng.randint(3, 8)
    pairs = [
        (_tokens(rng, rng.randint(1, 2)), _tokens(rng, rng.randint(1, 4))) for _ in range(count)
    ]
    middle, close = rng.sample(range(len(SPECIAL), VOCABULARY), 2)
    ids: list[int] = []
    labels: list[int] = []
    told = 0
    while len(ids) < length:
        key, found = pairs[told] if told < count else rng.choice(pairs)
        tail = [*found, close]
        ids += [*key, middle, *tail]
        labels += [-100] * (len(key) + 1) + (tail if told >= count else [-100] * len(tail))
        told += 1
    return ids[:length], labels[:length]


def width_of(length: int) -> int:
    """The width to which a row of ``length`` tokens is padded.

    Few widths, and always as many rows, make few shapes: the CPU kernels are compiled for each
    shape that is met, and that took four times as long as the arithmetic.
    """
    step = 16 if length <= 128 else 32 if length <= SHORT else 64
    return math.ceil(length / step) * step


def tensors(rows: list[Row]) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows padded on the right, and empty rows up to a full batch."""
    width = width_of(max(len(ids) for ids, _ in rows))
    count = max(1, MICRO_TOKENS // width)
    ids = torch.zeros(count, width, dtype=torch.long)
    labels = torch.full((count, width), -100)
    for i, (row, learned) in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        labels[i, : len(learned)] = torch.tensor(learned)
    return ids, labels


# ---- training ----------------------------------------------------------------------------------


def loss_of(model: Lfm2ForCausalLM, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Summed cross entropy of the learned tokens; other positions never reach the vocabulary."""
    target = labels[:, 1:].flatten()
    learned = (target != -100).nonzero().flatten()
    padding = learned.new_zeros(-len(learned) % 64)  # few shapes, as in width_of
    target = torch.cat([target[learned], torch.full_like(padding, -100)])
    with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
        logits = model.lm_head(hidden.flatten(0, 1)[torch.cat([learned, padding])])
    return torch.nn.functional.cross_entropy(logits.float(), target, reduction="sum")


def optimizers(model: Lfm2ForCausalLM) -> dict[str, torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for embeddings, convolutions and norms."""
    named = dict(model.named_parameters())
    matrices = [p for name, p in named.items() if p.ndim == 2 and "embed" not in name]
    rest = [p for name, p in named.items() if p.ndim != 2 or "embed" in name]
    return {
        "muon": torch.optim.Muon(matrices, lr=PEAK["muon"], momentum=0.95, weight_decay=0.01),
        "adamw": torch.optim.AdamW(rest, lr=PEAK["adamw"], betas=(0.9, 0.98), weight_decay=0.01),
    }


def pace(step: int, steps: int) -> float:
    """Share of the peak learning rate: warm-up, peak, a line to zero; then a lower one to zero."""
    if step >= FIRST:
        return SECOND * (steps - step) / (steps - FIRST)
    return min(1.0, (step + 1) / WARMUP, (FIRST - step) / (DECLINE * FIRST))


def copying(step: int, seed: int) -> bool:
    """Whether this step's batch is of random tokens."""
    share = next(phase.copying for phase in PHASES if step < phase.until)
    return Random(f"{seed}/which/{step}").random() < share


@dataclass
class Run:
    """One training run: everything that a checkpoint holds, and where it is kept."""

    model: Lfm2ForCausalLM
    tokenizer: PreTrainedTokenizerFast
    tuning: dict[str, torch.optim.Optimizer]
    seed: int
    steps: int
    out: Path
    step: int = 0
    drawn: int = 0  # batches of the task mixture used so far
    tokens: int = 0
    seconds: float = 0.0
    threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(2))

    def save(self) -> None:
        """Write a checkpoint from which ``--resume`` goes on exactly."""
        state = {
            "model": self.model.state_dict(),
            "tuning": {name: tuner.state_dict() for name, tuner in self.tuning.items()},
            "at": (self.seed, self.steps, self.step, self.drawn, self.tokens, self.seconds),
        }
        torch.save(state, self.out / "checkpoint.new")
        (self.out / "checkpoint.new").replace(self.out / "checkpoint.pt")

    def load(self) -> None:
        """Go back to the last checkpoint."""
        state = torch.load(self.out / "checkpoint.pt", weights_only=True)
        self.model.load_state_dict(state["model"])
        for name, tuner in self.tuning.items():
            tuner.load_state_dict(state["tuning"][name])
        seed, steps, self.step, self.drawn, self.tokens, self.seconds = state["at"]
        same = steps == self.steps or self.step <= FIRST
        if seed != self.seed or not same:
            raise SystemExit(f"{self.out} was started with --seed {seed} --steps {steps}")

    def train(self, export: Path | None = None) -> None:
        """Go on to the last step."""
        mixture = task_batches(self.tokenizer.backend_tokenizer, self.seed)
        for _ in range(self.drawn):
            next(mixture)
        exported = time.monotonic()
        recent = math.nan
        while self.step < self.steps:
            began = time.monotonic()
            loss = self._one(mixture)
            self.seconds += time.monotonic() - began
            recent = loss if math.isnan(recent) else 0.95 * recent + 0.05 * loss
            if self.step % 50 == 0:
                rate = self.tokens / self.seconds
                print(
                    f"{self.step:6d}  loss {recent:.3f}  {rate:.0f} tok/s  "
                    f"{self.seconds / 60:.1f} min",
                    flush=True,
                )
            if self.step % CHECKPOINT_EVERY == 0:
                self.save()
            if self.step % REPORT_EVERY == 0:
                print(self.step, score(self.model, self.tokenizer), flush=True)
            if export and time.monotonic() - exported > EXPORT_SECONDS:
                exported = time.monotonic()
                write_package(self.model, self.tokenizer, export)
        self.save()

    def _one(self, mixture: Iterator[list[Row]]) -> float:
        if copying(self.step, self.seed):
            parts = [copy_batch(self.seed, self.step * MICRO + i) for i in range(MICRO)]
        else:
            parts = [next(mixture) for _ in range(MICRO)]
            self.drawn += MICRO
        loss = self._gradients([tensors(rows) for rows in parts])
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for name, tuner in self.tuning.items():
            for group in tuner.param_groups:
                group["lr"] = PEAK[name] * pace(self.step, self.steps)
        list(self.threads.map(lambda tuner: tuner.step(), self.tuning.values()))
        self.step += 1
        return loss

    def _gradients(self, parts: list[tuple[torch.Tensor, torch.Tensor]]) -> float:
        """Set the gradient of the mean loss over all learned tokens of ``parts``."""
        weights = list(self.model.parameters())
        count = sum(int((labels[:, 1:] != -100).sum()) for _, labels in parts)
        self.tokens += sum(ids.numel() for ids, _ in parts)

        def one(part: tuple[torch.Tensor, torch.Tensor]) -> tuple[float, tuple[torch.Tensor, ...]]:
            loss = loss_of(self.model, *part) / count
            return loss.item(), torch.autograd.grad(loss, weights)

        done = list(self.threads.map(one, parts))
        for i, weight in enumerate(weights):
            weight.grad = torch.stack([grads[i] for _, grads in done]).sum(0)
        return sum(loss for loss, _ in done)


@torch.inference_mode()
def score(model: Lfm2ForCausalLM, tokenizer: PreTrainedTokenizerFast, each: int = 30) -> str:
    """Exact matches per family on unseen requests after three demonstrations, in percent."""
    model.train(False)
    said = []
    for name, family in FAMILIES.items():
        rng = Random(f"score/{name}")
        episodes = [ask(rng, family, 3) for _ in range(each)]
        prompts = [
            tokenizer.apply_chat_template(e.messages(), tokenize=False, add_generation_prompt=True)
            for e in episodes
        ]
        batch = tokenizer(prompts, return_tensors="pt", padding=True, return_token_type_ids=False)
        out = cast(Any, model).generate(**batch, max_new_tokens=48, do_sample=False)
        width = batch["input_ids"].shape[1]
        answers = tokenizer.batch_decode(out[:, width:], skip_special_tokens=True)
        right = sum(a == e.last.answer for a, e in zip(answers, episodes, strict=True))
        said.append(f"{name} {100 * right // each}")
    model.train()
    return ", ".join(said)


def write_package(model: Lfm2ForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write what ``from_pretrained`` reads; the folder appears complete or not at all."""
    fresh = folder.with_name(folder.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    model.generation_config.eos_token_id = model.config.eos_token_id
    model.generation_config.pad_token_id = model.config.pad_token_id
    model.save_pretrained(fresh)
    tokenizer.save_pretrained(fresh)
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=9000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="checkpoints; ends with DIR/model")
    parser.add_argument("--export", type=Path, help="a usable model every fifteen minutes")
    parser.add_argument("--resume", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.out.mkdir(parents=True, exist_ok=True)
    model, tokenizer = build_model(given.seed), build_tokenizer(given.seed)
    print(f"{model.num_parameters() / 1e6:.2f} M parameters, {len(tokenizer)} tokens", flush=True)
    run = Run(model, tokenizer, optimizers(model), given.seed, given.steps, given.out)
    if given.resume:
        run.load()
    model.train()
    run.train(given.export)
    write_package(model, tokenizer, given.out / "model")
    print("done:", score(model, tokenizer, 100), flush=True)


if __name__ == "__main__":
    main()
