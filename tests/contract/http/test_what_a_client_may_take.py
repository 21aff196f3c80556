"""Bytes and time of heads, bodies and idle connections; who half-closes; who hangs up."""

from __future__ import annotations

import contextlib
import socket

import pytest

from contract.http.conftest import DEADLINE, Client, Serve
from testbed.waiting import until

HEAD = b"GET /x HTTP/1.1\r\nHost: x\r\n"
SHORT = 0.3


def pour(client: Client, piece: bytes, nbytes: int) -> None:
    """Until all is sent, or the server takes no more."""
    with contextlib.suppress(ConnectionError):
        for _ in range(nbytes // len(piece)):
            client.send(piece)


@pytest.mark.parametrize(
    ("begin", "piece"),
    [
        (HEAD + b"X: ", b"x" * 4096),
        (HEAD, b"X: y\r\n" * 512),
        (b"GET /", b"x" * 4096),
        (b"GET / HTTP/1.1\r\n", b"x" * 4096),
    ],
    ids=["one long header", "many headers", "a long path", "a long name"],
)
def test_a_head_that_is_too_large_is_answered_431(serve: Serve, begin: bytes, piece: bytes) -> None:
    site = serve(header_bytes=16 << 10)
    client = site.client()
    client.send(begin)
    pour(client, piece, 1 << 20)
    answer = client.answer()
    assert (answer.status, answer.code) == (431, "headers_too_large")
    assert b"16384 bytes" in answer.body
    assert client.ended


def test_a_head_within_the_bound_is_served(serve: Serve) -> None:
    client = serve(header_bytes=16 << 10).client()
    for _ in range(3):
        client.ask("/x", "X: " + "x" * 15_000)
        assert client.answer().body == b"/x"


def test_trailers_without_end_are_hung_up_on(serve: Serve) -> None:
    site = serve(header_bytes=16 << 10)
    client = site.client()
    client.ask("/hold", "Transfer-Encoding: chunked", method="POST")
    site.holding(1)
    client.send(b"1\r\nx\r\n0\r\nX: ")
    pour(client, b"x" * 4096, 1 << 20)
    assert client.ended
    until(lambda: site.gone == 1, DEADLINE, "the application is told")


def test_a_head_that_does_not_arrive_is_answered_408(serve: Serve) -> None:
    client = serve(header_seconds=SHORT).client()
    client.send(HEAD)
    answer = client.answer()
    assert (answer.status, answer.code) == (408, "timeout")
    assert client.ended


def test_who_says_nothing_is_hung_up_on(serve: Serve) -> None:
    assert serve(header_seconds=SHORT).client().ended


def test_an_idle_connection_is_closed(serve: Serve) -> None:
    client = serve(idle_seconds=SHORT).client()
    assert client.get("/x").status == 200
    assert client.ended


def test_empty_lines_do_not_keep_a_connection(serve: Serve) -> None:
    site = serve(header_seconds=SHORT, idle_seconds=SHORT)
    client = site.client()
    assert client.get("/x").status == 200

    def closed() -> bool:
        try:
            client.send(b"\r\n")
        except ConnectionError:
            return True
        return False

    until(closed, DEADLINE, "the server has hung up")


def test_the_rest_of_a_body_is_dropped_for_a_bounded_time(serve: Serve) -> None:
    client = serve(body_seconds=SHORT).client()
    client.ask("/x", "Content-Length: 1000000", method="POST")
    assert client.answer().body == b"/x"
    client.send(b"x" * 100_000)
    assert client.ended


def test_after_the_rest_of_a_body_the_connection_serves_on(serve: Serve) -> None:
    client = serve().client()
    client.ask("/x", "Content-Length: 1000000", method="POST")
    assert client.answer().body == b"/x"
    client.send(b"x" * 1_000_000)
    assert client.get("/y").body == b"/y"


def test_what_is_no_http_is_refused_in_the_same_form(serve: Serve) -> None:
    client = serve().client()
    client.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
    answer = client.answer()
    assert (answer.status, answer.code) == (400, "invalid_http")
    assert client.ended


def test_requests_in_a_row_are_answered_in_order_but_not_without_end(serve: Serve) -> None:
    site = serve()
    client = site.client()
    client.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % number for number in range(5)))
    assert [client.answer().body for _ in range(5)] == [b"/%d" % number for number in range(5)]
    client.ask("/hold")
    site.holding(1)
    pour(client, HEAD + b"\r\n", 1 << 20)
    assert client.ended
    until(lambda: site.gone == 1, DEADLINE, "the application is told")


def test_a_web_socket_is_none_here(serve: Serve) -> None:
    client = serve().client()
    upgrade = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: eHh4", "Sec-WebSocket-Version: 13")
    client.ask("/x", *upgrade)
    assert client.answer().body == b"/x"


def test_a_client_that_will_ask_no_more_gets_its_answer(serve: Serve) -> None:
    site = serve()
    client = site.client()
    client.ask("/hold", "Content-Length: 5", method="POST")
    client.send(b"hello")
    client.socket.shutdown(socket.SHUT_WR)
    site.holding(1)
    # Long enough for the server to ask whether it is still there.
    until(lambda: client.socket.recv(1, socket.MSG_PEEK), DEADLINE, "an interim answer has come")
    site.release()
    assert client.answer().body == b"held"
    assert client.ended


def test_a_client_that_hangs_up_is_noticed(serve: Serve) -> None:
    site = serve()
    client = site.client()
    client.ask("/hold")
    site.holding(1)
    client.close()
    until(lambda: site.gone == 1, DEADLINE, "the application is told")


def test_a_client_that_hangs_up_in_its_body_is_noticed(serve: Serve) -> None:
    site = serve()
    client = site.client()
    client.ask("/hold", "Content-Length: 5", method="POST")
    site.holding(1)
    client.socket.shutdown(socket.SHUT_WR)
    until(lambda: site.gone == 1, DEADLINE, "the application is told")
    assert client.ended
