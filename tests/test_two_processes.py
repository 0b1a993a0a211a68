"""Two processes on one memory: the journal is shared, the embedded index is not, and with a real
Chroma server all is."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from memories import assert_consistent
from postgres_server import free_port
from shared_child import EMBED, nearest, teach

import tta
from tta import errors
from tta.memory import Memory
from tta.memory.chroma import Chroma
from tta.memory.index import collection_name

_HERE = Path(__file__).parent


class Colleague:
    """Another process that has the memory open."""

    def __init__(self, where: str | Path, index: str = "", *, embeds: bool = True) -> None:
        root = str(Path(tta.__file__).parent.parent)
        path = os.pathsep.join([root, str(_HERE), os.environ.get("PYTHONPATH", "")])
        script, how = str(_HERE / "shared_child.py"), "embed" if embeds else "journal"
        self.process = subprocess.Popen(
            [sys.executable, script, str(where), index, how],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )
        self.greeting = self.hear()

    def hear(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def __call__(self, *command: str) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        return self.hear()

    def __enter__(self) -> "Colleague":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()


@contextmanager
def chroma_server(path: Path) -> Iterator[str]:
    with chroma_process(path) as (_, url):
        yield url


@contextmanager
def chroma_process(path: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    port = free_port()
    program = str(Path(sys.executable).parent / "chroma")
    command = [program, "run", "--host", "127.0.0.1", "--port", str(port), "--path", str(path)]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=path.parent
    ) as server:
        try:
            wait_for(port)
            yield server, f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


def wait_for(port: int) -> None:
    for _ in range(600):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError("the Chroma server did not start within a minute")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with chroma_server(tmp_path_factory.mktemp("chroma") / "data") as url:
        yield url


def test_the_embedded_index_of_another_process_is_refused_and_the_server_named(
    tmp_path: Path,
) -> None:
    with Memory.open(tmp_path / "m", embedder=EMBED) as memory:
        teach(memory, "r1", "is it red", "yes", "ada")
        with Colleague(tmp_path / "m") as colleague:
            name, message = colleague.greeting
    assert name == "IndexInUse"
    assert "chroma run" in message
    assert "--index" in message


def test_the_journal_works_for_both_processes(tmp_path: Path) -> None:
    with (
        Memory.open(tmp_path / "m", embedder=EMBED) as memory,
        Colleague(tmp_path / "m", embeds=False) as colleague,
    ):
        teach(memory, "r1", "is it red", "yes", "ada")
        assert colleague("teach", "r2", "is it blue", "no", "ada") == "c-r2"
        assert nearest(memory, "is it blue", "ada") == ["no"]
        assert colleague("forget", "ada")[0] == "IndexInUse"
        assert nearest(memory, "is it red", "ada") == ["yes"]
        assert_consistent(memory)


def test_the_index_is_free_again_when_its_process_was_killed(tmp_path: Path) -> None:
    with Colleague(tmp_path / "m") as colleague:
        colleague("teach", "r1", "is it red", "yes", "ada")
        with pytest.raises(errors.IndexInUse):
            Memory.open(tmp_path / "m", embedder=EMBED)
        colleague.process.kill()
    with Memory.open(tmp_path / "m", embedder=EMBED) as memory:
        assert nearest(memory, "is it red", "ada") == ["yes"]
        assert_consistent(memory)


@pytest.mark.parametrize("place", ["a folder", "a URL"])
def test_with_a_server_each_sees_the_others_corrections_at_its_next_step(
    tmp_path: Path, server: str, place: str
) -> None:
    where = str(tmp_path / "m") if place == "a folder" else f"sqlite:///{tmp_path / 'm.sqlite'}"
    with (
        Memory.open(where, embedder=EMBED, index=server) as memory,
        Colleague(where, server) as colleague,
    ):
        assert colleague.greeting == "open"
        teach(memory, "r1", "is it red", "yes", "ada")
        assert colleague("nearest", "is it red", "ada") == ["yes"]
        colleague("teach", "r2", "is it blue", "no", "ada")
        assert nearest(memory, "is it blue", "ada") == ["no"]
        colleague("teach", "r3", "is it red", "not any more", "ada")
        assert nearest(memory, "is it red", "ada") == ["not any more"]
        memory.undo("c-r3", user="ada")
        assert colleague("nearest", "is it red", "ada") == ["yes"]
        assert_consistent(memory)
    with Memory.open(where, embedder=EMBED, index=server) as memory:
        assert_consistent(memory)
        assert nearest(memory, "is it red", "ada") == ["yes"]


def test_with_a_server_forgetting_reaches_the_other_process(tmp_path: Path, server: str) -> None:
    where = tmp_path / "m"
    with (
        Memory.open(where, embedder=EMBED, index=server, flush_every=1) as memory,
        Colleague(where, server) as colleague,
    ):
        colleague("teach", "r1", "is it red", "yes", "ada")
        assert nearest(memory, "is it red", "ada") == ["yes"]
        assert colleague("forget", "ada") == 2
        assert nearest(memory, "is it red", "ada") == []
        # The collection that this process knew is gone; a new one takes its place.
        teach(memory, "r2", "is it blue", "no", "ada")
        assert colleague("nearest", "is it red", "ada") == ["no"]
        assert_consistent(memory)


def test_the_server_is_found_again_to_forget_without_being_named(
    tmp_path: Path, server: str
) -> None:
    with Memory.open(tmp_path / "m", embedder=EMBED, index=server, flush_every=1) as memory:
        teach(memory, "r1", "is it red", "yes", "ada")
        name = collection_name(memory._name(), "ada")
        memory._follower.needed().flush()
        chroma = memory._follower.index._client  # type: ignore[union-attr]
        assert name in chroma.collections("tta-")
        with Memory.open(tmp_path / "m", embedder=None) as other:
            other.forget("ada")
        assert name not in chroma.collections("tta-")


def test_nothing_of_a_user_is_written_after_another_process_has_forgotten_them(
    tmp_path: Path, server: str
) -> None:
    with Memory.open(tmp_path / "m", embedder=EMBED, index=server) as memory:
        teach(memory, "r1", "is it red", "yes", "ada")
        teach(memory, "r2", "is it blue", "no", "bob")
        ada, bob = (collection_name(memory._name(), user) for user in ("ada", "bob"))
        with Memory.open(tmp_path / "m", embedder=EMBED, index=server) as other:
            other.forget("ada")
            chroma = other._follower.index._client  # type: ignore[union-attr]
            # It has not heard of it, and writes what is pending.
            memory._follower.needed().flush()
            assert bob in chroma.collections("tta-")
            assert ada not in chroma.collections("tta-")


def test_learning_and_recall_do_not_wait_for_the_server(tmp_path: Path) -> None:
    done = threading.Event()
    with (
        chroma_process(tmp_path / "chroma") as (process, url),
        Memory.open(tmp_path / "m", embedder=EMBED, index=url, flush_every=1) as memory,
    ):

        def work() -> None:
            for number in range(5):
                teach(memory, f"r{number}", f"is it {number}", f"yes {number}", "ada")
                assert nearest(memory, f"is it {number}", "ada") == [f"yes {number}"]
            done.set()

        process.send_signal(signal.SIGSTOP)
        try:
            worker = threading.Thread(target=work)
            worker.start()
            assert done.wait(60)
        finally:
            process.send_signal(signal.SIGCONT)
            worker.join()
        assert_consistent(memory)
        name = collection_name(memory._name(), "ada")
        memory._follower.needed().flush()
        with closing(Chroma(url)) as chroma:
            assert chroma.count(name) == len(memory.records(user="ada"))


def test_two_memories_on_one_server_do_not_meet(tmp_path: Path, server: str) -> None:
    with (
        Memory.open(tmp_path / "one", embedder=EMBED, index=server) as one,
        Memory.open(tmp_path / "two", embedder=EMBED, index=server) as two,
    ):
        teach(one, "r1", "is it red", "one", "ada")
        teach(two, "r1", "is it red", "two", "ada")
        assert nearest(one, "is it red", "ada") == ["one"]
        assert nearest(two, "is it red", "ada") == ["two"]
        two.forget("ada")
        one.rebuild()
        assert nearest(one, "is it red", "ada") == ["one"]
        assert_consistent(one)


def test_a_server_that_went_away_is_named_and_nothing_is_lost(tmp_path: Path) -> None:
    with chroma_server(tmp_path / "chroma") as url:
        memory = Memory.open(tmp_path / "m", embedder=EMBED, index=url)
        teach(memory, "r1", "is it red", "yes", "ada")
    teach(memory, "r2", "is it blue", "no", "ada")
    assert nearest(memory, "is it blue", "ada") == ["no"]
    with pytest.raises(errors.StoreError, match="rebuild"):
        memory.close()
    with chroma_server(tmp_path / "other") as url:
        again = Memory.open(tmp_path / "m", embedder=EMBED, index=url)
        assert nearest(again, "is it blue", "ada") == ["no"]
        assert_consistent(again)
        again.close()
