"""The `tta` command: parses the command line and hands over to the function of the subcommand."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import tta


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="tta", description="A frozen model that learns at every step."
    )
    top.add_argument("--version", action="version", version=f"tta {tta.__version__}")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    parser().parse_args(argv)
    return 0
