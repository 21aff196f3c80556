"""The store keeps the newest state of each object, forgets what is gone, and tells of news alone."""

from __future__ import annotations

from typing import Any

import pytest

from diffusion_operator.api import Role
from diffusion_operator.cluster.keys import Key
from diffusion_operator.cluster.kinds import CONFIG_MAP, EVENT, PIPELINE, POD, SCALER, SERVICE, STATEFUL_SET
from diffusion_operator.cluster.store import FOREIGN, Store
from diffusion_operator.render import names

KEY = Key("ns", "digits")


class News(list[Key]):
    def take(self) -> list[Key]:
        found = list(self)
        self.clear()
        return found


@pytest.fixture
def news() -> News:
    return News()


@pytest.fixture
def store(news: News) -> Store:
    return Store(news.append)


def thing(
    name: str, version: int, *, uid: str = "", labels: dict[str, str] | None = None, **fields: Any
) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "ns", "uid": uid or f"uid-{name}", "resourceVersion": str(version)}
    metadata |= fields.pop("metadata", {})
    return {"metadata": {**metadata, "labels": labels if labels is not None else {}}, **fields}


def child(name: str, version: int, **fields: Any) -> dict[str, Any]:
    return thing(name, version, labels={names.PIPELINE_LABEL: "digits"}, **fields)


def pod(name: str, version: int, *, reason: str | None, uid: str = "") -> dict[str, Any]:
    labels = {names.PIPELINE_LABEL: "digits", names.ROLE_LABEL: "denoiser"}
    waiting = {"waiting": {"reason": reason, "message": "m"}} if reason else {"running": {}}
    status = {
        "phase": "Pending" if reason else "Running",
        "containerStatuses": [{"name": "main", "ready": not reason, "restartCount": 0, "state": waiting}],
        "conditions": [{"type": "Ready", "status": "False" if reason else "True"}],
    }
    return thing(name, version, uid=uid, labels=labels, spec={"containers": [{"name": "main"}]}, status=status)


def test_a_new_state_replaces_the_one_before_and_is_told(store: Store, news: News) -> None:
    store.put(PIPELINE, thing("digits", 1, spec={"a": 1}))
    store.put(PIPELINE, thing("digits", 2, spec={"a": 2}))
    found = store.pipeline(KEY)
    assert found is not None
    assert found.packed.unpack()["spec"] == {"a": 2}
    assert news.take() == [KEY, KEY]


def test_an_older_state_and_an_echo_of_our_own_write_are_no_news(store: Store, news: News) -> None:
    store.wrote(SERVICE, child("digits-router", 5))
    assert news.take() == []
    store.put(SERVICE, child("digits-router", 5))
    store.put(SERVICE, child("digits-router", 4, spec={"old": True}))
    assert news.take() == []
    found = store.child(KEY, SERVICE, "digits-router")
    assert found is not None
    assert found.version == 5


def test_a_new_object_of_the_same_name_counts_even_with_a_lower_version(store: Store, news: News) -> None:
    store.put(SERVICE, child("digits-router", 5, uid="1"))
    store.put(SERVICE, child("digits-router", 3, uid="2"))
    found = store.child(KEY, SERVICE, "digits-router")
    assert found is not None
    assert found.uid == "2"


def test_the_end_of_an_object_that_was_made_anew_does_not_end_the_new_one(store: Store, news: News) -> None:
    store.put(SERVICE, child("digits-router", 5, uid="2"))
    store.remove(SERVICE, child("digits-router", 4, uid="1"))
    assert store.child(KEY, SERVICE, "digits-router") is not None
    store.put(PIPELINE, thing("digits", 6, uid="2"))
    store.remove(PIPELINE, thing("digits", 5, uid="1"))
    assert store.pipeline(KEY) is not None


def test_what_a_list_no_longer_names_is_gone(store: Store, news: News) -> None:
    store.put(SERVICE, child("digits-router", 1))
    store.put(SERVICE, child("digits-encoder", 1))
    store.put(CONFIG_MAP, child("digits-x", 1))
    news.clear()
    store.retain(SERVICE, None, {"uid-digits-router"}, "9")
    assert set(store.children(KEY)) == {("Service", "digits-router"), ("ConfigMap", "digits-x")}
    assert news.take() == [KEY]
    store.retain(SERVICE, "another", set(), "9")
    assert ("Service", "digits-router") in store.children(KEY)


def test_what_is_newer_than_a_list_does_not_go_by_it(store: Store) -> None:
    store.wrote(SERVICE, child("digits-router", 12))
    store.put(PIPELINE, thing("digits", 12))
    store.retain(SERVICE, None, set(), "10")
    store.retain(PIPELINE, None, set(), "10")
    assert store.child(KEY, SERVICE, "digits-router") is not None
    assert store.pipeline(KEY) is not None


def test_the_status_of_a_stateful_set_is_news_but_leaves_its_mark(store: Store, news: News) -> None:
    first = child("digits-denoiser", 1, metadata={"generation": 1}, spec={"replicas": 1}, status={"replicas": 0})
    store.put(STATEFUL_SET, first)
    before = store.child(KEY, STATEFUL_SET, "digits-denoiser")
    store.put(STATEFUL_SET, {**first, "metadata": {**first["metadata"], "resourceVersion": "2"}, "status": {}})
    after = store.child(KEY, STATEFUL_SET, "digits-denoiser")
    assert before is not None
    assert after is not None
    assert before.mark == after.mark
    assert news.take() == [KEY, KEY]


@pytest.mark.parametrize(
    "change",
    [
        {"generation": 2},
        {"labels": {names.PIPELINE_LABEL: "digits", "more": "x"}},
        {"annotations": {"a": "b"}},
        {"deletionTimestamp": "2026-01-01T00:00:00Z"},
        {"ownerReferences": [{"controller": True, "kind": "DiffusionPipeline", "uid": "1"}]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_may_make_a_child_other_than_it_should_be_changes_its_mark(
    store: Store, change: dict[str, Any]
) -> None:
    first = child("digits-denoiser", 1, metadata={"generation": 1})
    store.put(STATEFUL_SET, first)
    before = store.child(KEY, STATEFUL_SET, "digits-denoiser")
    store.put(STATEFUL_SET, {**first, "metadata": {**first["metadata"], "resourceVersion": "2", **change}})
    after = store.child(KEY, STATEFUL_SET, "digits-denoiser")
    assert before is not None
    assert after is not None
    assert before.mark != after.mark


@pytest.mark.parametrize(
    ("references", "owner"),
    [
        ([], ""),
        ([{"kind": "DiffusionPipeline", "uid": "1", "controller": True}], "1"),
        ([{"kind": "Deployment", "uid": "2", "controller": True}], FOREIGN),
        ([{"kind": "Deployment", "uid": "2"}], ""),
        ([{"kind": "DiffusionPipeline", "uid": "1", "controller": False}], "1"),
        ([{"kind": "Deployment", "uid": "2"}, {"kind": "DiffusionPipeline", "uid": "1"}], "1"),
        ([{"kind": "DiffusionPipeline", "uid": "1"}, {"kind": "Deployment", "uid": "2", "controller": True}], FOREIGN),
    ],
)
def test_the_owner_is_a_pipeline_unless_another_controls(
    store: Store, references: list[dict[str, Any]], owner: str
) -> None:
    store.put(SERVICE, child("digits-router", 1, metadata={"ownerReferences": references}))
    found = store.child(KEY, SERVICE, "digits-router")
    assert found is not None
    assert found.owner == owner


def test_of_pods_only_the_problems_are_kept_and_told(store: Store, news: News) -> None:
    store.put(POD, pod("digits-denoiser-0", 1, reason="ImagePullBackOff"))
    assert [problem.pod for problem in store.problems(KEY, Role.DENOISER)] == ["digits-denoiser-0"]
    assert store.problems(KEY, Role.ENCODER) == ()
    assert news.take() == [KEY]
    store.put(POD, pod("digits-denoiser-0", 2, reason="ImagePullBackOff"))
    assert news.take() == []
    store.put(POD, pod("digits-denoiser-0", 3, reason=None))
    assert store.problems(KEY, Role.DENOISER) == ()
    assert news.take() == [KEY]


def test_the_end_of_a_pod_ends_its_problem_but_not_its_successors(store: Store) -> None:
    store.put(POD, pod("digits-denoiser-0", 3, reason="ErrImagePull", uid="2"))
    store.remove(POD, pod("digits-denoiser-0", 2, reason="ErrImagePull", uid="1"))
    assert store.problems(KEY, Role.DENOISER)
    store.retain(POD, None, {"2"}, "9")
    assert store.problems(KEY, Role.DENOISER)
    store.retain(POD, None, set(), "9")
    assert store.problems(KEY, Role.DENOISER) == ()


def refusal_event(name: str, message: str, when: str) -> dict[str, Any]:
    return thing(
        name,
        1,
        involvedObject={"kind": "StatefulSet", "namespace": "ns", "name": "digits-denoiser"},
        reason="FailedCreate",
        type="Warning",
        message=message,
        lastTimestamp=when,
    )


def test_why_pods_cannot_be_made_is_the_latest_word_until_they_could(store: Store, news: News) -> None:
    store.put(STATEFUL_SET, child("digits-denoiser", 1, metadata={"generation": 1}))
    news.clear()
    quota = 'pods "x" is forbidden: exceeded quota: few, requested: pods=1, used: pods=1, limited: pods=1'
    security = 'pods "x" is forbidden: violates PodSecurity "restricted:latest": privileged'
    store.put(EVENT, refusal_event("e1", quota, "2026-01-01T00:00:00Z"))
    store.put(EVENT, refusal_event("e2", security, "2026-01-01T00:01:00Z"))
    assert news.take() == [KEY, KEY]
    (found,) = store.refusals("ns", "digits-denoiser")
    assert found.reason == "NamespacePodSecurity"
    store.clear_refusals("ns", "digits-denoiser")
    assert store.refusals("ns", "digits-denoiser") == ()


def test_a_scaler_is_news_of_its_pipeline(store: Store, news: News) -> None:
    scaler = thing("digits-denoiser", 1, spec={"replicas": 2, "pipelineRef": {"name": "digits"}, "role": "denoiser"})
    store.put(SCALER, scaler)
    store.remove(SCALER, scaler)
    assert news.take() == [KEY, KEY]
    assert store.scaler("ns", "digits-denoiser") is None


def test_an_answer_that_comes_after_the_objects_end_does_not_bring_it_back(store: Store, news: News) -> None:
    store.remove(SERVICE, child("digits-router", 6, uid="first"))
    store.wrote(SERVICE, child("digits-router", 5, uid="first"))
    assert store.children(KEY) == {}
    store.wrote(SERVICE, child("digits-router", 7, uid="second"))
    assert set(store.children(KEY)) == {("Service", "digits-router")}
