"""Requests to the API server as a test makes them: by path, with dicts, in a millisecond where kubectl takes 100."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx

from testbed.controlplane.authority import Certificate

JSON = dict[str, Any]


class Refused(Exception):
    """The API server said no: with which code, reason and words."""

    def __init__(self, answer: httpx.Response) -> None:
        try:
            status = answer.json()
        except ValueError:
            status = {"message": answer.text}
        self.code = answer.status_code
        self.reason: str = status.get("reason", "")
        self.message: str = status.get("message", "")
        super().__init__(f"{answer.request.method} {answer.request.url.path}: {self.code} {self.message}")


class Client:
    """Raises Refused, and httpx.TransportError where no answer comes."""

    def __init__(self, url: str, authority: Path, certificate: Certificate) -> None:
        tls = ssl.create_default_context(cafile=authority)
        tls.load_cert_chain(certificate.file, certificate.key)
        # The environment may name proxies and certificates of its own.
        self._http = httpx.Client(base_url=url, verify=tls, timeout=30, trust_env=False)

    def close(self) -> None:
        self._http.close()

    def exists(self, path: str) -> bool:
        """Whether a GET is answered 200; False too while there is no server."""
        try:
            return self._http.get(path).status_code == 200
        except httpx.TransportError:
            return False

    def get(self, path: str, **query: str) -> JSON:
        return self._answer("GET", path, params=query)

    def items(self, path: str, **query: str) -> list[JSON]:
        found: list[JSON] = self.get(path, **query)["items"]
        return found

    def watch(self, path: str, **query: str) -> Iterator[JSON]:
        """Events until the server ends the stream."""
        with self._http.stream("GET", path, params={"watch": "true", **query}, timeout=None) as answer:
            if answer.is_error:
                answer.read()
                raise Refused(answer)
            yield from map(json.loads, answer.iter_lines())

    def post(self, path: str, body: Mapping[str, Any], **query: str) -> JSON:
        return self._answer("POST", path, params=query, json=body)

    def put(self, path: str, body: Mapping[str, Any], **query: str) -> JSON:
        return self._answer("PUT", path, params=query, json=body)

    def patch(self, path: str, body: Mapping[str, Any], **query: str) -> JSON:
        """A merge patch."""
        headers = {"Content-Type": "application/merge-patch+json"}
        return self._answer("PATCH", path, params=query, json=body, headers=headers)

    def apply(self, path: str, body: Mapping[str, Any], manager: str = "test", **query: str) -> JSON:
        """Server-side apply."""
        headers = {"Content-Type": "application/apply-patch+yaml"}
        query = {"fieldManager": manager, "force": "true", **query}
        return self._answer("PATCH", path, params=query, json=body, headers=headers)

    def delete(self, path: str, **query: str) -> JSON:
        return self._answer("DELETE", path, params=query)

    def _answer(self, method: str, path: str, **request: Any) -> JSON:
        answer = self._http.request(method, path, **request)
        if answer.is_error:
            raise Refused(answer)
        found: JSON = answer.json()
        return found
