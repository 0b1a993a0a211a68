"""Every folder of code is in the wheel and nothing else is; what the code imports is declared.

The distributions are built once, from a copy, so that nothing is left in the checkout and nothing
left there by an earlier build gets in.
"""

import ast
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from importlib import metadata
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
PARTS = ("memory", "retrieval", "decoding", "tasks")
CODE = ("tta", *PARTS)
DATA = {"tta": ("py.typed",), "tta/micro": ("*.json", "*.safetensors", "*.jinja")}
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def installed_as(path: Path) -> str:
    """Where a file of the checkout lies in the wheel."""
    relative = path.relative_to(ROOT).as_posix()
    return relative if relative.startswith("tta/") else f"tta/{relative}"


def shipped() -> set[str]:
    """What the wheel should hold, read from the folders and not from pyproject.toml."""
    code = (path for top in CODE for path in (ROOT / top).rglob("*.py"))
    data = (
        path for folder, globs in DATA.items() for g in globs for path in (ROOT / folder).glob(g)
    )
    return {installed_as(path) for path in (*code, *data)}


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist of a copy of the checkout, and the wheel built from that sdist."""
    copy = tmp_path_factory.mktemp("source") / "checkout"
    copy.mkdir()
    for name in CODE:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    dist = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(dist), str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return dist


@pytest.fixture(scope="session")
def wheel(built: Path) -> Path:
    return next(built.glob("*.whl"))


def test_every_folder_of_code_is_listed() -> None:
    folders = {path.parent for top in CODE for path in (ROOT / top).rglob("__init__.py")}
    found = {installed_as(folder / "_").removesuffix("/_").replace("/", ".") for folder in folders}
    assert found == set(PROJECT["tool"]["setuptools"]["packages"])


def test_the_wheel_holds_the_package_with_its_parts_and_weights_and_nothing_else(
    wheel: Path,
) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name for name in names if ".dist-info/" not in name} == shipped()
    assert {name.split("/")[0] for name in names if ".dist-info/" in name} == {
        f"tta_sdk-{PROJECT['project']['version']}.dist-info"
    }
    weights = [name for name in names if name.endswith(".safetensors")]
    assert weights
    assert sum((ROOT / name).stat().st_size for name in weights) <= 16e6


def test_the_source_distribution_holds_what_the_wheel_is_built_from(built: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    sources = {name if (ROOT / name).is_file() else name.removeprefix("tta/") for name in shipped()}
    assert sources | {"LICENSE", "README.md", "pyproject.toml"} <= names


def test_the_wheel_works_away_from_the_checkout(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "site"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--no-index", "--target", str(target), str(wheel)]
    subprocess.run(command, check=True, capture_output=True)
    script = (
        "import importlib.util, pathlib, sys; sys.path.insert(0, sys.argv[1]); import tta\n"
        f"for name in {sorted(PROJECT['tool']['setuptools']['packages'])}:\n"
        "    spec = importlib.util.find_spec(name)\n"
        "    print(pathlib.Path(spec.origin).is_relative_to(sys.argv[1]), name)\n"
    )
    out = subprocess.run(
        [sys.executable, "-I", "-c", script, str(target)],
        check=True, capture_output=True, text=True, cwd=tmp_path,
    ).stdout  # fmt: skip
    assert out.splitlines() == [
        f"True {name}" for name in sorted(PROJECT["tool"]["setuptools"]["packages"])
    ]


def test_the_version_is_said_once_and_the_changelog_knows_it() -> None:
    version = PROJECT["project"]["version"]
    assert f'__version__ = "{version}"' in (ROOT / "tta/__init__.py").read_text(encoding="utf-8")
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


# ------------------------------------------------------------------------------ dependencies


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def required(lines: list[str]) -> set[str]:
    return {normal(re.split(r"[^\w.-]", line, maxsplit=1)[0]) for line in lines}


def imports(path: Path) -> Iterator[str]:
    """Top-level names of all modules a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


@pytest.mark.parametrize("folder", CODE)
def test_every_third_party_import_is_a_declared_dependency(folder: str) -> None:
    extras: dict[str, list[str]] = PROJECT["project"]["optional-dependencies"]
    declared = required(PROJECT["project"]["dependencies"] + extras["offline"] + extras["notebook"])
    homes = metadata.packages_distributions()
    for path in (ROOT / folder).rglob("*.py"):
        for name in set(imports(path)) - set(sys.stdlib_module_names) - {"tta"}:
            owners = {normal(owner) for owner in homes.get(name, [name])}
            assert owners & declared, f"{path}: {name} is not among the dependencies"


def test_the_constraints_pin_every_requirement_and_torch_without_a_local_tag() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert pins["torch"] == "2.13.0"
    extras: dict[str, list[str]] = PROJECT["project"]["optional-dependencies"]
    wanted = required([*PROJECT["project"]["dependencies"], *chain(*extras.values())])
    assert wanted <= {normal(name) for name in pins}


def test_the_environment_that_runs_the_tests_is_the_pinned_one() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    for name in required(PROJECT["project"]["dependencies"]):
        pin = next(version for pinned, version in pins.items() if normal(pinned) == name)
        assert metadata.version(name).split("+")[0] == pin, name
