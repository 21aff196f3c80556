from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text, update

from diffusion_router.store import JobStore, StoreError
from diffusion_router.store.schema import SCHEMA_VERSION, schema_version


async def test_a_newer_schema(url: str) -> None:
    await (await JobStore.open(url)).close()
    with create_engine(url).begin() as connection:
        connection.execute(update(schema_version).values(version=99))
    with pytest.raises(
        StoreError, match=rf"jobs\.db has schema version 99.*reads version {SCHEMA_VERSION}\..*STORE_URL"
    ):
        await JobStore.open(url)


# As routers made it at version 1.
_OLD_TABLES = """
CREATE TABLE jobs (
    seq INTEGER NOT NULL, id VARCHAR(64) NOT NULL, idempotency_key VARCHAR(255), request_index INTEGER NOT NULL,
    request_digest VARCHAR(64) NOT NULL, parameters BLOB NOT NULL, status INTEGER NOT NULL,
    created_at FLOAT NOT NULL, deadline_at FLOAT NOT NULL, completed_at FLOAT, expires_at FLOAT,
    kills INTEGER NOT NULL, result BLOB,
    PRIMARY KEY (seq), UNIQUE (id), CONSTRAINT jobs_idempotency_key UNIQUE (idempotency_key, request_index)
);
CREATE TABLE schema_version (version INTEGER NOT NULL, PRIMARY KEY (version));
INSERT INTO schema_version VALUES (1);
INSERT INTO jobs VALUES (1, 'a', NULL, 0, 'd', x'', 1, 1000.0, 1600.0, NULL, NULL, 0, NULL);
"""


async def test_an_older_schema_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    with sqlite3.connect(path) as connection:
        connection.executescript(_OLD_TABLES)
    with pytest.raises(StoreError, match=rf"{path} has schema version 1; .*Start the router version that wrote it"):
        await JobStore.open(f"sqlite:///{path}")
    with sqlite3.connect(path) as connection:
        assert connection.execute("select id from jobs").fetchall() == [("a",)]


async def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    path.write_bytes(b"not a database at all\n" * 1000)
    with pytest.raises(StoreError, match=rf"{path} is damaged or not a job store: .*move it away"):
        await JobStore.open(f"sqlite:///{path}")


async def test_a_table_of_another_program(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    with create_engine(f"sqlite:///{path}").begin() as connection:
        connection.execute(text("create table jobs (id integer primary key, status int, seq int, expires_at real)"))
    with pytest.raises(StoreError, match=rf"{path} is damaged or not a job store: no such column"):
        await JobStore.open(f"sqlite:///{path}")


async def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"Folder of job store .*file/jobs\.db cannot be made"):
        await JobStore.open(f"sqlite:///{tmp_path / 'file' / 'jobs.db'}")


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
async def test_memory_alone(url: str) -> None:
    with pytest.raises(StoreError, match="names no file"):
        await JobStore.open(url)


@pytest.mark.parametrize("url", ["", "jobs.db", "nosuchdatabase://host/x"])
async def test_what_is_no_url(url: str) -> None:
    with pytest.raises(StoreError, match="is not a database URL such as sqlite:///"):
        await JobStore.open(url)
