"""The `tta` command: what it prints where, its exit status, and that a memory survives it.

Run in this process where that will do; as a process of its own for signals and streams.
"""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tta.cli import main, parser
from tta.cli_common import one_line, table

ROOT = Path(__file__).parent.parent
TEAMS = "amber,coral,indigo"

Tta = Callable[..., tuple[int, str, str]]


@pytest.fixture
def tta(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Tta:
    """Run the command: (exit status, standard output, standard error)."""

    def run(*args: object, typed: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        try:
            status = main([str(arg) for arg in args])
        except SystemExit as stop:
            status = int(stop.code or 0)
        return (status, *capsys.readouterr())

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "memory"


def table_file(folder: Path, rows: int = 12) -> Path:
    things = (("parcel", "amber"), ("password", "coral"), ("train ticket", "indigo"))
    lines = [f"My {things[i % 3][0]} number {i},{things[i % 3][1]}" for i in range(rows)]
    path = folder / "requests.csv"
    path.write_text("\n".join(["text,team", *lines]), encoding="utf-8")
    return path


def taught(tta: Tta, folder: Path, user: str = "ada") -> tuple[str, str]:
    """One request, corrected to "coral"; gives the ids of response and feedback."""
    typed = "My parcel is late\n/correct coral\n"
    status, out, err = tta(*chatting(folder, user), "--json", typed=typed)
    assert status == 0, err
    feedback = err.split("(feedback ")[1].split(")")[0]
    return json.loads(out.splitlines()[0])["id"], feedback


def chatting(folder: Path, user: str = "ada") -> list[object]:
    options = ["--memory", folder, "--user", user, "--choices", TEAMS, "--task", "team"]
    return ["chat", "--model", "none", *options]


def listed(tta: Tta, folder: Path, user: str = "ada") -> list[dict[str, Any]]:
    status, out, err = tta("memory", "list", "--memory", folder, "--user", user, "--json")
    assert status == 0, err
    found: list[dict[str, Any]] = json.loads(out)
    return found


# -------------------------------------------------------------------------------- usage


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["nonsense"],
        ["memory"],
        ["memory", "list"],
        ["memory", "forget", "--memory", "x"],
        ["memory", "undo", "--memory", "x"],
        ["memory", "list", "--memory", "x", "--kind", "nonsense"],
        ["evaluate"],
        ["evaluate", "x.csv", "--input", "a"],
        ["evaluate", "x.csv", "--input", "a", "--target", "b", "--steps", "0"],
        ["evaluate", "x.csv", "--input", "a", "--target", "b", "--steps", "many"],
        ["evaluate", "x.csv", "--input", "a", "--target", "b", "--seed", "-1"],
        ["evaluate", "x.csv", "--input", "a", "--target", "b", "--flip", "1.1"],
        ["evaluate", "x.csv", "--input", "a", "--target", "b", "--feedback", "shrug"],
    ],
)
def test_a_command_line_that_makes_no_sense_exits_with_2_and_shows_the_usage(
    tta: Tta, args: Sequence[str]
) -> None:
    status, out, err = tta(*args)
    assert (status, out) == (2, "")
    assert err.startswith("usage: tta")


def test_every_command_has_help_and_a_function_that_exists(tta: Tta) -> None:
    from importlib import import_module

    for words in (
        "demo", "chat", "doctor", "evaluate f --input a --target b", "memory list --memory m",
        "memory show --memory m i", "memory forget --memory m --user u", "memory undo --memory m i",
        "memory export --memory m", "memory import --memory m f", "memory rebuild --memory m",
    ):  # fmt: skip
        module, _, function = parser().parse_args(words.split()).run.partition(":")
        assert callable(getattr(import_module(module), function))
        status, out, _ = tta(*words.split()[:1], "--help")
        assert status == 0 and out.startswith("usage: tta")


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from tta.cli import parser; parser().format_help();"
        "print([m for m in ('torch', 'transformers', 'chromadb', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["memory", "list", "--memory", "no/such"], "no/such"),
        (["evaluate", "gone.csv", "--input", "a", "--target", "b", "--model", "none"], "gone.csv"),
        (["chat", "--model", "no/such/model"], "no/such/model"),
        (["chat", "--model", "none", "--index", "nonsense"], "Chroma server"),
        (["chat", "--model", "none", "--user", " "], "user"),
    ],
)
def test_an_error_of_tta_exits_with_1_and_one_line_without_a_traceback(
    tta: Tta, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: Sequence[str], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = tta(*args)
    assert (status, out) == (1, "")
    assert err.startswith("tta: ") and says in err and "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


# --------------------------------------------------------------------------------- chat


def test_what_was_corrected_is_known_to_the_next_run(tta: Tta, folder: Path) -> None:
    taught(tta, folder)
    _, out, _ = tta(*chatting(folder), typed="My parcel is late\n")
    assert out == "coral\n"


def test_one_users_correction_is_unknown_to_another(tta: Tta, folder: Path) -> None:
    _, before, _ = tta(*chatting(folder, "bob"), typed="My parcel is late\n")
    taught(tta, folder, "ada")
    _, after, _ = tta(*chatting(folder, "bob"), typed="My parcel is late\n")
    assert before == after
    assert listed(tta, folder, "bob") == []


def test_every_kind_of_feedback_can_be_typed_and_taken_back(tta: Tta, folder: Path) -> None:
    said = "/good nice\n/bad\n/correct coral\n/prefer indigo\n/note colours\n/rule Be brief\n"
    status, out, err = tta(*chatting(folder), typed=f"My parcel is late\n{said}")
    given = re.findall(r"\(feedback (\w+)\)", err)
    assert status == 0 and len(out.splitlines()) == 1
    assert len(given) == 6
    assert {r["kind"] for r in listed(tta, folder)} == {"case", "rejected", "note", "rule"}
    for feedback in given:
        assert tta("memory", "undo", "--memory", folder, "--user", "ada", feedback)[0] == 0
    assert listed(tta, folder) == []


def test_undo_in_a_chat_takes_back_the_last_feedback_then_the_one_before(
    tta: Tta, folder: Path
) -> None:
    typed = "My parcel is late\n/rule One\n/rule Two\n/undo\n"
    tta(*chatting(folder), typed=typed)
    assert [r["answer"] for r in listed(tta, folder)] == ["One"]
    _, _, err = tta(*chatting(folder), typed="/undo\n")
    assert "no feedback was given yet" in err


def test_a_line_that_is_wrong_is_explained_and_the_chat_goes_on(tta: Tta, folder: Path) -> None:
    typed = "/good\n/nonsense\nMy parcel is late\n/correct\n/undo nonsense\n\nMy parcel\n/quit\nx\n"
    status, out, err = tta(*chatting(folder), typed=typed)
    assert status == 0 and len(out.splitlines()) == 2
    problems = [line for line in err.splitlines() if line.startswith("tta: ")]
    assert len(problems) == 4 and "Traceback" not in err


def test_why_names_the_task_and_the_memories_that_spoke(tta: Tta, folder: Path) -> None:
    taught(tta, folder)
    _, _, err = tta(*chatting(folder), typed="My parcel is late\n/why\n")
    assert "task 'team'" in err and "for, 1.00: My parcel is late" in err


# ------------------------------------------------------------------------------- memory


def test_export_prints_one_json_event_a_line_with_the_response_ids(tta: Tta, folder: Path) -> None:
    response, feedback = taught(tta, folder)
    status, out, err = tta("memory", "export", "--memory", folder, "--user", "ada")
    events = [json.loads(line) for line in out.splitlines()]
    assert (status, err) == (0, "")
    assert [(e["kind"], e["response"]) for e in events] == [
        ("answered", response),
        ("correction", response),
    ]
    assert events[1]["id"] == feedback and {e["user"] for e in events} == {"ada"}


def test_an_export_is_imported_elsewhere_once(tta: Tta, folder: Path, tmp_path: Path) -> None:
    taught(tta, folder)
    taught(tta, folder, "bob")
    exported = "".join(
        tta("memory", "export", "--memory", folder, "--user", user)[1] for user in ("ada", "bob")
    )
    file, other = tmp_path / "events.jsonl", tmp_path / "other"
    file.write_text(exported, encoding="utf-8")
    assert tta("memory", "import", "--memory", other, file)[1] == "4 new of 4 events\n"
    assert tta("memory", "import", "--memory", other, file)[1] == "0 new of 4 events\n"
    assert listed(tta, other) == listed(tta, folder)
    only = tmp_path / "only"
    imported = tta("memory", "import", "--memory", only, "--user", "bob", "-", typed=exported)
    assert imported[1] == "2 new of 2 events\n"
    assert listed(tta, only, "ada") == []
    assert tta(*chatting(other), typed="My parcel is late\n")[1] == "coral\n"


def test_a_bad_line_imports_nothing(tta: Tta, folder: Path) -> None:
    taught(tta, folder)
    _, good, _ = tta("memory", "export", "--memory", folder, "--user", "ada")
    for bad in ("{", "[]", '{"kind": "answered"}'):
        other = folder.parent / "other"
        status, _, err = tta("memory", "import", "--memory", other, "-", typed=f"{good}{bad}\n")
        assert status == 1 and "Traceback" not in err
        assert listed(tta, other) == []


def test_what_was_learned_is_exported_as_rows_to_train_on(tta: Tta, folder: Path) -> None:
    taught(tta, folder)
    _, out, _ = tta("memory", "export", "--memory", folder, "--user", "ada", "--format", "ratings")
    assert {"prompt": "My parcel is late", "completion": "coral", "label": True} in [
        json.loads(line) for line in out.splitlines()
    ]


def test_show_finds_answers_feedback_and_records_of_that_user_only(tta: Tta, folder: Path) -> None:
    response, feedback = taught(tta, folder)
    record = listed(tta, folder)[0]["id"]
    for id_ in (response, feedback, record):
        status, out, _ = tta("memory", "show", "--memory", folder, "--user", "ada", id_)
        assert status == 0 and "coral" in out
        assert tta("memory", "show", "--memory", folder, "--user", "bob", id_)[0] == 1
    shown = tta("memory", "show", "--memory", folder, "--user", "ada", "--json", response)[1]
    assert [event["kind"] for event in json.loads(shown)] == ["answered", "correction"]


def test_undo_is_refused_for_another_users_feedback(tta: Tta, folder: Path) -> None:
    _, feedback = taught(tta, folder)
    status, _, err = tta("memory", "undo", "--memory", folder, "--user", "bob", feedback)
    assert status == 1 and "another user" in err
    assert listed(tta, folder) != []


def test_forget_leaves_nothing_of_one_user_and_all_of_another(tta: Tta, folder: Path) -> None:
    taught(tta, folder, "ada")
    taught(tta, folder, "bob")
    out = tta("memory", "forget", "--memory", folder, "--user", "ada", "--json")[1]
    assert json.loads(out) == {"user": "ada", "erased": 2}
    assert listed(tta, folder, "ada") == [] and listed(tta, folder, "bob") != []


def test_rebuild_makes_the_vectors_anew(tta: Tta, folder: Path) -> None:
    taught(tta, folder)
    status, out, err = tta("memory", "rebuild", "--memory", folder, "--json")
    assert status == 0, err
    assert json.loads(out)["vectors"] == len(listed(tta, folder))
    assert tta(*chatting(folder), typed="My parcel is late\n")[1] == "coral\n"


def test_a_list_is_a_table_without_control_characters(tta: Tta, folder: Path) -> None:
    tta(*chatting(folder), typed="My parcel\x1b[31m\tis late\n/correct coral\n")
    _, out, _ = tta("memory", "list", "--memory", folder, "--user", "ada")
    assert "\x1b" not in out and "My parcel\\x1b[31m\\tis late" in out
    nothing = tta("memory", "list", "--memory", folder, "--user", "eve")
    assert nothing[:2] == (0, "") and "'eve'" in nothing[2]


def test_a_table_is_aligned_and_long_cells_are_cut() -> None:
    assert table(["a", "bb"], [["ccc", "d"], ["e", "f" * 60]]) == (
        "a    bb\nccc  d\ne    " + "f" * 47 + "…"
    )
    assert one_line("a\nb\u202ec") == "a\\nb\\u202ec"


# ----------------------------------------------------------------------- evaluate, doctor


def evaluating(file: Path, *more: object) -> list[object]:
    columns = ["--input", "text", "--target", "team"]
    return ["evaluate", file, *columns, "--model", "none", *more]


def test_evaluate_prints_a_curve_and_writes_figures_and_a_picture(tta: Tta, tmp_path: Path) -> None:
    out_json, out_png = tmp_path / "o.json", tmp_path / "o.png"
    file = table_file(tmp_path)
    status, out, err = tta(*evaluating(file, "--json", out_json, "--plot", out_png))
    assert status == 0, err
    figures = json.loads(out_json.read_text())
    assert list(figures) == [
        "steps", "adapted", "frozen", "calibration_error", "feedback", "ms_per_step", "learn_ms",
        "weights_unchanged",
    ]  # fmt: skip
    assert figures["steps"] == 12 and figures["weights_unchanged"] is True
    assert f"{100 * figures['adapted']['accuracy']:.1f} %" in out and "12 of 12" in err
    assert out_png.stat().st_size > 1000


def test_evaluate_prints_nothing_but_json_to_standard_output_when_asked(
    tta: Tta, tmp_path: Path
) -> None:
    _, out, _ = tta(*evaluating(table_file(tmp_path), "--steps", 5, "--json", "-"))
    assert json.loads(out)["steps"] == 5


def test_evaluate_keeps_what_it_learned_in_a_memory_under_the_column(
    tta: Tta, tmp_path: Path, folder: Path
) -> None:
    assert tta(*evaluating(table_file(tmp_path), "--memory", folder, "--user", "ada"))[0] == 0
    assert {record["task"] for record in listed(tta, folder)} == {"team"}


def test_evaluate_refuses_a_path_it_could_not_write_before_it_starts(
    tta: Tta, tmp_path: Path
) -> None:
    for option in ("--json", "--plot"):
        status, out, err = tta(*evaluating(table_file(tmp_path), option, tmp_path / "no" / "o"))
        assert (status, out) == (1, "") and "examples" not in err


def test_evaluate_refuses_a_target_that_is_no_label(tta: Tta, tmp_path: Path) -> None:
    labels = tmp_path / "labels.json"
    labels.write_text('["amber"]')
    status, _, err = tta(*evaluating(table_file(tmp_path), "--labels", labels))
    assert status == 1 and "'coral'" in err


def test_the_demo_learns_without_any_model(tta: Tta) -> None:
    status, out, err = tta("demo", "--model", "none", "--steps", 30, "--json")
    found = json.loads(out)
    assert status == 0, err
    assert [scene["before"] != scene["after"] for scene in found["scenes"]] == [True, True]
    assert found["curve"]["adapted"]["last_fifth"] > found["curve"]["frozen"]["last_fifth"]


def test_the_demo_shows_the_bundled_model_changing_its_answers(tta: Tta) -> None:
    status, out, err = tta("demo", "--steps", 10, "--json")
    assert status == 0, err
    answer, convention, label, rule, preference, undo = json.loads(out)["scenes"]
    assert answer["before"] != answer["after"] == "Ask for the tracking number first."
    assert convention["before"] != convention["after"] == "Dear Bob,"
    assert label["before"] != label["after"] == label["said"].removeprefix("/correct ")
    assert rule["before"] != rule["after"] == "quiet-river-stone"
    assert preference["before"] != preference["after"]
    assert (undo["before"], undo["after"]) == (rule["after"], rule["before"])


def test_the_demo_prints_every_scene_and_the_curve(tta: Tta) -> None:
    status, out, err = tta("demo", "--steps", 5)
    assert status == 0, err
    assert out.count("  you    /") == 6 and "adapted minus frozen" in out


def test_doctor_reports_versions_device_embedder_and_store(tta: Tta, folder: Path) -> None:
    taught(tta, folder)
    status, out, _ = tta("doctor", "--model", "none", "--memory", folder, "--json")
    found = {line["name"]: line for line in json.loads(out)}
    assert status == 0 and all(line["ok"] for line in found.values())
    assert {"python", "torch", "chromadb", "device", "model", "embedder"} <= set(found)
    assert found["store"]["found"] == "2 events, 1 users, 2 records"


def test_doctor_says_what_does_not_work_and_exits_with_1(tta: Tta, tmp_path: Path) -> None:
    status, out, _ = tta("doctor", "--model", "no/such/model", "--memory", tmp_path / "gone")
    assert status == 1
    assert sum("PROBLEM" in line for line in out.splitlines()) == 2


# ------------------------------------------------------------------------ signals, streams


@contextmanager
def process(*args: object) -> Iterator[subprocess.Popen[str]]:
    """`tta` as a process that can be interrupted, and that does not outlive the test."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "tta", *map(str, args)]
    pipe = subprocess.PIPE
    # Tests that a shell runs in the background ignore Ctrl-C, and their children would with them.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        running = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=env
        )
    finally:
        signal.signal(signal.SIGINT, before)
    with running:
        try:
            yield running
        finally:
            running.kill()


def count_events(folder: Path) -> int:
    from tta.memory import Memory

    try:
        with Memory.open(folder, embedder=None, create=False) as memory:
            return sum(1 for _ in memory.events())
    except OSError:  # not made yet, or just being made
        return 0


def test_ctrl_c_ends_an_evaluation_with_130_and_keeps_what_was_learned(
    tta: Tta, tmp_path: Path, folder: Path
) -> None:
    file = table_file(tmp_path, rows=20_000)
    with process(*evaluating(file, "--memory", folder, "--user", "ada")) as running:
        deadline = time.monotonic() + 120
        while count_events(folder) < 10 and time.monotonic() < deadline and running.poll() is None:
            time.sleep(0.1)
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=60)
    assert (running.returncode, out) == (130, ""), err
    assert "Traceback" not in err and "interrupted" in err
    assert count_events(folder) >= 10
    assert tta(*evaluating(file, "--memory", folder, "--user", "ada", "--steps", 3))[0] == 0


def test_ctrl_c_ends_a_chat_with_130(folder: Path) -> None:
    with process(*chatting(folder)) as running:
        assert running.stdin is not None and running.stdout is not None
        running.stdin.write("My parcel is late\n")
        running.stdin.flush()
        assert running.stdout.readline().strip() in TEAMS.split(",")
        running.send_signal(signal.SIGINT)
        assert running.wait(timeout=60) == 130
        assert running.stderr is not None and "Traceback" not in running.stderr.read()
    assert count_events(folder) == 1


def test_a_reader_that_has_had_enough_is_no_error(tta: Tta, folder: Path) -> None:
    typed = "".join(f"My parcel {i} is late\n" for i in range(200))
    assert tta(*chatting(folder), typed=typed)[0] == 0
    command = f"{sys.executable} -m tta memory export --memory {folder} --user ada | head -1"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, env=env
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 1
