"""Everything the README shows is run, in the order it stands there, in one empty folder.

How a block is run follows from how it is marked; CONTRIBUTING.md teaches the convention:

```python            executed, in one namespace for the whole file
```pycon             a doctest in that namespace; `...` stands for what varies
```console           each `$` line is run and what it prints compared; `...` stands for what varies
```console short     as above, with `--steps 20` added, and only the exit status checked
```text              not code
```

`$ make NAME` is checked to be a target (running it would run these tests); other commands than
`tta` and `make` are refused, so that nothing in the README goes unchecked.
"""

import doctest
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LOOSE = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
FENCE = re.compile(r"^```([^\n`]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced block: what stands after the fence, the text, and the line it begins at."""

    mark: str
    text: str
    line: int


def blocks(markdown: str) -> Iterator[Block]:
    for match in FENCE.finditer(markdown):
        line = markdown.count("\n", 0, match.start()) + 2
        yield Block(mark=match[1].strip(), text=match[2], line=line)


def run_python(block: Block, names: dict[str, object]) -> None:
    # The blank lines make tracebacks name the README's own line.
    exec(compile("\n" * (block.line - 1) + block.text, "README.md", "exec"), names)


def run_doctest(block: Block, names: dict[str, object]) -> None:
    parsed = doctest.DocTestParser().get_doctest(
        block.text, names, "README.md", "README.md", block.line - 1
    )
    assert parsed.examples, f"README.md:{block.line}: a pycon block without >>>"
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=LOOSE, verbose=False)
    # clear_globs=False: the next block goes on in the same namespace, which a DocTest copies.
    runner.run(parsed, out=report.append, clear_globs=False)
    names.update(parsed.globs)
    assert runner.failures == 0, "".join(report)


def commands(block: Block) -> Iterator[tuple[str, str]]:
    """(command, what is shown below it); a line that ends in a backslash goes on in the next."""
    joined = block.text.replace("\\\n", " ")
    assert joined.startswith("$ "), f"README.md:{block.line}: a console block without $"
    for part in re.split(r"^\$ ", joined, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        yield command.strip(), output


def run_command(command: str, output: str, *, short: bool, cwd: Path) -> None:
    words = [os.path.expandvars(word) for word in shlex.split(command, comments=True)]
    if words[0] == "make":
        done = subprocess.run(["make", "-n", *words[1:]], capture_output=True, cwd=ROOT, text=True)
        assert done.returncode == 0, done.stderr
        return
    assert words[0] == "tta", f"README shows {command!r}, which this test cannot run"
    words = [sys.executable, "-m", *words, *(["--steps", "20"] if short else [])]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, capture_output=True, cwd=cwd, text=True, env=env)
    assert done.returncode == 0, f"{command}\n{done.stderr}"
    if not short:
        checker = doctest.OutputChecker()
        assert checker.check_output(output, done.stdout, LOOSE), f"{command}\n{done.stdout}"


def run(markdown: str, cwd: Path, *, data: bool = False) -> None:
    """Run the blocks that need TTA_DATA, or all the others."""
    names: dict[str, object] = {"__name__": "__main__"}
    for block in blocks(markdown):
        if ("$TTA_DATA" in block.text) == data:
            run_block(block, names, cwd)


def run_block(block: Block, names: dict[str, object], cwd: Path) -> None:
    if block.mark == "python":
        run_python(block, names)
    elif block.mark == "pycon":
        run_doctest(block, names)
    elif block.mark in ("console", "console short"):
        for command, output in commands(block):
            run_command(command, output, short=block.mark.endswith("short"), cwd=cwd)
    else:
        assert block.mark == "text", f"README.md:{block.line}: how is {block.mark!r} run?"


def test_all_code_of_the_readme_runs_and_prints_what_it_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run((ROOT / "README.md").read_text(encoding="utf-8"), tmp_path)


@pytest.mark.skipif("TTA_DATA" not in os.environ, reason="TTA_DATA names no folder of data")
def test_the_readme_commands_on_real_data_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run((ROOT / "README.md").read_text(encoding="utf-8"), tmp_path, data=True)


def test_the_readme_shows_a_session_and_the_two_commands() -> None:
    marks = [block.mark for block in blocks((ROOT / "README.md").read_text(encoding="utf-8"))]
    assert "pycon" in marks
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "make demo" in text and "make test" in text


# ---------------------------------------------------------------- the harness itself can fail

GOOD = """
```python
import tta
total = 2
```
```pycon
>>> total + 1
3
>>> tta.__version__
'0...'
>>> more = total
```
```pycon
>>> more
2
```
```console
$ tta --version
tta ...
$ make test
```
"""


def test_a_right_readme_passes(tmp_path: Path) -> None:
    run(GOOD, tmp_path)


@pytest.mark.parametrize(
    "wrong",
    [
        "```python\nraise AssertionError\n```\n",
        "```pycon\n>>> 1 + 1\n3\n```\n",
        "```pycon\n1 + 1\n```\n",
        "```pycon\n>>> undefined\n1\n```\n",
        "```console\n$ tta --version\nsomething else\n```\n",
        "```console\n$ tta nonsense\n```\n",
        "```console\n$ rm -rf /\n```\n",
        "```console\n$ make nonsense\n```\n",
        "```console\ntta --version\n```\n",
        "```bash\ntta --version\n```\n",
        "```\ntta --version\n```\n",
    ],
)
def test_a_wrong_readme_fails(wrong: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        run(wrong, tmp_path)
