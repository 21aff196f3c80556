"""A model hub played by a local server: repositories at commits, as the Hugging Face hub serves them.

Small files come from the hub itself, behind a redirect that stays on it; large ones (all weights) are redirected to
another host, where ranges are served and no token belongs. It counts what it sends, by file and by who asked, and makes
faults on demand: refusals with any status and header, and connections that are cut in the middle of a file.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import re
import socket
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

LARGE_SUFFIXES: Final = (".safetensors", ".bin", ".ckpt", ".msgpack", ".onnx")
PIECE_BYTES: Final = 1 << 14
ROLE_IN_AGENT: Final = re.compile(r"\brole/([\w+]+)")
RANGE: Final = re.compile(r"bytes=(\d+)-(\d*)$")


@dataclass(frozen=True)
class Repository:
    """What is in `folder`, as one commit that branch `main` points to."""

    id: str
    folder: Path
    token: str = ""
    """Who does not bring it gets nothing."""
    gated: bool = False
    """Its terms are to be accepted: whoever has another token is refused."""

    @cached_property
    def files(self) -> Mapping[str, Path]:
        found = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return {path.relative_to(self.folder).as_posix(): path for path in found}

    @cached_property
    def commit(self) -> str:
        digest = hashlib.sha1(self.id.encode())
        for name in self.files:
            digest.update(f"{name}\0{self.digest(name)}\n".encode())
        return digest.hexdigest()

    @cached_property
    def _digests(self) -> Mapping[str, str]:
        found: dict[str, str] = {}
        for name, path in self.files.items():
            data = path.read_bytes()
            if self.is_large(name):
                found[name] = hashlib.sha256(data).hexdigest()
            else:
                found[name] = hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()
        return found

    def digest(self, name: str) -> str:
        """sha256 of a large file, git's own of another: what the hub gives as its ETag."""
        return self._digests[name]

    def is_large(self, name: str) -> bool:
        return name.endswith(LARGE_SUFFIXES)

    def size(self, name: str) -> int:
        return self.files[name].stat().st_size


@dataclass
class Fault:
    """What befalls requests for paths that match `pattern`, `times` times."""

    pattern: str
    times: int
    status: int = 0
    """Refused with this status; 0: cut after `after` bytes."""
    headers: Mapping[str, str] = field(default_factory=dict)
    after: int = 0
    method: str = ""
    """GET or HEAD; empty: either."""


@dataclass(frozen=True)
class Asked:
    """One request."""

    method: str
    path: str
    who: str
    range: str
    status: int
    authorized: bool


class ModelHub:
    """The hub. Its `endpoint` is what HF_ENDPOINT is set to."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self._repositories: dict[str, Repository] = {}
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._held: dict[str, threading.Event] = {}
        self.reached = threading.Event()
        """Whether a request has come to where the hub holds."""
        self.requests: list[Asked] = []
        self.sent: Counter[tuple[str, str]] = Counter()
        """Bytes of bodies of files by (who asked, file)."""
        hub = self

        class Handler(_Handler):
            played = hub

        self._server = _Server((host, 0), Handler)
        self.port = self._server.server_address[1]
        self.endpoint = f"http://{host}:{self.port}"
        self.storage = f"http://localhost:{self.port}" if host == "127.0.0.1" else ""
        """Where large files lie: another host, as far as anyone can tell by its name. Empty: the hub has them itself,
        as an address that others reach has no second name."""

    def add(self, id: str, folder: Path, *, token: str = "", gated: bool = False) -> Repository:
        """Serves a folder. A later one of the same id is another commit."""
        made = Repository(id, folder, token, gated)
        with self._lock:
            self._repositories[id] = made
        return made

    def refuse(self, pattern: str, status: int, *, times: int = 1, method: str = "", **headers: str) -> None:
        """Answers with `status` and `headers` (retry_after is Retry-After)."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        with self._lock:
            self._faults.append(Fault(pattern, times, status=status, headers=named, method=method))

    def cut(self, pattern: str, *, after: int, times: int = 1) -> None:
        """Closes the connection once `after` bytes of a file's body have been sent."""
        with self._lock:
            self._faults.append(Fault(pattern, times, after=after, method="GET"))

    @contextmanager
    def hold(self, name: str) -> Iterator[None]:
        """Within it bodies of this file come to their middle and no further."""
        gate = threading.Event()
        with self._lock:
            self._held[name] = gate
        try:
            yield
        finally:
            gate.set()
            with self._lock:
                del self._held[name]

    def bytes_sent(self, who: str | None = None, pattern: str = "*") -> int:
        """Of files that match, to those who said that they are `who`."""
        with self._lock:
            return sum(
                count
                for (asker, name), count in self.sent.items()
                if fnmatch.fnmatchcase(name, pattern) and who in (None, asker)
            )

    def files_sent(self, who: str | None = None) -> set[str]:
        with self._lock:
            return {name for (asker, name), count in self.sent.items() if count and who in (None, asker)}

    def asked(self, pattern: str = "*", method: str = "") -> list[Asked]:
        """Requests so far whose path matches."""
        with self._lock:
            return [
                one for one in self.requests if fnmatch.fnmatchcase(one.path, pattern) and method in ("", one.method)
            ]

    def forget(self) -> None:
        """Counts from here on."""
        with self._lock:
            self.requests.clear()
            self.sent.clear()
        self.reached.clear()

    def start(self) -> None:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), name="model hub", daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    # For its handlers.

    def repository(self, id: str) -> Repository | None:
        with self._lock:
            return self._repositories.get(id)

    def fault(self, method: str, path: str) -> Fault | None:
        with self._lock:
            for one in self._faults:
                if one.times and fnmatch.fnmatchcase(path, one.pattern) and one.method in ("", method):
                    one.times -= 1
                    return one
        return None

    def gate(self, name: str) -> threading.Event | None:
        with self._lock:
            return self._held.get(name)

    def note(self, asked: Asked) -> None:
        with self._lock:
            self.requests.append(asked)

    def count(self, who: str, name: str, nbytes: int) -> None:
        with self._lock:
            self.sent[who, name] += nbytes


@contextmanager
def playing(host: str = "127.0.0.1") -> Iterator[ModelHub]:
    """A hub without repositories at an address of this machine, until the context is left."""
    hub = ModelHub(host)
    hub.start()
    try:
        yield hub
    finally:
        hub.stop()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no fault of the hub's."""


class _Handler(BaseHTTPRequestHandler):
    played: ModelHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    @property
    def _who(self) -> str:
        found = ROLE_IN_AGENT.search(self.headers.get("User-Agent", ""))
        return found[1] if found else "unknown"

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        fault = self.played.fault(self.command, path)
        if fault is not None and fault.status:
            self._refuse(fault.status, dict(fault.headers))
            return
        cut = fault.after if fault is not None else None
        if found := re.fullmatch(r"/storage/([^/]+/[^/]+)/(.+)", path):
            repository = self.played.repository(found[1])
            assert repository is not None
            self._send_file(repository, found[2], cut, {})
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/(revision|tree)/([^/]+)", path):
            if repository := self._allowed(found[1], found[3]):
                self._send_json(_info(repository) if found[2] == "revision" else _tree(repository))
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)", path):
            if repository := self._allowed(found[1], "main"):
                self._send_json(_info(repository))
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            if repository := self._allowed(found[1], found[2]):
                self._resolve(repository, found[3])
        elif found := re.fullmatch(r"/api/resolve-cache/models/([^/]+/[^/]+)/([^/]+)/(.+)", path):
            if repository := self._allowed(found[1], found[2]):
                self._send_file(repository, found[3], cut, _of_commit(repository, found[3]))
        else:
            self._refuse(404, {})

    def _allowed(self, id: str, revision: str) -> Repository | None:
        """The repository, if whoever asks may have it and it has this revision."""
        repository, brought = self.played.repository(id), self.headers.get("Authorization", "")
        if repository is None:
            # The hub tells a stranger neither what there is nor what there isn't.
            self._refuse(404 if brought else 401, {"X-Error-Code": "RepoNotFound"})
            return None
        if repository.token and brought != f"Bearer {repository.token}":
            code = {"X-Error-Code": "GatedRepo"} if repository.gated else {}
            message = {"X-Error-Message": "Invalid credentials in Authorization header"}
            self._refuse(403 if brought and repository.gated else 401, code or (message if brought else {}))
            return None
        if revision not in ("main", repository.commit):
            self._refuse(404, {"X-Error-Code": "RevisionNotFound"})
            return None
        return repository

    def _resolve(self, repository: Repository, name: str) -> None:
        if name not in repository.files:
            self._refuse(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": repository.commit})
            return
        headers = {"X-Repo-Commit": repository.commit, "Content-Length": "0"}
        if repository.is_large(name) and self.played.storage:
            headers["X-Linked-Size"] = str(repository.size(name))
            headers["X-Linked-ETag"] = f'"{repository.digest(name)}"'
            headers["Location"] = f"{self.played.storage}/storage/{repository.id}/{name}?signature=secret-of-the-store"
            self._head(302, headers)
        else:
            headers["Location"] = f"/api/resolve-cache/models/{repository.id}/{repository.commit}/{name}"
            self._head(307, headers)

    def _send_file(self, repository: Repository, name: str, cut: int | None, headers: dict[str, str]) -> None:
        data = repository.files[name].read_bytes()
        begin = 0
        wanted = RANGE.search(self.headers.get("Range", ""))
        if wanted is not None:
            begin = int(wanted[1])
            end = int(wanted[2]) if wanted[2] else len(data) - 1
            headers["Content-Range"] = f"bytes {begin}-{end}/{len(data)}"
            data = data[begin : end + 1]
        headers |= {"ETag": f'"{repository.digest(name)}"', "Content-Length": str(len(data)), "Accept-Ranges": "bytes"}
        self._head(200 if wanted is None else 206, headers)
        if self.command == "HEAD":
            return
        gate, half = self.played.gate(name), len(data) // 2
        for at in range(0, len(data), PIECE_BYTES):
            piece = data[at : at + PIECE_BYTES]
            if cut is not None and at + len(piece) > cut:
                self._write(name, piece[: cut - at])
                # Not the end that HTTP has for a body: what is missing is missing.
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
                return
            if gate is not None and at + len(piece) > half:
                self._write(name, piece[: max(0, half - at)])
                piece = piece[max(0, half - at) :]
                self.played.reached.set()
                gate.wait()
                gate = None
            self._write(name, piece)

    def _write(self, name: str, piece: bytes) -> None:
        self.wfile.write(piece)
        self.wfile.flush()
        self.played.count(self._who, name, len(piece))

    def _send_json(self, value: object) -> None:
        body = json.dumps(value).encode()
        self._head(200, {"Content-Type": "application/json", "Content-Length": str(len(body))})
        if self.command == "GET":
            self.wfile.write(body)

    def _refuse(self, status: int, headers: dict[str, str]) -> None:
        self._head(status, {**headers, "Content-Length": "0"})

    def _head(self, status: int, headers: Mapping[str, str]) -> None:
        authorized = "Authorization" in self.headers
        path = unquote(urlsplit(self.path).path)
        asked = Asked(self.command, path, self._who, self.headers.get("Range", ""), status, authorized)
        self.played.note(asked)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


def _of_commit(repository: Repository, name: str) -> dict[str, str]:
    return {"X-Repo-Commit": repository.commit, "X-Linked-ETag": f'"{repository.digest(name)}"'}


def _info(repository: Repository) -> dict[str, Any]:
    return {
        "_id": "0",
        "id": repository.id,
        "modelId": repository.id,
        "sha": repository.commit,
        "private": bool(repository.token),
        "gated": "manual" if repository.gated else False,
        "disabled": False,
        "tags": [],
        "siblings": [{"rfilename": name} for name in repository.files],
    }


def _tree(repository: Repository) -> list[dict[str, Any]]:
    entries = []
    for name in repository.files:
        size, digest = repository.size(name), repository.digest(name)
        entry: dict[str, Any] = {"type": "file", "path": name, "size": size, "oid": digest[:40]}
        if repository.is_large(name):
            entry["lfs"] = {"oid": digest, "size": size, "pointerSize": 134}
        entries.append(entry)
    return entries
