"""Any sequence of steps, feedback, undo, forgetting and reopening keeps state, journal and index
the same memory: a hypothesis state machine over real SQLite and real Chroma."""

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)
from memories import (
    WEIGHER,
    answered,
    assert_consistent,
    correction,
    edit,
    merged,
    note,
    preference,
    rating,
    reading,
    split,
)
from memories import rule as standing_rule

from tta.memory import Memory
from tta.memory.export import export_lines, import_events
from tta.memory.fold import fold
from tta.testing import HashEmbedder
from tta.types import Event, RecordKind

EMBED = HashEmbedder(16)
USERS = st.sampled_from(["ada", "bob", "eve"])
TEXTS = st.sampled_from(["yes", "no", "maybe", "ja"])
REQUESTS = st.sampled_from(["is it red", "Is it red?", "is it blue", "where is it", "who is it"])
TASKS = st.sampled_from(["t", "u"])
VOTING = (RecordKind.CASE, RecordKind.REJECTED)
PATTERNS = st.sampled_from(["is it ...", "where ..."])


class MemoryMachine(RuleBasedStateMachine):
    """Small alphabets, so that answers, requests and patterns collide all the time."""

    answers = Bundle("answers")
    given = Bundle("given")

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.folder = Path(tempfile.mkdtemp())

    @initialize(cap=st.sampled_from([2, 1000]))
    def begin(self, cap: int) -> None:
        self.cap = cap
        self.open()

    def open(self) -> None:
        # Flushes of three: writes to Chroma happen between all other things. A snapshot every five
        # events: some openings begin with one, and some of them have more to fold.
        self.memory = Memory.open(
            self.folder / "m",
            embedder=EMBED,
            weigher=WEIGHER,
            cap=self.cap,
            flush_every=3,
            snapshot_every=5,
        )

    def fresh(self, letter: str) -> str:
        self.count += 1
        return f"{letter}{self.count}"

    def learn(self, event: Event) -> Event:
        learned = self.memory.learn(event)
        assert learned.reason
        assert all(record.source == event.id for record in learned.added)
        return event

    @rule(
        target=answers,
        user=USERS,
        task=TASKS,
        request=REQUESTS,
        answer=st.sampled_from(["", "yes", "no"]),
        pattern=PATTERNS,
        experts=st.sampled_from([(), ("frozen", "kernel"), ("frozen", "kernel", "ridge")]),
        margin=st.sampled_from([0.0, 0.1, 0.9]),
        named=st.booleans(),
    )
    def step(
        self,
        user: str,
        task: str,
        request: str,
        answer: str,
        pattern: str,
        experts: tuple[str, ...],
        margin: float,
        named: bool,
    ) -> Event:
        event = answered(
            self.fresh("r"),
            user=user,
            task=task,
            request=request,
            answer=answer,
            pattern=pattern,
            experts=experts,
            margin=margin,
        )
        self.memory.record(replace(event, body={**event.body, "named": named}))
        kept = self.memory.event(event.id)
        assert kept is not None
        assert self.memory.home(kept) == self.memory.home(event)
        return kept

    def known(self, about: Event) -> bool:
        return self.memory.event(about.id) is not None

    @rule(target=given, about=answers, text=TEXTS, how=st.sampled_from(["correct", "edit"]))
    def correct(self, about: Event, text: str, how: str) -> Any:
        make = correction if how == "correct" else edit
        return self.learn(make(about, text, self.fresh("c"))) if self.known(about) else multiple()

    @rule(target=given, about=answers, value=st.sampled_from([-1.0, -0.5, 0.0, 0.5, 1.0]))
    def rate(self, about: Event, value: float) -> Any:
        return (
            self.learn(rating(about, value, self.fresh("g"))) if self.known(about) else multiple()
        )

    @rule(target=given, about=answers, chosen=TEXTS, rejected=TEXTS)
    def prefer(self, about: Event, chosen: str, rejected: str) -> Any:
        if not self.known(about):
            return multiple()
        return self.learn(preference(about, chosen, rejected, self.fresh("p")))

    @rule(target=given, about=answers, text=TEXTS)
    def annotate(self, about: Event, text: str) -> Any:
        return self.learn(note(about, text, self.fresh("n"))) if self.known(about) else multiple()

    @rule(target=given, user=USERS, text=TEXTS, task=st.sampled_from(["", "t"]))
    def instruct(self, user: str, text: str, task: str) -> Event:
        return self.learn(standing_rule(text, user=user, task=task, id=self.fresh("s")))

    @rule(user=USERS, document=TASKS, texts=st.lists(REQUESTS, max_size=3))
    def read(self, user: str, document: str, texts: list[str]) -> None:
        self.learn(reading(document, *texts, user=user, id=self.fresh("d")))
        live = [r for r in self.memory.records(user=user) if r.kind is RecordKind.PASSAGE]
        assert [r.request for r in live if r.answer == document] == list(dict.fromkeys(texts))

    @rule(target=given, about=answers, passage=TEXTS, right=st.sampled_from([-1.0, 0.5, 1.0]))
    def cite(self, about: Event, passage: str, right: float) -> Any:
        if not self.known(about):
            return multiple()
        event = rating(about, right, self.fresh("q"))
        return self.learn(replace(event, body={**event.body, "cited": {passage: right}}))

    @rule(target=given, user=USERS, task=TASKS, into=TASKS, why=st.none() | given)
    def merge(self, user: str, task: str, into: str, why: Event | None) -> Any:
        if task == into:
            return multiple()
        because = why.id if why is not None and why.user == user else ""
        event = merged(task, into, user=user, id=self.fresh("m"), because=because)
        self.memory.learn(event)
        assert not [r for r in self.memory.records(user=user) if r.task == task]
        return event

    @rule(target=given, user=USERS, task=TASKS, pattern=PATTERNS)
    def split_off(self, user: str, task: str, pattern: str) -> Event:
        told = self.memory.taught(user=user, task=task)
        taught = [name for name, of in told.items() if of == pattern]
        into = self.fresh("part")
        before = [r for r in self.memory.records(user=user) if r.source in taught]
        event = split(task, into, pattern, taught=taught, user=user, id=self.fresh("s"))
        self.memory.learn(event)
        live = {r.id: r.task for r in self.memory.records(user=user)}
        assert {live[r.id] for r in before if r.id in live} <= {into}
        return event

    @rule(event=given)
    def repeat(self, event: Event) -> None:
        if self.known(event):
            learned = self.memory.learn(event)
            assert (learned.added, learned.removed) == ((), ())

    @rule(event=given)
    def undo(self, event: Event) -> None:
        if self.known(event):
            before = set(self.memory.state.users[event.user].records)
            undone = self.memory.undo(event.id, user=event.user)
            after = set(self.memory.state.users[event.user].records)
            past = self.memory.state.users[event.user].past.keys()
            assert {r.id for r in undone.added} == after - before
            assert {r.id for r in undone.removed} >= before - after - past
            assert not any(r.source == event.id for r in self.memory.records(user=event.user))

    @rule(at_least=st.integers(1, 3))
    def promote(self, at_least: int) -> None:
        among = ["ada", "bob", "eve"]
        for learned in self.memory.promote(to="team", among=among, at_least=at_least):
            (case,) = learned.added
            agree = [
                user
                for user in among
                for record in self.memory.records(user=user, task=case.task, kind=RecordKind.CASE)
                if record.task == case.task and record.answer == case.answer
            ]
            assert len(set(agree)) >= at_least
        assert self.memory.promote(to="team", among=among, at_least=at_least) == ()

    @rule(data=st.data())
    def undo_a_promotion(self, data: st.DataObject) -> None:
        team = self.memory.records(user="team")
        if team:
            record = data.draw(st.sampled_from(sorted(team, key=lambda r: r.id)))
            self.memory.undo(record.source, user="team")
            assert record.id not in {r.id for r in self.memory.records(user="team")}

    @rule(user=USERS)
    def forget(self, user: str) -> None:
        events = len(list(self.memory.events(user)))
        assert self.memory.forget(user) == events
        assert user not in self.memory.users()
        team = self.memory.state.users.get("team")
        assert team is None or not any(user in users for users in team.promoted.values())

    @rule()
    def reopen(self) -> None:
        before = self.memory.state
        self.memory.close()
        self.open()
        assert self.memory.state == before

    @rule()
    def lose_the_index(self) -> None:
        self.memory.close()
        shutil.rmtree(self.folder / "m" / "index", ignore_errors=True)  # not opened since
        self.open()

    @rule()
    def move_house(self) -> None:
        with Memory.open(None, embedder=EMBED, weigher=WEIGHER, cap=self.cap) as other:
            import_events(other, export_lines(self.memory))
            assert other.state == self.memory.state

    @precondition(lambda self: hasattr(self, "memory"))
    @invariant()
    def all_views_agree(self) -> None:
        assert_consistent(self.memory)

    @precondition(lambda self: hasattr(self, "memory"))
    @invariant()
    def undone_feedback_has_moved_nothing(self) -> None:
        """The weights are those of a journal in which what was undone never was."""
        for user in self.memory.users():
            trust = self.memory.trust(user)
            live = self.memory.state.users[user]
            said = [e for e in self.memory.events(user) if e.id not in live.undone]
            never = fold(said, WEIGHER, cap=self.cap).users[user]
            assert trust == never.trust
            assert list(trust.heard) == list(never.trust.heard)
            assert live.ledger == never.ledger
            assert live.sightings == never.sightings
            assert [*live.records] == [*never.records]
            assert (live.past, live.repeated) == (never.past, never.repeated)
            assert all(len(held) <= self.cap for (_, k), held in live.by.items() if k in VOTING)
            for weights in trust.weights.values():
                sums = [sum(cells) for cells in weights.cells.values()]
                assert abs(sum(sums) + weights.mute - 1) < 1e-9

    @precondition(lambda self: hasattr(self, "memory"))
    @invariant()
    def everyone_finds_their_own_and_nothing_else(self) -> None:
        vector = EMBED.embed(["is it red"])[0]
        for user in ("ada", "bob", "eve"):
            for task in ("t", "u"):
                known = self.memory.state.users.get(user)
                home = known.moves.home(task) if known is not None else task
                mine = [
                    r
                    for r in self.memory.records(user=user, kind=RecordKind.CASE)
                    if r.task == home
                ]
                found = self.memory.nearest(vector, 100, user=user, task=task, kind=RecordKind.CASE)
                scores = {r.id: score for r, score in found}
                assert scores.keys() == {r.id for r in mine}
                assert all(r.user == user for r, _ in found)
                # Of equals the older first; `sorted` keeps the order of `mine`, oldest first.
                best = sorted(mine, key=lambda r: -scores[r.id])
                assert [r for r, _ in found] == best
                requests = EMBED.embed([r.request for r in mine])
                assert np.array_equal(self.memory.vectors(mine), requests)

    def teardown(self) -> None:
        if hasattr(self, "memory"):
            self.memory.close()
        shutil.rmtree(self.folder)


TestMemoryMachine = MemoryMachine.TestCase
TestMemoryMachine.settings = settings(
    max_examples=25,
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
