"""Each refusal: its status, the field at fault, words that help, and nothing that looks like a crash in the log."""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
import structlog
from structlog.testing import LogCapture

from contract.api.artist import Artist, picture, until
from contract.router.conftest import DEADLINE, Start

GENERATIONS = "/v1/images/generations"
EDITS = "/v1/images/edits"


@pytest.fixture(autouse=True)
def log(caplog: pytest.LogCaptureFixture) -> Iterator[LogCapture]:
    """No request of this file may make an error of the router's own, in either log."""
    capture = LogCapture()
    before = structlog.get_config()["processors"]
    structlog.configure(processors=[capture])
    yield capture
    structlog.configure(processors=before)
    assert [entry for entry in capture.entries if entry["log_level"] in ("error", "critical")] == []
    assert [record for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")] == []


def refusal(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code), answer.text
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == ("invalid_request_error" if status < 429 else error["type"])
    return error


FIELDS: list[tuple[dict[str, object], str, str, str]] = [
    ({"colour": "red"}, "colour", "unknown_field", "Unknown field 'colour'"),
    ({"num_frames": 8}, "num_frames", "unknown_field", "not for this kind"),
    ({"strength": 0.5}, "strength", "unknown_field", "not for this kind"),
    ({"image": "aGVsbG8="}, "image", "unknown_field", "Unknown field"),
    ({"prompt": None}, "prompt", "missing_field", "required"),
    ({"prompt": ""}, "prompt", "invalid_value", "empty"),
    ({"prompt": 7}, "prompt", "invalid_type", "string"),
    ({"prompt": "x" * 8001}, "prompt", "invalid_value", "at most 8000"),
    ({"prompt": "half \ud83d"}, "prompt", "invalid_value", "surrogate"),
    ({"negative_prompt": "x" * 8001}, "negative_prompt", "invalid_value", "at most 8000"),
    ({"n": 0}, "n", "invalid_value", "from 1 to 10"),
    ({"n": 11}, "n", "invalid_value", "from 1 to 10"),
    ({"n": True}, "n", "invalid_type", "whole number"),
    ({"n": 1.5}, "n", "invalid_type", "whole number"),
    ({"n": "2"}, "n", "invalid_type", "whole number"),
    ({"size": "big"}, "size", "invalid_value", "WxH"),
    ({"size": "0x64"}, "size", "invalid_value", "WxH"),
    ({"size": "64x64\n"}, "size", "invalid_value", "WxH"),
    ({"size": "٦٤x٦٤"}, "size", "invalid_value", "WxH"),
    ({"size": "99999x99999"}, "size", "invalid_value", "at most 4194304"),
    ({"num_inference_steps": 0}, "num_inference_steps", "invalid_value", "from 1 to 200"),
    ({"num_inference_steps": 201}, "num_inference_steps", "invalid_value", "from 1 to 200"),
    ({"guidance_scale": -1}, "guidance_scale", "invalid_value", "from 0"),
    ({"seed": -1}, "seed", "invalid_value", "from 0"),
    ({"seed": 2**63}, "seed", "invalid_value", "from 0"),
    ({"seed": 2**63 - 1, "n": 2}, "seed", "invalid_value", "room for 2 seeds"),
    ({"seed": 10**400}, "seed", "invalid_value", "from 0"),
    ({"response_format": "file"}, "response_format", "invalid_value", "b64_json or url"),
    ({"output_format": "gif"}, "output_format", "invalid_value", "png or webp or jpeg"),
    ({"output_format": "mp4"}, "output_format", "invalid_value", "png or webp or jpeg"),
    ({"quality": "hd"}, "quality", "invalid_value", "auto or standard"),
    ({"stream": True}, "stream", "invalid_value", "events"),
    ({"timeout_seconds": 0}, "timeout_seconds", "invalid_value", "more than 0"),
    ({"timeout_seconds": 1e9}, "timeout_seconds", "invalid_value", "at most 600"),
    ({"model_args": 5}, "model_args", "invalid_type", "object"),
    ({"model_args": {"height": 64}}, "model_args.height", "invalid_value", "own field"),
    ({"model_args": {"generator": 1}}, "model_args.generator", "invalid_value", "own field"),
    ({"model_args": {"__class__": 1}}, "model_args.__class__", "invalid_value", "a word"),
    ({"model_args": {"eta": [1]}}, "model_args.eta", "invalid_value", "string, a boolean or a number"),
    ({"model_args": {"eta": 2**63}}, "model_args.eta", "invalid_value", "64 bits"),
    ({"model_args": {f"a{i}": 1 for i in range(65)}}, "model_args", "invalid_value", "at most 64"),
]


async def test_a_wrong_field_is_named(http: httpx.AsyncClient, artist: Artist, subtests: pytest.Subtests) -> None:
    for change, field, code, words in FIELDS:
        with subtests.test(str(change)[:60]):
            body = json.dumps({"prompt": "a red seven", **change}).encode()
            answer = await http.post(GENERATIONS, content=body, headers={"Content-Type": "application/json"})
            error = refusal(answer, 400, code)
            assert error["param"] == field
            assert words in error["message"]
    assert artist.executed == []


BODIES = [
    b"",
    b"{",
    b'{"prompt": "a"',
    b"[]",
    b'"a red seven"',
    b"null",
    b'{"prompt": NaN}',
    b"\xff\xfe\x00",
    b'{"prompt": "\xff"}',
    b"[" * 100_000,
    b'{"seed": ' + b"1" * 5000 + b"}",
]


async def test_what_is_no_json_object_is_refused(
    http: httpx.AsyncClient, artist: Artist, subtests: pytest.Subtests
) -> None:
    for body in BODIES:
        with subtests.test(repr(body[:20])):
            answer = await http.post(GENERATIONS, content=body, headers={"Content-Type": "application/json"})
            assert "JSON" in refusal(answer, 400, "invalid_json")["message"]


async def test_another_content_type_is_refused(http: httpx.AsyncClient, artist: Artist) -> None:
    answer = await http.post(GENERATIONS, content=b"<prompt/>", headers={"Content-Type": "application/xml"})
    assert "application/json" in refusal(answer, 415, "media_type")["message"]
    answer = await http.post(EDITS, content=b"prompt=a", headers={"Content-Type": "application/x-www-form-urlencoded"})
    assert "multipart/form-data" in refusal(answer, 415, "media_type")["message"]


async def test_a_body_announced_as_100_mb_is_refused_before_it_is_sent(http: httpx.AsyncClient, artist: Artist) -> None:
    port = http.base_url.port
    assert port is not None
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        b"POST /v1/images/edits HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        b"Content-Length: 100000000\r\n\r\n"
    )
    status = await asyncio.wait_for(reader.readline(), DEADLINE)
    assert status.startswith(b"HTTP/1.1 413")
    writer.close()


async def test_an_upload_of_100_mb_is_refused_and_the_next_request_served(
    http: httpx.AsyncClient, artist: Artist
) -> None:
    files = {"image": ("in.png", b"\x89PNG\r\n\x1a\n" + bytes(100_000_000), "image/png")}
    answer = await http.post(EDITS, data={"prompt": "blue"}, files=files)
    assert "33554432 bytes" in refusal(answer, 413, "request_too_large")["message"]
    assert (await http.post(GENERATIONS, json={"prompt": "a red seven"})).status_code == 200


async def test_a_body_of_unknown_length_is_cut_off_at_the_limit(http: httpx.AsyncClient, artist: Artist) -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield b'{"prompt": "'
        for _ in range(60):
            yield b"x" * 1_000_000
        yield b'"}'

    headers = {"Content-Type": "application/json"}
    answer = await http.post(GENERATIONS, content=endless(), headers=headers)
    refusal(answer, 413, "request_too_large")


def bomb() -> bytes:
    """A PNG of 30000x30000 pixels in a few hundred bytes, whose header says so."""

    def chunk(name: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(name + data).to_bytes(4, "big")
        return len(data).to_bytes(4, "big") + name + data + checksum

    header = (30_000).to_bytes(4, "big") * 2 + bytes([1, 0, 0, 0, 0])
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


PICTURES = [
    (b"", "is not a PNG, JPEG or WebP"),
    (b"hello", "is not a PNG, JPEG or WebP"),
    (picture("GIF"), "is not a PNG, JPEG or WebP"),
    (picture("BMP"), "is not a PNG, JPEG or WebP"),
    (picture("TIFF"), "is not a PNG, JPEG or WebP"),
    (picture()[: len(picture()) // 2], "broken picture"),
    (picture()[:60] + b"\x00\x01\x02" + picture()[63:], "broken picture"),
    (picture("JPEG")[:300], "broken picture"),
    (picture("WEBP")[:40], "PNG, JPEG or WebP|broken picture"),
    (bomb(), "pixels"),
]


async def test_a_broken_or_foreign_picture_is_refused(
    http: httpx.AsyncClient, artist: Artist, subtests: pytest.Subtests
) -> None:
    for data, words in PICTURES:
        with subtests.test(words, size=len(data)):
            answer = await http.post(EDITS, data={"prompt": "blue"}, files={"image": ("in.png", data, "image/png")})
            error = answer.json()["error"]
            assert (answer.status_code, error["param"]) == (400, "image")
            assert any(word in error["message"] for word in words.split("|")), error
    assert artist.executed == []


FORMS: list[tuple[dict[str, Any], str, str]] = [
    ({"data": {"prompt": "blue"}, "files": {"film": ("a.png", picture())}}, "film", "unknown_field"),
    (
        {"data": {"prompt": "blue"}, "files": {"image": ("a.png", picture()), "video": ("a.mp4", b"")}},
        "video",
        "unknown_field",
    ),
    (
        {"data": {"prompt": "blue"}, "files": [(name, ("a.png", picture())) for name in ("image", "mask", "mask")]},
        "mask",
        "invalid_value",
    ),
    ({"data": {"prompt": "blue", "image": "text"}, "files": {"mask": ("a.png", picture())}}, "image", "invalid_type"),
    ({"data": {"prompt": "blue"}, "files": {"mask": ("a.png", picture())}}, "image", "missing_field"),
    ({"data": {}, "files": {"image": ("a.png", picture())}}, "prompt", "missing_field"),
    ({"data": {"prompt": ["a", "b"]}, "files": {"image": ("a.png", picture())}}, "prompt", "invalid_value"),
    ({"data": {"prompt": "a", "n": "two"}, "files": {"image": ("a.png", picture())}}, "n", "invalid_type"),
    ({"data": {"prompt": "a", "strength": "2"}, "files": {"image": ("a.png", picture())}}, "strength", "invalid_value"),
    (
        {"data": {"prompt": "a", "model_args": "{"}, "files": {"image": ("a.png", picture())}},
        "model_args",
        "invalid_value",
    ),
]


async def test_a_wrong_form_is_refused(http: httpx.AsyncClient, artist: Artist, subtests: pytest.Subtests) -> None:
    for form, field, code in FORMS:
        with subtests.test(f"{field} {code}"):
            assert refusal(await http.post(EDITS, **form), 400, code)["param"] == field


async def test_what_is_no_video_is_refused(http: httpx.AsyncClient, artist: Artist, subtests: pytest.Subtests) -> None:
    playlist = b"#EXTM3U\nhttp://127.0.0.1/secret\n"
    for data in (b"", b"ftyp", b"hello, this is no video", picture(), playlist):
        with subtests.test(data[:20]):
            answer = await http.post("/v1/videos", data={"prompt": "turn"}, files={"video": ("a.mp4", data)})
            error = refusal(answer, 400, "invalid_video")
            assert (error["param"], error["message"]) == ("video", "File 'video' is not an MP4 or GIF video")
    many = [("reference_images", ("a.png", picture()))] * 11
    answer = await http.post("/v1/videos", data={"prompt": "turn"}, files=many)
    assert "Maximum number of files is 10" in refusal(answer, 400, "invalid_form")["message"]
    assert artist.executed == []


async def test_a_form_that_is_none_is_refused(http: httpx.AsyncClient, artist: Artist) -> None:
    for content_type in ("multipart/form-data", "multipart/form-data; boundary=x", "multipart/form-data; boundary="):
        answer = await http.post(EDITS, content=b"hello", headers={"Content-Type": content_type})
        assert answer.status_code == 400, answer.text
    refusal(await http.post(EDITS, json={"prompt": "blue"}), 400, "missing_field")


async def test_unknown_paths_methods_and_parameters_are_refused_in_the_same_form(
    http: httpx.AsyncClient, artist: Artist
) -> None:
    refusal(await http.get("/v1/chat/completions"), 404, "unknown_url")
    refusal(await http.get(GENERATIONS), 405, "method_not_allowed")
    assert refusal(await http.get("/v1/jobs?limit=many"), 400, "invalid_value")["param"] == "limit"
    assert refusal(await http.get("/v1/videos?order=up"), 400, "invalid_value")["param"] == "order"
    for path in ("/v1/jobs/nobody", "/v1/jobs/nobody/events", "/v1/videos/nobody", "/v1/videos/nobody/content"):
        refusal(await http.get(path), 404, "not_found")
    refusal(await http.delete("/v1/jobs/no%00body"), 404, "not_found")


async def test_files_are_reached_by_their_keys_alone(http: httpx.AsyncClient, artist: Artist) -> None:
    body = {"prompt": "blue"}
    await http.post(EDITS, data=body, files={"image": ("in.png", picture(), "image/png")})
    private = artist.executed[0].parameters.inputs[0].key
    for key in (
        private,
        f"jobs/%2e%2e/{private}",
        "jobs/a/%2e%2e/%2e%2e/jobs.db",
        "%2fetc/passwd",
        "jobs/nobody/0.png",
    ):
        refusal(await http.get(f"/v1/files/{key}"), 404, "not_found")


async def test_a_refused_request_leaves_no_file_behind(start_router: Start) -> None:
    router = await start_router(max_queued_requests=1)
    artist = await Artist(router.target).attach()
    artist.work()
    artist.allowed.clear()
    async with httpx.AsyncClient(base_url=router.url, timeout=20) as http:
        form = {"data": {"prompt": "blue"}, "files": {"image": ("in.png", picture(), "image/png")}}
        refused = None
        for _ in range(10):
            refused = await http.post("/v1/jobs", **form)
            if refused.status_code != 202:
                break
        assert refused is not None
        refusal(refused, 429, "queue_full")
        waiting = (await http.get("/v1/jobs")).json()["data"]
        inputs = router.settings.data_dir / "artifacts" / "inputs"
        await until(lambda: len(list(inputs.iterdir())) == len(waiting))
    await artist.cut()


async def test_a_full_queue_says_when_to_come_back(start_router: Start) -> None:
    router = await start_router(max_queued_requests=2)
    async with httpx.AsyncClient(base_url=router.url, timeout=20) as http:
        body = {"prompt": "a red seven", "output_format": "png"}
        assert (await http.post("/v1/jobs", json={**body, "n": 2})).status_code == 202
        answer = await http.post(GENERATIONS, json=body)
        error = refusal(answer, 429, "queue_full")
        assert error["type"] == "rate_limit_error"
        assert int(answer.headers["retry-after"]) >= 1
        assert f"{answer.headers['retry-after']} s" in error["message"]
        assert (await http.post("/v1/jobs", json={**body, "n": 3})).status_code == 429


async def test_before_any_worker_is_there_what_depends_on_it_is_put_off(http: httpx.AsyncClient) -> None:
    answer = await http.post(GENERATIONS, json={"prompt": "a", "model": "scripted"})
    refusal(answer, 503, "no_workers")
    assert answer.headers["retry-after"] == "2"
    assert (await http.get("/readyz")).status_code == 503
    assert (await http.get("/healthz")).status_code == 200
