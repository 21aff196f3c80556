"""Tables of the job store, and how a database is opened: made when empty, refused when it is not this version's.

Everything but the two settings of `_durable_sqlite` is common SQL, so that another database is another URL.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Engine,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    create_engine,
    event,
    insert,
    inspect,
    select,
    text,
)
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, NoSuchModuleError, SQLAlchemyError

from diffusion_router.store.errors import StoreError

SCHEMA_VERSION: Final = 3
BUSY_TIMEOUT_SECONDS: Final = 5.0

metadata = MetaData()

jobs = Table(
    "jobs",
    metadata,
    # SQLite numbers rows by itself only in a column of exactly this type.
    Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("id", String(64), nullable=False, unique=True),
    Column("pipeline", String(255), nullable=False),
    Column("idempotency_key", String(255)),
    Column("request_index", Integer, nullable=False),
    Column("request_digest", String(64), nullable=False),
    Column("parameters", LargeBinary, nullable=False),
    # Of the files that it reads, one a line.
    Column("input_keys", Text),
    Column("output_format", String(16), nullable=False),
    Column("model", Text, nullable=False),
    Column("status", Integer, nullable=False),
    Column("created_at", Float(53), nullable=False),
    Column("deadline_at", Float(53), nullable=False),
    Column("completed_at", Float(53)),
    Column("expires_at", Float(53)),
    Column("kills", Integer, nullable=False),
    Column("result", LargeBinary),
    Column("accepted_at", Float(53)),
    Column("target_seconds", Float(53)),
    Column("priority", Integer),
    Column("tenant", Text),
    UniqueConstraint("pipeline", "idempotency_key", "request_index", name="jobs_idempotency_key"),
    Index("jobs_status", "pipeline", "status", "seq"),
    Index("jobs_output_format", "pipeline", "output_format", "seq"),
    Index("jobs_expires_at", "pipeline", "expires_at"),
    Index("jobs_input_keys", "pipeline", "input_keys"),
)

# Columns that the first databases of this version lack.
_ADDED: Final = frozenset(["accepted_at", "target_seconds", "priority", "tenant"])

# What a pipeline's router has to know again after a restart.
pipelines = Table(
    "pipelines",
    metadata,
    Column("name", String(255), primary_key=True),
    Column("secret", LargeBinary, nullable=False),
    # Of the store's clock, see `clock`.
    Column("boot_id", String(64)),
    Column("clock_base", Float(53)),
    Column("clock_lag", Float(53)),
)

schema_version = Table("schema_version", metadata, Column("version", Integer, primary_key=True))


def open_engine(url: str) -> Engine:
    """Connect to `url`, make the tables if there are none, and check that they are of this version. Blocks.

    Raises StoreError, with what to do about it.
    """
    parsed = _parse(url)
    name = describe(parsed)
    engine = create_engine(parsed, pool_size=3, max_overflow=0, pool_timeout=BUSY_TIMEOUT_SECONDS)
    if parsed.get_backend_name() == "sqlite":
        event.listen(engine, "connect", _durable_sqlite)
    try:
        with engine.begin() as connection:
            metadata.create_all(connection)
            version = connection.execute(select(schema_version.c.version)).scalar_one_or_none()
            if version is None:
                connection.execute(insert(schema_version).values(version=SCHEMA_VERSION))
                version = SCHEMA_VERSION
            if version == SCHEMA_VERSION:
                _add_columns(connection)
                # A table of the same name made by something else shows here, not at the first job.
                connection.execute(select(jobs).limit(1)).all()
    except SQLAlchemyError as error:
        engine.dispose()
        raise StoreError(_why_not(name, error)) from error
    if version != SCHEMA_VERSION:
        engine.dispose()
        raise StoreError(
            f"{name} has schema version {version}; this router reads version {SCHEMA_VERSION}. "
            "Start the router version that wrote it, or set the store URL (DIFFUSION_ROUTER_STORE_URL) to a new place."
        )
    return engine


def describe(url: URL | str) -> str:
    """The store's name for messages: the file, or the URL without its password."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        return f"Job store {parsed.database}"
    return f"Job store {parsed.render_as_string(hide_password=True)}"


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
        parsed.get_dialect()
    except (ArgumentError, NoSuchModuleError) as error:
        raise StoreError(
            f"Store URL {url!r} is not a database URL such as sqlite:////var/lib/router/jobs.db"
        ) from error
    if parsed.get_backend_name() == "sqlite":
        if not parsed.database or parsed.database == ":memory:":
            raise StoreError(f"Store URL {url!r} names no file: jobs have to outlive the router. Name a file")
        try:
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"Folder of job store {parsed.database} cannot be made: {error.strerror}") from error
    return parsed


def _add_columns(connection: Connection) -> None:
    """Those that an earlier router of this version did not know. All may be null, so that it can come back: it leaves
    them out of what it writes."""
    there = {column["name"] for column in inspect(connection).get_columns(jobs.name)}
    if there >= {column.name for column in jobs.columns} - _ADDED:
        for column in jobs.columns:
            if column.name not in there:
                kind = column.type.compile(connection.dialect)
                connection.execute(text(f"ALTER TABLE {jobs.name} ADD COLUMN {column.name} {kind}"))


def _durable_sqlite(connection: Any, _record: object) -> None:
    """Readers do not hold up the writer (WAL); a commit is on disk before it returns (FULL)."""
    connection.execute(f"PRAGMA busy_timeout={int(BUSY_TIMEOUT_SECONDS * 1000)}")
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")


def _why_not(name: str, error: SQLAlchemyError) -> str:
    cause = error.orig if isinstance(error, DatabaseError) else error
    if isinstance(cause, sqlite3.OperationalError) and "no such column" not in str(cause):
        return f"{name} cannot be opened: {cause}. Check that the folder exists and that this user may write it"
    if isinstance(cause, sqlite3.DatabaseError):
        return f"{name} is damaged or not a job store: {cause}. Restore it, or move it away to start with no jobs"
    return f"{name} cannot be used: {cause}. Check the store URL (DIFFUSION_ROUTER_STORE_URL) and the database"
