"""Bodies: how long they may take, how much of them there may be at once, and who waits while one is parsed."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from contract.api.artist import Artist
from contract.router.conftest import DEADLINE, Router, Start
from diffusion_router.api import plain_json
from testbed.waiting import eventually

GENERATIONS = "/v1/images/generations"
EDITS = "/v1/images/edits"
JSON = {"Content-Type": "application/json"}
# Any router may be asked for one, without a worker.
PROMPT = {"prompt": "a red seven", "output_format": "png"}


class Half:
    """A request whose body is not all sent."""

    def __init__(self, router: Router, path: str, content_type: str, nbytes: int) -> None:
        self._router = router
        self._head = (
            f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {content_type}\r\nContent-Length: {nbytes}\r\n\r\n"
        ).encode()

    async def __aenter__(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._router.ports.http)
        self._writer.write(self._head)
        return self._reader, self._writer

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()


async def answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, Any]]:
    """Status and body of the next one; interim answers are skipped."""
    while True:
        head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), DEADLINE)).decode().lower()
        status = int(head.split()[1])
        if status >= 200:
            length = int(head.partition("content-length: ")[2].split()[0])
            return status, json.loads(await asyncio.wait_for(reader.readexactly(length), DEADLINE))


def refused(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


MANY = {
    "numbers": b'{"model_args": [' + b"1," * 15_000_000 + b"1]}",
    "lists": b'{"model_args": [' + b"[1]," * 7_500_000 + b"1]}",
    "fields": b"{" + b",".join(b'"%07d":1' % index for index in range(2_500_000)) + b"}",
}


@pytest.mark.parametrize("body", MANY.values(), ids=MANY)
async def test_a_body_of_30_mb_with_millions_of_values_is_refused(http: httpx.AsyncClient, body: bytes) -> None:
    response = await http.post(GENERATIONS, content=body, headers=JSON)
    assert refused(response) == (400, "invalid_json")
    assert "more than 10000 values" in response.json()["error"]["message"]


async def test_a_body_nested_too_deeply_is_refused(http: httpx.AsyncClient) -> None:
    body = b'{"prompt": ' + b"[" * 100 + b"]" * 100 + b"}"
    response = await http.post(GENERATIONS, content=body, headers=JSON)
    assert refused(response) == (400, "invalid_json")
    assert "more than 64 deep" in response.json()["error"]["message"]


async def test_what_a_form_holds_as_json_is_bounded_too(http: httpx.AsyncClient, artist: Artist) -> None:
    arguments = '{"eta": [' + "1," * 100_000 + "1]}"
    response = await http.post("/v1/jobs", files=[("model_args", (None, arguments))])
    assert refused(response) == (400, "invalid_value")
    assert "give 'model_args' as JSON" in response.json()["error"]["message"]


@pytest.fixture
async def parsing(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[threading.Event, threading.Event]]:
    """Set when a body is being parsed; to be set for it to go on."""
    begun, go_on = threading.Event(), threading.Event()
    parse = plain_json.parse

    def slow(text: str, max_values: int) -> object:
        if len(text) > 1 << 20:
            begun.set()
            assert go_on.wait(DEADLINE), "the event loop stands while a body is parsed"
        return parse(text, max_values)

    monkeypatch.setattr(plain_json, "parse", slow)
    yield begun, go_on
    go_on.set()


async def test_others_are_served_while_a_large_body_is_parsed(
    http: httpx.AsyncClient, parsing: tuple[threading.Event, threading.Event]
) -> None:
    begun, go_on = parsing
    body = json.dumps({"prompt": "x" * (2 << 20)}).encode()
    posting = asyncio.create_task(http.post(GENERATIONS, content=body, headers=JSON))
    await eventually(begun.is_set, DEADLINE, "the body is being parsed")
    assert (await http.get("/healthz")).status_code == 200
    assert (await http.post("/v1/jobs", json=PROMPT)).status_code == 202
    assert not posting.done()
    go_on.set()
    assert refused(await posting) == (400, "invalid_value")


@pytest.mark.parametrize(
    ("path", "content_type"),
    [(GENERATIONS, "application/json"), (EDITS, "multipart/form-data; boundary=b")],
    ids=["json", "form"],
)
async def test_a_body_that_does_not_arrive_is_answered_408(start_router: Start, path: str, content_type: str) -> None:
    router = await start_router(body_seconds=0.3)
    async with Half(router, path, content_type, 1000) as (reader, writer):
        writer.write(b"--b\r\n")
        status, body = await answer(reader)
        assert (status, body["error"]["code"]) == (408, "timeout")
        assert "0.3 s" in body["error"]["message"]
        assert await asyncio.wait_for(reader.read(), DEADLINE) == b""


async def test_bytes_of_bodies_in_flight_are_bounded_and_prompts_find_room_all_the_same(start_router: Start) -> None:
    router = await start_router(max_upload_bytes=1 << 20, max_body_bytes_in_flight=1 << 20)
    async with httpx.AsyncClient(base_url=router.url, timeout=DEADLINE) as http:
        large = json.dumps({"prompt": "x" * 500_000}).encode()
        fits = (400, "invalid_value")
        assert refused(await http.post(GENERATIONS, content=large, headers=JSON)) == fits
        async with Half(router, GENERATIONS, "application/json", 1_000_000) as (_, writer):
            writer.write(b"x" * 999_999)

            async def full() -> bool:
                response = await http.post(GENERATIONS, content=large, headers=JSON)
                if refused(response) == fits:
                    return False
                assert refused(response) == (503, "too_many_bytes")
                assert response.headers["retry-after"] == "1"
                return True

            await eventually(full, DEADLINE, "there is no room for another")
            assert (await http.post("/v1/jobs", json=PROMPT)).status_code == 202

        async def room() -> bool:
            return refused(await http.post(GENERATIONS, content=large, headers=JSON)) == fits

        await eventually(room, DEADLINE, "there is room again once the client has hung up")


async def test_bytes_that_were_refused_are_not_in_flight(start_router: Start) -> None:
    router = await start_router(max_upload_bytes=1 << 20, max_body_bytes_in_flight=1 << 20)
    async with httpx.AsyncClient(base_url=router.url, timeout=DEADLINE) as http:
        for size, expected in ((2 << 20, (413, "request_too_large")), (900_000, (400, "invalid_value"))):
            body = json.dumps({"prompt": "x" * size}).encode()

            async def chunked(body: bytes = body) -> AsyncIterator[bytes]:
                yield body

            for _ in range(3):
                assert refused(await http.post(GENERATIONS, content=chunked(), headers=JSON)) == expected


async def test_a_client_that_will_ask_no_more_gets_its_picture(router: Router, artist: Artist) -> None:
    artist.allowed.clear()
    body = json.dumps(PROMPT).encode()
    async with Half(router, GENERATIONS, "application/json", len(body)) as (reader, writer):
        writer.write(body)
        writer.write_eof()
        await asyncio.wait_for(artist.denoising.wait(), DEADLINE)
        artist.allowed.set()
        status, body_ = await answer(reader)
    assert status == 200
    assert len(body_["data"]) == 1
    assert artist.cancelled == []
