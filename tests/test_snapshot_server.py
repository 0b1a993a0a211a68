"""A snapshot in the journal's database beside a Chroma server, which others write to as well."""

from collections.abc import Iterator
from contextlib import closing

import pytest
from memories import EMBED, assert_consistent, near, teach
from test_snapshot import Counting
from test_snapshot_table import fill, harmed, open_memory, written
from test_two_processes import chroma_server

from tta.memory.chroma import Chroma
from tta.memory.index import collection_name
from tta.memory.journal import Journal


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with chroma_server(tmp_path_factory.mktemp("chroma") / "data") as found:
        yield found


@pytest.mark.parametrize("lacking", ["server", "snapshot"])
def test_vectors_come_from_the_snapshot_and_from_the_server_where_it_lacks_a_user(
    url: str, server: str, lacking: str
) -> None:
    fill(url, index=server)
    with closing(Journal.open(url)) as journal:
        prefix = collection_name(journal.setting("memory") or "")
    with closing(Chroma(server)) as chroma:
        assert len(chroma.collections(prefix)) == 2
        if lacking == "server":
            chroma.wipe(prefix)
        else:
            harmed(url, "no user")
    embedder = Counting()
    with open_memory(url, embedder, index=server) as memory:
        assert written(memory)
        assert near(memory, "question number 7") == ["answer 7"]
        assert_consistent(memory)
    assert embedder.count == 0


def test_what_others_wrote_to_a_server_since_stays_there(url: str, server: str) -> None:
    fill(url, index=server)
    with closing(Chroma(server)) as chroma, open_memory(url, index=server) as memory:
        name = collection_name(memory._journal.setting("memory") or "", "ada")
        assert near(memory, "question number 7") == ["answer 7"]
        row = EMBED.embed(["of another process"])[0]
        chroma.write(name, {"embedder": EMBED.id, "dim": EMBED.dim}, {"theirs+": row})
        teach(memory, 50)
        assert memory._follower.index is not None
        memory._follower.index.flush()
        there = {one for ids, _ in chroma.read(name) for one in ids}
        assert {"theirs+", "c-ada50+", "c-ada7+"} <= there


def test_vectors_that_an_interrupted_forgetting_left_on_a_server_go_at_the_next_opening(
    url: str, server: str
) -> None:
    fill(url, index=server)
    with closing(Journal.open(url)) as journal, closing(Chroma(server)) as chroma:
        name = collection_name(journal.setting("memory") or "", "bob")
        with open_memory(url, index=server) as memory:
            journal.erase("bob")
            for number in range(30, 42):
                teach(memory, number)
        assert name in chroma.collections(name), "nobody has told the server"
        with open_memory(url, index=server) as memory:
            assert written(memory)
            assert chroma.collections(name) == {}
            assert_consistent(memory)
