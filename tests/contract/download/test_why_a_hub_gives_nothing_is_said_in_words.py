"""What a hub refuses is told by the resource's field, and with what helps."""

from __future__ import annotations

import pytest

from diffusion_worker.model import DownloadFailed
from diffusionpipeline.words import Stage


@pytest.mark.parametrize(
    ("id", "revision", "token", "words"),
    [
        pytest.param(
            "maker/nothing",
            "",
            "",
            r"model\.id: .* maker/nothing \(401\): mend the name, .*tokenSecretRef",
            id="401: no such repository, no token",
        ),
        pytest.param(
            "maker/nothing",
            "",
            "ours",
            r"model\.id: the hub has no repository maker/nothing \(404\)",
            id="404: no such repository",
        ),
        pytest.param(
            "maker/private",
            "",
            "",
            r"model\.id: .* maker/private \(401\): .*private .*model\.tokenSecretRef",
            id="401: private, no token",
        ),
        pytest.param(
            "maker/private",
            "",
            "stale",
            r"model\.tokenSecretRef: the hub does not accept the token .*\(401\): it is expired",
            id="401: a token that is none",
        ),
        pytest.param(
            "maker/gated",
            "",
            "",
            r"model\.tokenSecretRef: repository maker/gated is gated \(401\): accept its terms at http\S+/maker/gated,",
            id="401: gated, no token",
        ),
        pytest.param(
            "maker/gated",
            "",
            "other",
            r"model\.tokenSecretRef: the token's owner may not .*\(403\): accept its terms at http\S+/maker/gated,",
            id="403: terms that were not accepted",
        ),
        pytest.param(
            "maker/sd3",
            "v9",
            "",
            r"model\.revision: repository maker/sd3 of the hub has no branch, tag or commit 'v9' \(404\)",
            id="404: no such branch",
        ),
        pytest.param(
            "maker/sd3", "0" * 40, "", r"model\.revision: .* commit '0{40}' \(404\)", id="404: no such commit"
        ),
        pytest.param("no such name", "", "", r"model\.id: 'no such name' is no name of a repository", id="no name"),
    ],
)
def test_a_refusal_names_the_field_and_the_remedy(
    hub, fetched, published, hours, monkeypatch, id, revision, token, words
):
    hub.add("maker/private", published, token="ours")
    hub.add("maker/gated", published, token="ours", gated=True)
    if token:
        monkeypatch.setenv("HF_TOKEN", token)

    with pytest.raises(DownloadFailed, match=words) as raised:
        fetched(Stage.DECODE, share={"id": id, "revision": revision})

    assert hours.pauses == [], "no wait helps"
    assert not token or token not in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (403, r"model\.tokenSecretRef: repository maker/sd3 is gated \(403\)"),
        (404, r"model\.id: the hub has no repository maker/sd3 \(404\)"),
        (410, r"model\.id: the hub does not give maker/sd3: it answers 410 Gone"),
    ],
)
def test_a_refusal_of_one_file_is_told_as_well(hub, fetched, hours, status, words):
    hub.refuse("/storage/*", status)

    with pytest.raises(DownloadFailed, match=words):
        fetched(Stage.DECODE)
    assert hours.pauses == []
