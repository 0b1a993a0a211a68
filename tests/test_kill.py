"""Killed at any moment: everything acknowledged is there after reopening, nothing half-applied.

Each of the children that `kill_child.py` forks checks what its killed predecessor left behind, so
that every kill is followed by a reopening through `Memory` with the embedded Chroma index.
"""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kill_child import EMBED, check, read_log

import tta
from tta.memory import Memory

KILLS = 200
_HERE = Path(__file__).parent


class Victims:
    """Children by fork, so that starting one does not import everything again."""

    def __init__(self) -> None:
        root = str(Path(tta.__file__).parent.parent)
        path = os.pathsep.join([root, str(_HERE), os.environ.get("PYTHONPATH", "")])
        self.process = subprocess.Popen(
            [sys.executable, str(_HERE / "kill_child.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        )
        assert self.line() == "ready"

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def start(self, folder: Path, seed: int) -> int:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{folder} {seed}\n")
        self.process.stdin.flush()
        return int(self.line())

    def kill(self, pid: int) -> str:
        """Kill it; what it ended by."""
        # One that ended by itself has said why in the log.
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        return self.line()

    def close(self) -> None:
        self.process.communicate()


@pytest.fixture
def victims() -> Iterator[Victims]:
    victims = Victims()
    yield victims
    victims.close()


def wait_for_opening(log: Path, openings: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        text = log.read_text() if log.exists() else ""
        if "FAIL" in text or text.count("open\n") > openings:
            return
        time.sleep(0.001)
    raise AssertionError("the child did not open the memory within a minute")


def test_nothing_acknowledged_is_lost_however_often_the_process_is_killed(
    victims: Victims, tmp_path: Path
) -> None:
    draw = random.Random(7)
    log = tmp_path / "log"
    for number in range(KILLS):
        openings = log.read_text().count("open\n") if log.exists() else 0
        pid = victims.start(tmp_path, number)
        if draw.random() < 0.85:
            wait_for_opening(log, openings)
            time.sleep(draw.uniform(0, 0.1))
        else:
            time.sleep(draw.uniform(0, 0.2))  # while it opens
        ended = victims.kill(pid)
        said = log.read_text() if log.exists() else ""
        assert "FAIL" not in said, said[-3000:]
        assert ended == "SIGKILL", f"a child ended by itself ({ended}): {said[-3000:]}"
    text = log.read_text()
    cut_off = text.count("found ") + text.count("lost ")
    assert text.count("ack ") > KILLS / 2, "the children hardly ran: the test has shown nothing"
    assert cut_off > KILLS / 10, "hardly any kill landed inside an operation"
    with Memory.open(tmp_path / "memory", embedder=EMBED, create=False) as memory:
        check(memory, read_log(log))
