"""How much of JSON Schema `output=` enforces, and whether it ever enforces it wrongly.

    TTA_DATA=... python -m benchmarks.schemas [--suite NAME] [--peers] [--limit N] [--json OUT]

For each schema, with a real vocabulary of 100,260 tokens: is it refused (a typed error that names
why), and if not, are all its valid examples accepted (else over-restrictive), all its invalid ones
rejected (else under-restrictive), and does what is drawn at random from its grammar validate with
`jsonschema`. Nothing is asked of a language model. With `--peers` the same is asked of llguidance,
outlines_core and xgrammar as they are, those that are installed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import numpy as np
from transformers import PreTrainedTokenizerFast

from benchmarks import peers
from benchmarks.constraints import tokenizer
from tta.decoding.constrain import Output
from tta.decoding.matcher import TokenMatcher, token_table
from tta.errors import InvalidOutput

WALKS = 3
LONGEST = 160
"""Tokens of a random answer; one that is not complete by then says nothing."""


def bench(folder: Path) -> Iterator[dict[str, Any]]:
    for line in (folder / "jsonschemabench" / "schemas.jsonl").read_text().splitlines():
        yield json.loads(line)


def suite(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted((folder / "json_schema_test_suite").glob("draft*/**/*.json")):
        if "optional" in path.parts:
            continue
        for i, case in enumerate(json.loads(path.read_text())):
            name = f"{path.parent.name}/{path.stem}/{i}"
            if isinstance(case["schema"], dict):
                yield {**case, "id": name, "group": path.parent.name}


SUITES = {"jsonschemabench": bench, "json_schema_test_suite": suite}


def ours(words: PreTrainedTokenizerFast) -> peers.Rows:
    """What stands behind `output=`."""
    ends, width = [int(words.eos_token_id)], len(words)
    table = token_table(words, width=width, ends=ends)

    def rows(schema: dict[str, Any], n: int) -> Sequence[peers.Row]:
        output = Output.of(schema)
        assert output is not None
        return TokenMatcher.rows(table, output.grammar, width=width, ends=ends, n=n)

    return rows


class Judge:
    """One engine; each schema is judged by itself."""

    def __init__(self, rows: peers.Rows) -> None:
        self.rows = rows
        self.words = tokenizer()
        self.ends = [int(self.words.eos_token_id)]
        self.closing = np.array(self.words.convert_tokens_to_ids(['"', "}", "]", ","]))

    def takes(self, row: peers.Row, text: str) -> bool:
        for token in self.words(text, add_special_tokens=False)["input_ids"]:
            if not row.allowed()[token]:
                return False
            row.take(token)
        return bool(row.allowed()[self.ends[0]])

    def walk(self, row: peers.Row, seed: int) -> str | None:
        """A random complete answer, ended as soon as it may."""
        numbers = random.Random(seed)
        taken: list[int] = []
        while len(taken) < LONGEST:
            allowed = row.allowed()
            if allowed[self.ends[0]]:
                return str(self.words.decode(taken))
            ids = np.flatnonzero(allowed)
            # Short answers: the closing quote and brackets are rare among all that is allowed.
            closing = self.closing[allowed[self.closing]]
            pick = closing if closing.size and numbers.random() < 0.5 else ids
            taken.append(int(pick[numbers.randrange(pick.size)]))
            row.take(taken[-1])
        return None

    def judge(self, case: dict[str, Any]) -> tuple[str, str]:
        """What came of a schema, and the detail."""
        try:
            starts = list(self.rows(case["schema"], len(case["tests"]) + WALKS))
        except InvalidOutput as error:
            return "refused", error.message
        for example in case["tests"]:
            text = json.dumps(example["data"], ensure_ascii=False)
            if self.takes(starts.pop(), text) != example["valid"]:
                kind = "over" if example["valid"] else "under"
                return f"{kind}-restrictive", text[:200]
        for seed, row in enumerate(starts):
            found = self.walk(row, seed)
            if found is not None and not _valid(found, case["schema"]):
                return "under-restrictive", f"drawn: {found[:200]}"
        return "passed", ""


def _valid(text: str, schema: dict[str, Any]) -> bool:
    try:
        jsonschema.validate(json.loads(text), schema)
    except (jsonschema.ValidationError, json.JSONDecodeError):
        return False
    except jsonschema.SchemaError:  # its patterns are of another dialect than Python's
        return True
    return True


def measure(
    cases: Sequence[dict[str, Any]], judge: Judge, apart: bool
) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """How many came to what, and of each that did not pass the detail."""
    outcomes, slowest, details = Counter[str](), 0.0, []
    for case in cases:
        started = perf_counter()
        asked = partial(judge.judge, case)
        outcome, detail = peers.isolated(asked) if apart else asked()
        slowest = max(slowest, perf_counter() - started)
        outcomes[outcome] += 1
        if outcome != "passed":
            details.append({"id": case["id"], "outcome": outcome, "detail": detail})
    return {**outcomes, "slowest_s": round(slowest, 2)}, details


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--suite", choices=list(SUITES), default="jsonschemabench")
    parser.add_argument("--peers", action="store_true", help="the others besides ours")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    cases = list(SUITES[given.suite](Path(os.environ["TTA_DATA"])))[: given.limit]
    engines = {"tta": ours(tokenizer())}
    if given.peers:
        engines |= peers.found(tokenizer())
        for name in peers.missing():
            print(f"{name} is not installed and left out")
    rows = []
    for name, engine in engines.items():
        found, details = measure(cases, Judge(engine), apart=name != "tta")
        print(json.dumps({"suite": given.suite, "engine": name, **found}), flush=True)
        rows.append({"suite": given.suite, "engine": name, **found, "details": details})
    if given.json:
        given.json.write_text(json.dumps({"rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
