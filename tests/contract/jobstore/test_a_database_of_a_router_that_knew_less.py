"""An upgrade of the router finds the jobs of the one before, and a way back finds those of both."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from contract.jobstore.records import record
from diffusion_router.store import JobStore
from diffusionpipeline.v1 import job_pb2

# As routers made it at version 3, before jobs had targets, priorities and tenants.
_TABLES = """
CREATE TABLE jobs (
    seq INTEGER NOT NULL, id VARCHAR(64) NOT NULL, pipeline VARCHAR(255) NOT NULL, idempotency_key VARCHAR(255),
    request_index INTEGER NOT NULL, request_digest VARCHAR(64) NOT NULL, parameters BLOB NOT NULL, input_keys TEXT,
    output_format VARCHAR(16) NOT NULL, model TEXT NOT NULL, status INTEGER NOT NULL, created_at FLOAT NOT NULL,
    deadline_at FLOAT NOT NULL, completed_at FLOAT, expires_at FLOAT, kills INTEGER NOT NULL, result BLOB,
    PRIMARY KEY (seq), CONSTRAINT jobs_idempotency_key UNIQUE (pipeline, idempotency_key, request_index), UNIQUE (id)
);
CREATE TABLE pipelines (
    name VARCHAR(255) NOT NULL, secret BLOB NOT NULL, boot_id VARCHAR(64), clock_base FLOAT, clock_lag FLOAT,
    PRIMARY KEY (name)
);
CREATE TABLE schema_version (version INTEGER NOT NULL, PRIMARY KEY (version));
INSERT INTO schema_version VALUES (3);
"""
# What such a router writes of a job that it accepts.
_ADD = """
INSERT INTO jobs (id, pipeline, request_index, request_digest, parameters, output_format, model, status, created_at,
    deadline_at, kills) VALUES (?, 'default', 0, 'd', ?, 'png', '', 1, 1000.0, 1600.0, 0)
"""


def add_as_the_old_router(path: Path, job_id: str) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute(_ADD, (job_id, record(job_id).parameters.SerializeToString()))


async def test_its_jobs_are_found_and_it_may_come_back(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    with sqlite3.connect(path) as connection:
        connection.executescript(_TABLES)
    add_as_the_old_router(path, "a")
    new = record("b", target_seconds=30.0, priority=job_pb2.PRIORITY_INTERACTIVE, tenant="t", accepted_at=1001.0)
    store = await JobStore.open(f"sqlite:///{path}")
    await store.add([new])
    assert await store.unfinished() == [record("a"), new]
    await store.close()
    add_as_the_old_router(path, "c")
    store = await JobStore.open(f"sqlite:///{path}")
    assert await store.unfinished() == [record("a"), new, record("c")]
    await store.close()
