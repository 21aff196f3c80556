"""The API server: requests with a deadline, answers as plain dicts, errors that say what to do next.

Configuration and connections are those of `kubernetes.aio`; its models are not used. They are strict about data that
the operator only passes on, and its dynamic client asks the server for every kind before it can name one.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config

from diffusion_operator.cluster.kinds import Kind, Object

FIELD_MANAGER: Final = "diffusion-operator"
REQUEST_SECONDS: Final = 30.0
CONNECT_SECONDS: Final = 5.0
# The server sends a bookmark a minute: nothing for longer than that, and the stream is dead.
SILENCE_SECONDS: Final = 90.0
PAGE: Final = 250
_CONNECTIONS: Final = 64
_MESSAGE_CHARACTERS: Final = 1000

Answered = Callable[[str, str, float], None]
"""Told of every answer: HTTP method, status code (`<error>` if none came), seconds."""


class ApiError(Exception):
    """The API server answered no. `status` is the HTTP status, `reason` Kubernetes' word for it."""

    def __init__(self, what: str, status: int, reason: str, message: str, retry_after: float | None) -> None:
        super().__init__(f"{what}: {message or reason or status}")
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after = retry_after
        """Seconds that the server asked to wait."""

    @property
    def transient(self) -> bool:
        """The same request may succeed later."""
        return self.status == 429 or self.status >= 500


class Unreachable(Exception):
    """No answer came: the API server is down, cut off or too slow."""


@dataclass(frozen=True)
class WatchEvent:
    type: str
    """ADDED, MODIFIED, DELETED or BOOKMARK."""
    object: Object


@dataclass(frozen=True)
class Page:
    items: list[Object]
    version: str
    """The collection's resourceVersion; of use once the last page is there."""


class Cluster:
    """One API server. Use as a context manager."""

    def __init__(self, configuration: Configuration, answered: Answered = lambda method, code, seconds: None) -> None:
        # Since Python 3.13 certificates are held to rules that many clusters' own authorities do not keep.
        configuration.disable_strict_ssl_verification = True
        configuration.connection_pool_maxsize = _CONNECTIONS
        configuration.retries = False
        self.configuration = configuration
        self._client = ApiClient(configuration)
        self._answered = answered

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._client.close()

    async def get(self, kind: Kind, namespace: str | None, name: str) -> Object:
        """Raises ApiError (404 if there is none), Unreachable."""
        return await self._request("GET", kind.path(namespace, name))

    async def pages(
        self, kind: Kind, namespace: str | None, *, label_selector: str = "", field_selector: str = ""
    ) -> AsyncIterator[Page]:
        """All objects, a page at a time. Raises ApiError (410 if the pages took too long), Unreachable."""
        query = {"limit": str(PAGE), **_selectors(label_selector, field_selector)}
        while True:
            answer = await self._request("GET", kind.path(namespace), query)
            metadata = answer.get("metadata", {})
            items = answer.get("items") or []
            for item in items:
                # Items of a list lack what the list says once.
                item.setdefault("apiVersion", kind.api_version)
                item.setdefault("kind", kind.kind)
            yield Page(items, metadata.get("resourceVersion", ""))
            if not metadata.get("continue"):
                return
            query["continue"] = metadata["continue"]

    async def watch(
        self,
        kind: Kind,
        namespace: str | None,
        since: str,
        *,
        seconds: int,
        label_selector: str = "",
        field_selector: str = "",
        opened: Callable[[], None] = lambda: None,
    ) -> AsyncIterator[WatchEvent]:
        """Changes after resourceVersion `since`, until the server ends the stream (after `seconds` at the latest).

        `opened` is called once the server has agreed, which may be long before the first change.
        Raises ApiError (410: `since` is too old, list again), Unreachable.
        """
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": since,
            "timeoutSeconds": str(seconds),
            **_selectors(label_selector, field_selector),
        }
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS)
        path = kind.path(namespace)
        response = await self._send("GET", path, query, timeout=timeout, method="WATCH")
        try:
            await _raise_for_status(f"watch {kind.plural}", response)
            opened()
            async for line in response.content:
                event = json.loads(line)
                if event["type"] == "ERROR":
                    raise _error(f"watch {kind.plural}", event["object"].get("code", 500), event["object"], None)
                yield WatchEvent(event["type"], event["object"])
        # ValueError: no JSON, or a line longer than the buffer.
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise Unreachable(f"watch {kind.plural}: {_text(error)}") from error
        finally:
            response.close()

    async def apply(self, kind: Kind, item: Mapping[str, Any]) -> Object:
        """Server-side apply: the fields of `item` become so, and ours, whoever set them before.

        Raises ApiError, Unreachable.
        """
        metadata = item["metadata"]
        return await self._apply(kind.path(metadata["namespace"], metadata["name"]), item)

    async def apply_status(self, kind: Kind, namespace: str, name: str, uid: str, status: Mapping[str, Any]) -> Object:
        """Server-side apply of the status of this very object.

        Raises ApiError (404 if it is gone, 409 if another has its name now), Unreachable.
        """
        metadata = {"name": name, "namespace": namespace, "uid": uid}
        item = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata, "status": status}
        return await self._apply(kind.path(namespace, name, "status"), item)

    async def create(self, kind: Kind, item: Mapping[str, Any]) -> Object:
        """Raises ApiError (409 if there is one already), Unreachable."""
        path = kind.path(item["metadata"]["namespace"])
        return await self._request("POST", path, {"fieldManager": FIELD_MANAGER}, item)

    async def replace(self, kind: Kind, item: Mapping[str, Any]) -> Object:
        """Raises ApiError (409 if it changed since it was read), Unreachable."""
        metadata = item["metadata"]
        return await self._request("PUT", kind.path(metadata["namespace"], metadata["name"]), body=item)

    async def merge(self, kind: Kind, namespace: str, name: str, patch: Mapping[str, Any]) -> Object:
        """JSON merge patch. Raises ApiError, Unreachable."""
        path = kind.path(namespace, name)
        query = {"fieldManager": FIELD_MANAGER}
        return await self._request("PATCH", path, query, patch, content="application/merge-patch+json")

    async def delete(self, kind: Kind, namespace: str, name: str, uid: str, *, orphan: bool = False) -> None:
        """This very object, or nothing: one made anew under its name stays. orphan: what it owns stays, without it.

        Raises ApiError, Unreachable.
        """
        body = {"preconditions": {"uid": uid}, "propagationPolicy": "Orphan" if orphan else "Background"}
        try:
            await self._request("DELETE", kind.path(namespace, name), body=body)
        except ApiError as error:
            if error.status not in {404, 409}:
                raise

    async def _apply(self, path: str, item: Mapping[str, Any]) -> Object:
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        return await self._request("PATCH", path, query, item, content="application/apply-patch+yaml")

    async def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content: str = "application/json",
    ) -> Object:
        timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS, sock_connect=CONNECT_SECONDS)
        what = f"{method} {path}"
        response = await self._send(method, path, query or {}, body, content, timeout=timeout)
        try:
            await _raise_for_status(what, response)
            answer: Object = json.loads(await response.read())
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise Unreachable(f"{what}: {_text(error)}") from error
        finally:
            response.release()
        return answer

    async def _send(
        self,
        verb: str,
        path: str,
        query: Mapping[str, str],
        body: Mapping[str, Any] | None = None,
        content: str = "application/json",
        *,
        timeout: aiohttp.ClientTimeout,
        method: str | None = None,
    ) -> aiohttp.ClientResponse:
        url = self.configuration.host + path + (f"?{urlencode(query)}" if query else "")
        headers = {"Accept": "application/json", "Content-Type": content, "User-Agent": FIELD_MANAGER}
        if token := await self.configuration.get_api_key_with_prefix("BearerToken"):
            headers["Authorization"] = token
        began = time.monotonic()
        code = "<error>"
        try:
            answer = await self._client.call_api(verb, url, headers, body, _request_timeout=timeout)
            code = str(answer.status)
            response: aiohttp.ClientResponse = answer.response
            return response
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unreachable(f"{verb} {path}: {_text(error)}") from error
        finally:
            self._answered(method or verb, code, time.monotonic() - began)


async def load_configuration(kubeconfig: Path | None) -> Configuration:
    """Of `kubeconfig`; else of this pod, or the user's own. Raises ConnectionError, which says what is missing."""
    if kubeconfig is not None and not kubeconfig.is_file():
        raise ConnectionError(f"--kubeconfig {kubeconfig}: there is no such file")
    configuration = Configuration()
    try:
        if kubeconfig is not None:
            await load_kube_config(config_file=str(kubeconfig), client_configuration=configuration)
        else:
            try:
                load_incluster_config(client_configuration=configuration)
            except ConfigException:
                await load_kube_config(client_configuration=configuration)
    except (ConfigException, OSError) as error:
        raise ConnectionError(
            f"no API server to talk to ({error}): run in a pod with a service account, or give --kubeconfig"
        ) from None
    return configuration


async def _raise_for_status(what: str, response: aiohttp.ClientResponse) -> None:
    if response.status < 400:
        return
    text = await response.read()
    try:
        status = json.loads(text)
    except ValueError:
        status = {"message": text.decode(errors="replace")}
    if not isinstance(status, dict):
        status = {}
    raise _error(what, response.status, status, response.headers.get("Retry-After"))


def _error(what: str, code: int, status: Mapping[str, Any], retry_after: str | None) -> ApiError:
    seconds = retry_after or (status.get("details") or {}).get("retryAfterSeconds")
    try:
        wait = float(seconds) if seconds else None
    except ValueError:
        wait = None
    message = str(status.get("message", ""))[:_MESSAGE_CHARACTERS]
    return ApiError(what, code, str(status.get("reason", "")), message, wait)


def _selectors(labels: str, fields: str) -> dict[str, str]:
    return {name: value for name, value in (("labelSelector", labels), ("fieldSelector", fields)) if value}


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__
