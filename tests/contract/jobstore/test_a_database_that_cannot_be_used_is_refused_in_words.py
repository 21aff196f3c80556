from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import create_engine, text, update

from diffusion_router.store import JobStore, StoreError
from diffusion_router.store.schema import schema_version


async def test_a_newer_schema(url: str) -> None:
    await (await JobStore.open(url)).close()
    with create_engine(url).begin() as connection:
        connection.execute(update(schema_version).values(version=99))
    with pytest.raises(StoreError, match=r"jobs\.db has schema version 99.*reads version 1.*STORE_URL"):
        await JobStore.open(url)


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
