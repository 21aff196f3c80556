"""Connections are bounded, and a newcomer is served all the same, or told why not."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator

import pytest
import structlog
from structlog.testing import LogCapture

from contract.http.conftest import DEADLINE, Client, Serve, Site
from diffusionpipeline.process import serving
from diffusionpipeline.process.connections import SPARE_CONNECTIONS, HttpBounds
from testbed.waiting import until

MOST = 4
ALL = MOST + SPARE_CONNECTIONS


def hold(site: Site, count: int) -> list[Client]:
    clients = [site.client() for _ in range(count)]
    for client in clients:
        client.ask("/hold")
    site.holding(count)
    return clients


def still_open(clients: list[Client]) -> int:
    """Of those that have said nothing."""
    count = 0
    for client in clients:
        client.socket.setblocking(False)
        try:
            client.socket.recv(1)
        except BlockingIOError:
            count += 1
        except ConnectionError:
            pass
    return count


@pytest.mark.parametrize(
    "sent", [b"", b"GET / HTT", b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n"], ids=["silent", "half", "idle"]
)
def test_those_who_ask_for_nothing_make_room(serve: Serve, sent: bytes) -> None:
    site = serve(max_connections=MOST)
    crowd = []
    for _ in range(2 * ALL):
        crowd.append(site.client())
        crowd[-1].send(sent)
        if sent.endswith(b"\n\r\n"):
            crowd[-1].answer()
    for path in ("/healthz", "/x"):
        assert site.client().get(path).status == 200
    until(lambda: still_open(crowd) <= ALL, DEADLINE, f"no more than {ALL} are open")


def test_those_who_do_not_read_their_answer_make_room(serve: Serve) -> None:
    site = serve(max_connections=MOST)
    for _ in range(ALL):
        site.client().ask("/large", "Connection: close")
    for path in ("/healthz", "/x"):
        assert site.client().get(path).status == 200


def test_when_all_are_in_use_probes_are_answered_and_others_told(serve: Serve) -> None:
    site = serve(max_connections=MOST)
    first, *_ = hold(site, MOST)
    for path in ("/healthz", "/readyz", "/metrics"):
        assert site.client().get(path).status == 200
    refused = site.client()
    answer = refused.get("/x")
    assert (answer.status, answer.code, answer.headers["retry-after"]) == (503, "too_many_connections", "1")
    assert refused.ended
    site.release()
    assert first.answer().body == b"held"
    assert first.get("/x").status == 200


def test_nobody_takes_the_place_of_a_request_under_way(serve: Serve) -> None:
    site = serve(max_connections=MOST)
    holders = hold(site, MOST)
    for _ in range(2 * ALL):
        site.client()
    assert site.client().get("/healthz").status == 200
    site.release()
    assert [holder.answer().body for holder in holders] == [b"held"] * MOST


@pytest.fixture
def log() -> Iterator[LogCapture]:
    capture = LogCapture()
    before = structlog.get_config()["processors"]
    structlog.configure(processors=[capture])
    yield capture
    structlog.configure(processors=before)


def test_the_log_counts_who_was_refused_and_does_not_grow_with_them(log: LogCapture, serve: Serve) -> None:
    site = serve(max_connections=MOST)
    for _ in range(ALL + 10):
        site.client()
    for _ in range(20):
        client = site.client()
        client.send(b"nonsense\r\n\r\n")
        assert client.answer().code == "invalid_http"

    def counted() -> bool:
        counts: Counter[str] = Counter()
        for entry in log.entries:
            assert entry["event"] == "http_refused"
            counts.update({name: count for name, count in entry.items() if isinstance(count, int)})
        assert counts.keys() <= {"gave_way", "invalid_http"}
        return counts["gave_way"] >= 10 and counts["invalid_http"] == 20

    until(counted, DEADLINE, "all are counted")
    assert len(log.entries) < 20


async def test_a_server_that_is_told_to_end_does_so_before_its_next_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "_TICK_SECONDS", 10 * DEADLINE)

    async def nothing(*_: object) -> None:
        pass

    bounds = HttpBounds(max_connections=1)
    async with (
        asyncio.timeout(DEADLINE),
        serving.serve_http(nothing, host="127.0.0.1", port=0, flag="--port", grace_seconds=1, bounds=bounds) as port,
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await reader.readline(), "it serves"
        writer.close()
