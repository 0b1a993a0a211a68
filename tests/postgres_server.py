"""A PostgreSQL server of the tests' own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
import sqlalchemy as sa


def program(name: str) -> str | None:
    """Debian keeps the server's programs off the path."""
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return shutil.which(name, path=os.pathsep.join([*map(str, places), os.environ["PATH"]]))


def as_nobody_special() -> list[str]:
    """PostgreSQL refuses to run as root."""
    return ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def postgres() -> Iterator[str]:
    """The URL of a server, without the name of a database; skips where none can be had."""
    pytest.importorskip("psycopg")
    initdb, server_program = program("initdb"), program("postgres")
    if initdb is None or server_program is None:
        pytest.skip("no PostgreSQL server is installed")
    folder, port = Path(f"/tmp/tta-postgres-{uuid4().hex[:8]}"), free_port()
    folder.mkdir()
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres")
    run = [*as_nobody_special(), initdb, "-D", str(folder / "data"), "-U", "tta", "-A", "trust"]
    subprocess.run([*run, "-E", "UTF8"], check=True, stdout=subprocess.DEVNULL, cwd="/")
    serve = [*as_nobody_special(), server_program, "-D", str(folder / "data"), "-p", str(port)]
    serve += ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={folder}"]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(serve, stderr=log, stdout=log, cwd="/")
    url = f"postgresql+psycopg://tta@127.0.0.1:{port}/"
    try:
        _wait_for(url)
        yield url
    finally:
        server.terminate()
        server.wait()
        shutil.rmtree(folder)


def _wait_for(url: str) -> None:
    engine = sa.create_engine(url + "postgres", poolclass=sa.NullPool)
    for _ in range(300):
        try:
            with engine.connect():
                return
        except sa.exc.OperationalError:
            threading.Event().wait(0.1)
    raise AssertionError("PostgreSQL did not start within half a minute")


def database(cluster: str) -> str:
    """The URL of a new database there."""
    name = f"test_{uuid4().hex[:8]}"
    engine = sa.create_engine(cluster + "postgres", poolclass=sa.NullPool)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    return cluster + name
