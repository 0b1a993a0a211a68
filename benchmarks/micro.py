"""What the bundled model can do: exact matches per family, with and without what it needs.

``python -m benchmarks.micro [--model PATH] [--n 200] [--json OUT]``. Every request is of the
share that training never sees; the held-out families are never trained on at all. Knows the corpus
and how to ask a model. Refuses to know how the model was made.

Columns: exact matches in percent after 0, 1, 2 and 4 demonstrations. For the families that are
told by a system text (facts, rules, notes, JSON, tools) it stands there in every column; for the
families told by demonstrations column 0 has nothing to go by. ``without`` asks the requests of
column 4 with all context taken away: what remains is what the model knows by itself, or guesses.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, cast

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from tta.micro import FOLDER
from tta.micro.corpus import FAMILIES, ask
from tta.micro.corpus_episode import UNKNOWN, Episode
from tta.micro.corpus_families import Family
from tta.micro.corpus_heldout import HELD_OUT

SHOTS = (0, 1, 2, 4)
SAMPLES = 16
LONGEST = 64


@dataclass(frozen=True)
class Asked:
    """A loaded model and how many episodes to ask it."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    count: int

    @torch.inference_mode()
    def answers(self, episodes: list[Episode], size: int = 50, **sampling: float) -> list[str]:
        """An answer to each; prompts of like length are asked together."""
        prompts = [self._prompt(e) for e in episodes]
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        out = [""] * len(prompts)
        for start in range(0, len(order), size):
            part = order[start : start + size]
            batch = self.tokenizer([prompts[i] for i in part], return_tensors="pt", padding=True)
            made = cast(Any, self.model).generate(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                max_new_tokens=LONGEST,
                do_sample=bool(sampling),
                **sampling,
            )
            texts = self.tokenizer.batch_decode(
                made[:, batch["input_ids"].shape[1] :], skip_special_tokens=True
            )
            for i, text in zip(part, texts, strict=True):
                out[i] = text
        return out

    def _prompt(self, episode: Episode) -> str:
        text = self.tokenizer.apply_chat_template(
            episode.messages(), tokenize=False, add_generation_prompt=True
        )
        return str(text)

    def matches(self, episodes: list[Episode]) -> float:
        """Exact matches in percent."""
        right = [
            answer == episode.last.answer
            for answer, episode in zip(self.answers(episodes), episodes, strict=True)
        ]
        return 100 * sum(right) / len(right)


def episodes_of(family: Family, shots: int, count: int, honest: bool = False) -> list[Episode]:
    """``count`` episodes of a family; only if ``honest`` those whose answer is not to know."""
    rng = Random(f"benchmark/{family.__name__}/{shots}")
    out: list[Episode] = []
    while len(out) < count:
        episode = ask(rng, family, shots)
        if honest or episode.last.answer != UNKNOWN:
            out.append(episode)
    return out


def row(asked: Asked, name: str, family: Family) -> dict[str, float]:
    """One family: exact matches by number of demonstrations, and with nothing to go by."""
    told = name not in ("labels", "formats", "conventions", "repeats")
    out: dict[str, float] = {}
    for shots in SHOTS:
        if shots or told:
            out[str(shots)] = asked.matches(episodes_of(family, shots, asked.count, name == "idle"))
    four = episodes_of(family, 4, asked.count, name == "idle")
    out["without"] = asked.matches([episode.bare() for episode in four])
    return out


def unseen(asked: Asked, family: Family) -> dict[str, float]:
    """A family that training never draws; also with no demonstration at all."""
    out = {str(s): asked.matches(episodes_of(family, s, asked.count)) for s in SHOTS}
    four = episodes_of(family, 4, asked.count)
    out["without"] = asked.matches([episode.bare() for episode in four])
    return out


def best_of(asked: Asked, family: Family) -> dict[str, float]:
    """Greedy and with sixteen samples: what best-of-N has to win."""
    episodes = episodes_of(family, 0, asked.count)
    torch.manual_seed(0)
    many = [episode for episode in episodes for _ in range(SAMPLES)]
    made = asked.answers(many, size=400, temperature=1.0)
    right = [a == e.last.answer for a, e in zip(made, many, strict=True)]
    groups = [right[i : i + SAMPLES] for i in range(0, len(right), SAMPLES)]
    return {
        "greedy": asked.matches(episodes),
        "pass@1": 100 * sum(right) / len(right),
        f"pass@{SAMPLES}": 100 * sum(map(any, groups)) / len(groups),
    }


COLUMNS = (*map(str, SHOTS), "without")


def heading(title: str) -> str:
    """The first line of a table."""
    return f"{title:24s}" + "".join(f"{column:>9s}" for column in COLUMNS)


def line(name: str, cells: dict[str, float]) -> str:
    """One family's line; a dash where there is nothing to ask."""
    shown = (f"{cells[c]:9.1f}" if c in cells else f"{'-':>9s}" for c in COLUMNS)
    return f"{name:24s}" + "".join(shown)


def measure(asked: Asked, say: Callable[[str], None] = print) -> dict[str, object]:
    """Everything, said as it is known and returned as numbers."""
    trained: dict[str, dict[str, float]] = {}
    say(heading("trained families"))
    for name, family in FAMILIES.items():
        trained[name] = row(asked, name, family)
        say(line(name, trained[name]))
    never: dict[str, dict[str, float]] = {}
    say("\n" + heading("families held out"))
    for name, family in HELD_OUT.items():
        never[name] = unseen(asked, family)
        say(line(name, never[name]))
    say("")
    numbers = {name: best_of(asked, FAMILIES[name]) for name in ("sums", "arithmetic")}
    for name, cells in numbers.items():
        say(f"{name}: " + ", ".join(f"{k} {v:.1f}" for k, v in cells.items()))
    return {"n": asked.count, "trained": trained, "held_out": never, "best_of": numbers}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=FOLDER)
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--json", type=Path)
    parser.add_argument(
        "--threads", type=int, default=1, help="more wait for each other (%(default)s)"
    )
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    tokenizer = AutoTokenizer.from_pretrained(given.model, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(given.model, local_files_only=True).train(False)
    numbers = measure(Asked(model, tokenizer, given.n))
    if given.json:
        given.json.write_text(json.dumps(numbers, indent=2) + "\n")


if __name__ == "__main__":
    main()
