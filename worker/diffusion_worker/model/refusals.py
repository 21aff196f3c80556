"""Why a hub does not give a model, in words: which field of the resource says so, and what helps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

import httpx2
from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from diffusion_worker.model.patience import RATE_LIMITED, GaveUp

_PASSING: Final = (httpx2.TransportError, TimeoutError, ConnectionError)
_XET: Final = "hf_xet"


@dataclass(frozen=True)
class Wanted:
    """What was asked for, and how."""

    id: str
    revision: str
    endpoint: str
    has_token: bool


def explain(error: BaseException, wanted: Wanted) -> str | None:
    """What is wrong, by field, with its remedy; None: it is none of the hub's doing."""
    for one in _chain(error):
        if isinstance(one, GaveUp):
            return _gave_up(one)
        if isinstance(one, HfHubHTTPError):
            return _refused(one, wanted)
    if is_passing(error):
        return f"model.id: the hub at {wanted.endpoint} breaks off again and again: {_line(error)}"
    return None


def is_passing(error: BaseException) -> bool:
    """Whether trying again may help: a broken connection, a file that is not whole."""
    for one in _chain(error):
        if isinstance(one, GaveUp | HfHubHTTPError):
            return False
        if isinstance(one, _PASSING) or type(one).__module__.split(".")[0] == _XET:
            return True
        if isinstance(one, OSError) and one.errno is None and "Consistency check failed" in str(one):
            return True
    return False


def is_about_space(error: BaseException) -> bool:
    """Whether a disk is full."""
    return "no space left" in str(error).lower()


def _refused(error: HfHubHTTPError, wanted: Wanted) -> str:
    status = error.response.status_code
    page = f"{wanted.endpoint}/{wanted.id}"
    if isinstance(error, RevisionNotFoundError):
        return (
            f"model.revision: repository {wanted.id} of the hub has no branch, tag or commit "
            f"{wanted.revision or 'main'!r} ({status}): name one that it has"
        )
    if isinstance(error, DisabledRepoError):
        return f"model.id: the hub has disabled repository {wanted.id} ({status}): take another"
    if isinstance(error, GatedRepoError) or status == HTTPStatus.FORBIDDEN:
        if not wanted.has_token:
            return (
                f"model.tokenSecretRef: repository {wanted.id} is gated ({status}): accept its terms at {page}, and "
                f"name a secret with a token of whoever accepted them"
            )
        return (
            f"model.tokenSecretRef: the token's owner may not read repository {wanted.id} of the hub ({status}): "
            f"accept its terms at {page}, or name a secret with a token that may read it"
        )
    if status == HTTPStatus.UNAUTHORIZED and wanted.has_token:
        return (
            f"model.tokenSecretRef: the hub does not accept the token for {wanted.id} ({status}): it is expired, "
            f"revoked or mistyped; put a valid one into the secret"
        )
    if status == HTTPStatus.UNAUTHORIZED:
        return (
            f"model.id: the hub shows nobody without a token a repository {wanted.id} ({status}): mend the name, or "
            f"if it is private name a secret with a token in model.tokenSecretRef"
        )
    if isinstance(error, RepositoryNotFoundError) or status == HTTPStatus.NOT_FOUND:
        return (
            f"model.id: the hub has no repository {wanted.id} ({status}), or none that this token may read: mend the "
            f"name, or the secret of model.tokenSecretRef"
        )
    return f"model.id: the hub does not give {wanted.id}: it answers {status} {error.response.reason_phrase}".rstrip()


def _gave_up(error: GaveUp) -> str:
    if error.status == RATE_LIMITED:
        told = f", and asks to wait for {error.asked_to_wait:.0f} s" if error.asked_to_wait else ""
        return (
            f"model.cache: the hub is asked too often from here (429){told}: let workers share a cache, or name a "
            f"token in model.tokenSecretRef, whose owner has a limit of their own"
        )
    if error.status:
        return f"model.id: the hub fails: {error}; try again once it is well"
    return (
        f"model.id: there is no way to the hub: {error}; mend the way out of the cluster (networkPolicy.egress, a "
        f"proxy's variables in env), or put the model into model.cache"
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in seen:
        seen.append(following)
        yield following
        following = following.__cause__ or following.__context__


def _line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
