"""The data view: where a memory is thick and thin, and the clean data set that it holds."""

import json
from collections.abc import Iterator

import pytest
from memories import answered, correction, note, preference, rule

from tta.memory import Memory
from tta.memory.export import export_events, import_events
from tta.memory.view import script
from tta.testing import HashEmbedder

EMBED = HashEmbedder()


@pytest.fixture
def memory() -> Iterator[Memory]:
    with Memory.open(None, embedder=EMBED) as memory:
        yield memory


def teach(
    memory: Memory, number: int, request: str, answer: str, *, said: str = "", task: str = "teams"
) -> None:
    about = answered(f"r{number}", task=task, request=request, answer=said)
    memory.record(about)
    memory.learn(correction(about, answer, f"c{number}"))


def fill(memory: Memory) -> None:
    for number in range(5):
        teach(memory, number, f"where is parcel {number}", "parcels", said="cards")
    teach(memory, 5, "моя карта", "cards")
    teach(memory, 6, "my <card>", "cards")
    teach(memory, 7, "My <card>!", "cards")
    teach(memory, 8, "How warm?", "20 C", task="weather")
    memory.learn(rule("Be brief."))
    memory.learn(note(answered("r0", task="teams", request="where is parcel 0"), "lost"))


def test_coverage_tells_where_a_memory_is_thin(memory: Memory) -> None:
    fill(memory)
    teams, weather = memory.coverage("ada").tasks
    assert (teams.task, teams.cases, dict(teams.answers)) == (
        "teams",
        7,
        {"parcels": 5, "cards": 2},
    )
    assert teams.thin == ("cards",)
    assert teams.tail == 0.5
    assert (teams.refused, teams.repeats, teams.past) == (5, 1, 0)
    assert dict(teams.scripts) == {"latin": 6, "cyrillic": 1}
    assert (weather.cases, weather.thin) == (1, ("20 C",))
    assert (memory.coverage("ada").rules, memory.coverage("ada").notes) == (1, 1)


def test_coverage_can_be_read(memory: Memory) -> None:
    fill(memory)
    assert repr(memory.coverage("ada")) == (
        "ada: 8 cases in 2 tasks, 1 rules, 1 notes\n"
        "  teams: 7 cases of 2 answers (latin, cyrillic), 5 refused, 1 repeated, thin: 'cards'\n"
        "  weather: 1 cases of 1 answers (latin), 0 refused, thin: '20 C'"
    )
    shown = memory.coverage("ada")._repr_html_()
    assert "<td>teams</td><td>7</td>" in shown
    assert repr(memory.coverage("nobody")) == "nobody: 0 cases in 0 tasks, 0 rules, 0 notes"


def test_what_is_shown_of_answers_is_escaped(memory: Memory) -> None:
    teach(memory, 1, "a", "<script>")
    assert "<script>" not in memory.coverage("ada")._repr_html_()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("hello", "latin"),
        ("где письмо", "cyrillic"),
        ("ab где письмо", "cyrillic"),
        ("שלום", "hebrew"),
        ("荷物は?", "cjk"),
        ("123 !", "none"),
        ("", "none"),
    ],
)
def test_scripts_are_told_apart(text: str, name: str) -> None:
    assert script(text) == name


def test_a_clean_data_set_has_each_request_once_and_says_where_it_is_from(memory: Memory) -> None:
    teach(memory, 1, "Which team?", "red", said="blue")
    teach(memory, 2, "which team", "green", said="red")
    about = answered("r3", task="teams", request="which team")
    memory.record(about)
    memory.learn(preference(about, "green", "pink", "p3"))
    teach(memory, 4, "Is it?", "yes", task="u")
    rows = memory.export("ada")
    assert [(r["task"], r["request"], r["answer"]) for r in rows] == [
        ("teams", "which team", "green"),
        ("u", "Is it?", "yes"),
    ]
    assert rows[0]["refused"] == ["blue", "red", "pink"]
    assert (rows[0]["feedback"], rows[0]["times"], rows[0]["user"]) == ("p3", 2, "ada")
    assert json.loads(json.dumps(list(rows))) == list(rows)
    assert memory.export("bob") == ()


def test_a_clean_data_set_holds_what_gave_way_to_the_cap() -> None:
    with Memory.open(None, embedder=EMBED, cap=2) as memory:
        for number in range(5):
            teach(memory, number, f"question {number}", "yes")
        assert len(memory.export("ada")) == 5
        assert memory.coverage("ada").tasks[0].past == 3


def test_the_mark_of_a_forgotten_user_survives_the_journey(memory: Memory) -> None:
    fill(memory)
    teach_bob = answered("b1", user="bob")
    memory.record(teach_bob)
    memory.forget("ada")
    lines = list(export_events(memory))
    with Memory.open(None, embedder=EMBED) as other:
        assert import_events(other, lines) == len(lines) == 2
        assert list(other.events()) == list(memory.events())
        assert other.state == memory.state
        assert import_events(other, lines) == 0


def test_the_mark_never_erases_what_is_there(memory: Memory) -> None:
    fill(memory)
    before = list(export_events(memory))
    memory.forget("ada")
    after = list(export_events(memory))
    with Memory.open(None, embedder=EMBED) as other:
        import_events(other, before)
        assert import_events(other, after) == 0
        assert other.users() == ("ada",)
    with Memory.open(None, embedder=EMBED) as other:
        import_events(other, after)
        import_events(other, before)
        assert other.users() == ("ada",)
        assert len(other.export("ada")) == 8
