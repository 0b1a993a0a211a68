"""Imports run one way, the parts never meet, and `import tta` is free and silent.

errors, types <- protocols <- { memory | retrieval | decoding | tasks } <- adapted <- cli
"""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PARTS = ("memory", "retrieval", "decoding", "tasks")
FLOOR = {
    "tta.standing", "tta.sources", "tta.outputs", "tta.types", "tta.protocols", "tta.errors"
}  # fmt: skip
BELOW_THE_FLOOR = {
    "tta.standing": set[str](),
    "tta.sources": set[str](),
    "tta.outputs": set[str](),
    "tta.types": {"tta.standing", "tta.sources", "tta.outputs"},
    "tta.errors": set[str](),
    "tta.protocols": FLOOR,
}
TOP = {"tta.__main__", "tta.cli", "tta.doctor", "tta.evaluate", "tta.labelled", "tta.plot"}
KNOWING = ("tta.adapted", "tta.step", "tta.taskbook")
HEAVY = ("torch", "transformers", "chromadb", "sentence_transformers", "outlines", "llguidance",
         "llama_index", "sqlalchemy", "numpy", "pydantic", "tta.adapted", "tta.types")  # fmt: skip


def module_of(path: Path) -> str:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    return name if name.split(".")[0] == "tta" else f"tta.{name}"


def is_for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def nodes(tree: ast.AST, *, types: bool) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(tree):
        if types or not is_for_types_only(child):
            yield child
            yield from nodes(child, types=types)


def ours(path: Path, *, types: bool = True) -> set[str]:
    """The modules of tta a file imports; those for type checkers alone only with `types`."""
    found: set[str] = set()
    for node in nodes(ast.parse(path.read_text(encoding="utf-8")), types=types):
        if isinstance(node, ast.ImportFrom) and node.module:
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= whole if node.module == "tta" else {node.module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.split(".")[0] == "tta"}


def in_tta() -> dict[str, Path]:
    return {module_of(path): path for path in (ROOT / "tta").glob("*.py")}


def is_top(module: str) -> bool:
    return module in TOP or module.startswith("tta.cli")


@pytest.mark.parametrize("part", PARTS)
def test_a_part_imports_only_itself_and_the_floor(part: str) -> None:
    paths = list((ROOT / part).rglob("*.py"))
    assert paths
    for path in paths:
        others = {name for name in ours(path) if not f"{name}.".startswith(f"tta.{part}.")}
        assert others <= FLOOR, path


def test_the_bundled_model_imports_only_itself_and_the_floor() -> None:
    for path in (ROOT / "tta/micro").rglob("*.py"):
        assert {name for name in ours(path) if not name.startswith("tta.micro")} <= FLOOR, path


@pytest.mark.parametrize("module", BELOW_THE_FLOOR)
def test_the_floor_stands_on_nothing(module: str) -> None:
    assert ours(in_tta()[module]) <= BELOW_THE_FLOOR[module] - {module}


def test_only_adapted_its_values_and_the_command_line_know_the_parts() -> None:
    for module, path in in_tta().items():
        known = {part for part in PARTS for name in ours(path) if name.startswith(f"tta.{part}")}
        assert not known or module in KNOWING or is_top(module), (module, known)


def test_nothing_below_the_command_line_imports_it() -> None:
    for module, path in in_tta().items():
        assert is_top(module) or not {name for name in ours(path) if is_top(name)}, module


def test_nothing_below_adapted_runs_it() -> None:
    for module, path in in_tta().items():
        if module not in {"tta", "tta.adapted"} and not is_top(module):
            assert "tta.adapted" not in ours(path, types=False), module


@pytest.mark.parametrize("folder", ["tta", *PARTS])
def test_every_file_opens_by_saying_what_it_knows(folder: str) -> None:
    for path in (ROOT / folder).rglob("*.py"):
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), path


@pytest.mark.parametrize("folder", ["tta", *PARTS])
def test_every_folder_is_flat_and_every_file_short(folder: str) -> None:
    for path in (ROOT / folder).rglob("*.py"):
        assert path.parent in (ROOT / folder, ROOT / "tta/micro"), path
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 500, path


def test_no_function_is_longer_than_a_screen() -> None:
    for folder in ("tta", *PARTS):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.FunctionDef):
                    assert (node.end_lineno or 0) - node.lineno < 60, f"{path}: {node.name}"


# ----------------------------------------------------------------------------------- import


def fresh(code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run `code` in a new interpreter in an empty folder that is also its home."""
    env = {"PYTHONPATH": str(ROOT), "HOME": str(cwd), "PATH": os.environ["PATH"],
           "PYTHONDONTWRITEBYTECODE": "1"}  # fmt: skip
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=cwd, env=env
    )


def test_importing_tta_loads_nothing_heavy(tmp_path: Path) -> None:
    code = f"import json, sys, tta; print(json.dumps([m for m in {HEAVY} if m in sys.modules]))"
    assert json.loads(fresh(code, tmp_path).stdout) == []


def test_importing_tta_is_silent_and_creates_nothing(tmp_path: Path) -> None:
    done = fresh("import tta", tmp_path)
    assert (done.stdout, done.stderr) == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_importing_tta_configures_no_logging(tmp_path: Path) -> None:
    code = (
        "import logging, tta; root = logging.getLogger(); "
        "print(root.handlers, root.level, sorted(root.manager.loggerDict))"
    )
    assert fresh(code, tmp_path).stdout.split() == ["[]", "30", "[]"]


def test_importing_tta_takes_less_than_150_ms(tmp_path: Path) -> None:
    code = "import time; t = time.perf_counter(); import tta; print(time.perf_counter() - t)"
    assert min(float(fresh(code, tmp_path).stdout) for _ in range(7)) < 0.150


def test_what_is_exported_is_what_is_listed_and_all_of_it_exists() -> None:
    import tta

    assert dir(tta) == sorted(tta.__all__)
    assert tta.EVERYONE == "*"
    for name in set(tta.__all__) - {"EVERYONE"}:
        assert getattr(tta, name).__name__ == name


def test_a_name_that_is_not_exported_says_so() -> None:
    import tta

    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = tta.nonsense
