"""The `tta` command: parses the command line and calls the function of the subcommand.

Text goes to standard output, everything about the run to standard error. Exit status: 0, 1 for an
error of tta, 2 for a command line that makes no sense, 130 after Ctrl-C. What a subcommand needs
is imported when it is run, so that `tta --help` takes no time.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path

import tta
from tta.errors import TTAError
from tta.types import DEFAULT_USER

Subparsers = argparse._SubParsersAction
"""What `add_subparsers` returns; argparse has no public name for it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `tta` with these arguments (by default the process's own); gives the exit status."""
    args = parser().parse_args(argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a terminal that cannot show a letter is no error
            stream.reconfigure(errors="backslashreplace")
    module, _, function = args.run.partition(":")
    try:
        return int(getattr(import_module(module), function)(args) or 0)
    except TTAError as error:
        print(f"tta: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ntta: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, `head` perhaps, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog="tta", description="A frozen language model that learns from you at every step."
    )
    top.add_argument("--version", action="version", version=f"tta {tta.__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _demo(commands)
    _chat(commands)
    _evaluate(commands)
    _memory(commands)
    _doctor(commands)
    return top


def _demo(commands: Subparsers[argparse.ArgumentParser]) -> None:
    demo = commands.add_parser(
        "demo",
        help="watch a frozen model learn: corrections, a rule, a preference, an undo, a curve",
        parents=[_scope(), _json(), _model()],
    )
    demo.add_argument("--steps", type=_count, default=150, help="of the curve (%(default)s)")
    demo.set_defaults(run="tta.cli_demo:demo")


def _chat(commands: Subparsers[argparse.ArgumentParser]) -> None:
    chat = commands.add_parser(
        "chat",
        help="talk to a model and correct it",
        parents=[_scope(), _json(), _model()],
        epilog="Lines that begin with a slash are feedback; /help lists them.",
    )
    chat.add_argument("--task", help="the kind of work all requests are (inferred without)")
    chat.add_argument("--choices", metavar="A,B,...", help="the only possible answers")
    chat.add_argument("--max-new-tokens", type=_count, metavar="N")
    chat.set_defaults(run="tta.cli_chat:chat")


def _evaluate(commands: Subparsers[argparse.ArgumentParser]) -> None:
    run = commands.add_parser(
        "evaluate",
        help="stream a labelled file: answer, be told, go on; adapted against frozen",
        parents=[_scope(), _model()],
    )
    add = run.add_argument
    add("file", metavar="FILE", type=Path, help=".csv, .tsv, .jsonl or .ndjson")
    add("--input", metavar="COL", required=True, help="the column to answer")
    add("--target", metavar="COL", required=True, help="the column with the right answer")
    add("--labels", metavar="FILE.json", type=Path, help="the answers: a list, or name: meaning")
    add("--feedback", choices=("correct", "bit"), default="correct",
        help="tell the right answer, or only right or wrong (%(default)s)")  # fmt: skip
    add("--steps", type=_count, metavar="N", help="stop after N examples")
    add("--seed", type=_whole, default=0, metavar="S", help="of the order (%(default)s)")
    add("--flip", type=_share, default=0.0, metavar="P", help="share of wrong feedback")
    add("--task", help="what the answers are remembered under (the target column's name)")
    add("--json", metavar="OUT", dest="json_out", help="write the figures there; - for stdout")
    add("--plot", metavar="OUT.png", type=Path, help="draw the learning curve")
    run.set_defaults(run="tta.cli_evaluate:run")


def _memory(commands: Subparsers[argparse.ArgumentParser]) -> None:
    memory = commands.add_parser("memory", help="look into a memory and change it")
    actions = memory.add_subparsers(title="actions", metavar="ACTION", required=True)

    def action(name: str, help: str, whose: str = DEFAULT_USER) -> argparse.ArgumentParser:
        parents = [_scope(memory=True, whose=whose), _json()]
        made = actions.add_parser(name, help=help, parents=parents)
        made.set_defaults(run=f"tta.cli_memory:{name}_")
        return made

    listed = action("list", "what is remembered of a user")
    listed.add_argument("--task", help="only of this task")
    listed.add_argument("--kind", choices=("case", "rejected", "note", "rule"))
    action("show", "one answer with its feedback, one feedback, or one record").add_argument("id")
    action("forget", "erase all of a user: texts and vectors", whose="")
    action("undo", "as if that feedback had never been given").add_argument("id")
    exported = action("export", "print a user's events, one JSON object a line")
    forms = ("events", "clean", "ratings", "preferences")
    exported.add_argument("--format", choices=forms, default="events",
                          help="or cases: clean, or rows for TRL (%(default)s)")  # fmt: skip
    imported = action(
        "import", "add exported events (all, or of --user); known ones stay", whose="*"
    )
    imported.add_argument("file", metavar="FILE", help="- for standard input")
    action("rebuild", "make every view and vector anew from the journal")


def _doctor(commands: Subparsers[argparse.ArgumentParser]) -> None:
    doctor = commands.add_parser(
        "doctor",
        help="versions, device, chat template, embedder, store",
        parents=[_scope(), _json(), _model()],
    )
    doctor.set_defaults(run="tta.cli_doctor:doctor")


# ------------------------------------------------------------------------------ options


def _scope(*, memory: bool = False, whose: str = DEFAULT_USER) -> argparse.ArgumentParser:
    """`memory`: one must be named. `whose`: the user when none is named, "" if one must be."""
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--memory", metavar="DIR_OR_URL", required=memory,
                         help="a folder or a SQLAlchemy URL")  # fmt: skip
    options.add_argument("--index", metavar="URL", help="of a Chroma server, http://host:port")
    options.add_argument("--user", metavar="NAME", default=whose, required=not whose,
                         help=f"whose memory{f' ({whose})' if whose else ''}")  # fmt: skip
    options.add_argument("--embedder", metavar="ID_OR_PATH", help="a sentence-transformers model")
    return options


def _json() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--json", action="store_true", help="print JSON")
    return options


def _model() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--model", metavar="bundled|none|ID_OR_PATH", default="bundled",
                         help="the frozen model (%(default)s)")  # fmt: skip
    return options


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, was {value}")
    return value


def _whole(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must not be negative, was {value}")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be from 0 to 1, was {value}")
    return value
