"""What keeps a pod from being ready, out of Pods as kubelets and schedulers write them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from diffusion_operator.status.observed import PodProblem
from diffusion_operator.status.pods import problem

CREATED, STARTED, LATER = "2026-11-02T10:00:00Z", "2026-11-02T10:00:05Z", "2026-11-02T10:30:00Z"
IMAGE = "example/worker:1"
CRASH_LOOP = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 5m0s restarting failed container=main"}}
RUNNING = {"running": {"startedAt": STARTED}}


def container(name: str = "main", **status: Any) -> dict[str, Any]:
    return {"name": name, "ready": False, "restartCount": 0, "state": RUNNING, "image": IMAGE, **status}


def pod(
    *containers: dict[str, Any],
    phase: str = "Running",
    ready: str = "False",
    ready_since: str = CREATED,
    scheduled: dict[str, str] | None = None,
    init: list[dict[str, Any]] | None = None,
    **status: Any,
) -> dict[str, Any]:
    return {
        "metadata": {"name": "digits-denoiser-0", "namespace": "ai"},
        "spec": {
            "initContainers": [{"name": item["name"], "image": IMAGE} for item in init or ()],
            "containers": [
                {"name": item["name"], "image": IMAGE, "resources": {"limits": {"memory": "8Gi"}}}
                for item in containers
            ],
        },
        "status": {
            "phase": phase,
            "conditions": [
                {"type": "PodScheduled", **(scheduled or {"status": "True"})},
                {"type": "Ready", "status": ready, "lastTransitionTime": ready_since, "reason": "ContainersNotReady"},
            ],
            "initContainerStatuses": init or [],
            "containerStatuses": list(containers),
            **status,
        },
    }


def waiting(reason: str, message: str = "", name: str = "main") -> dict[str, Any]:
    return container(name, state={"waiting": {"reason": reason, "message": message}})


def ended(code: int, message: str = "", reason: str = "Error", **status: Any) -> dict[str, Any]:
    """A container that ended and waits for its next start."""
    terminated = {"exitCode": code, "reason": reason, "message": message, "finishedAt": LATER}
    return container(**{"restartCount": 3, "state": CRASH_LOOP, "lastState": {"terminated": terminated}, **status})


def log(*lines: dict[str, str]) -> str:
    """The end of a worker's log, which becomes the termination message of a container that fails."""
    return "".join(json.dumps({**line, "timestamp": LATER}) + "\n" for line in lines)


def unschedulable(message: str) -> dict[str, Any]:
    return pod(phase="Pending", scheduled={"status": "False", "reason": "Unschedulable", "message": message})


NO_HCA = (
    "0/5 nodes are available: 5 Insufficient rdma/hca. preemption: 0/5 nodes are available: "
    "5 Preemption is not helpful for scheduling."
)
PULL = (
    'rpc error: code = NotFound desc = failed to pull and unpack image "example/worker:1": example/worker:1: not found'
)
NOT_FOUND = (
    'main: image example/worker:1 can\'t be pulled: failed to pull and unpack image "example/worker:1": '
    "example/worker:1: not found"
)
FAILED = {"event": "worker_failed", "level": "error"}


@pytest.mark.parametrize(
    ("given", "reason", "message"),
    [
        pytest.param(
            unschedulable(NO_HCA),
            "Unschedulable",
            "0/5 nodes are available: 5 Insufficient rdma/hca",
            id="no node has room: the scheduler's words, without what it says of preemption",
        ),
        pytest.param(
            unschedulable(""), "Unschedulable", "the scheduler has found no node", id="the scheduler says nothing"
        ),
        pytest.param(
            pod(waiting("ErrImagePull", PULL), phase="Pending"), "ImagePullBackOff", NOT_FOUND, id="a pull failed"
        ),
        pytest.param(
            pod(
                waiting("ImagePullBackOff", f'Back-off pulling image "{IMAGE}": ErrImagePull: {PULL}'), phase="Pending"
            ),
            "ImagePullBackOff",
            NOT_FOUND,
            id="the pause after a failed pull says the same as the pull",
        ),
        pytest.param(
            pod(waiting("ImagePullBackOff", f'Back-off pulling image "{IMAGE}"'), phase="Pending"),
            "ImagePullBackOff",
            "main: image example/worker:1 can't be pulled",
            id="an older kubelet does not repeat the cause",
        ),
        pytest.param(
            pod(waiting("ErrImageNeverPull", f'Container image "{IMAGE}" is not present with pull policy of Never')),
            "ImagePullBackOff",
            'main: image example/worker:1 can\'t be pulled: Container image "example/worker:1" is not present with '
            "pull policy of Never",
            id="the image may not be pulled",
        ),
        pytest.param(
            pod(waiting("InvalidImageName", "couldn't parse image reference")),
            "InvalidImageName",
            "main: 'example/worker:1' is no name of an image: mend spec.image",
            id="the image's name is none",
        ),
        pytest.param(
            pod(waiting("CreateContainerConfigError", 'secret "hub-token" not found')),
            "CreateContainerConfigError",
            'main can\'t be configured: secret "hub-token" not found',
            id="a Secret that the container needs is missing",
        ),
        pytest.param(
            pod(waiting("RunContainerError", "failed to create shim task")),
            "CreateContainerError",
            "main can't be started: failed to create shim task",
            id="the container runtime can't start it",
        ),
        pytest.param(
            pod(ended(128, "exec: python: not found", "StartError")),
            "CreateContainerError",
            "main can't be started: exec: python: not found",
            id="the command is not in the image",
        ),
        pytest.param(
            pod(ended(1, "Traceback (most recent call last):\n  File\nValueError: no such thing\n")),
            "CrashLoopBackOff",
            "main ended with exit code 1: ValueError: no such thing",
            id="a crash is told by its exit code and the log's last line",
        ),
        pytest.param(
            pod(ended(1, log(FAILED | {"error": "port 15000 is taken"}) + "I0000 glog goodbye\n")),
            "CrashLoopBackOff",
            "main ended with exit code 1: port 15000 is taken",
            id="the worker's own error, also when libraries write after it",
        ),
        pytest.param(
            pod(ended(1)), "CrashLoopBackOff", "main ended with exit code 1", id="a crash that leaves no words"
        ),
        pytest.param(
            pod(ended(0, "", "Completed")),
            "CrashLoopBackOff",
            "main ended by itself (exit code 0)",
            id="a process that ends well over and over",
        ),
        pytest.param(
            pod(ended(137)),
            "CrashLoopBackOff",
            "main was killed by signal 9 (exit code 137); a probe that fails does that too",
            id="killed by a signal",
        ),
        pytest.param(
            pod(ended(137, "", "OOMKilled")),
            "OOMKilled",
            "main was killed at its memory limit of 8Gi: raise the role's resources.limits.memory",
            id="too large for its memory limit",
        ),
        pytest.param(
            pod(ended(3, log(FAILED | {"error": "model.id: there is no folder /models/x"}))),
            "ModelFailed",
            "model.id: there is no folder /models/x",
            id="exit code 3: the model can't be loaded",
        ),
        pytest.param(
            pod(ended(1, log(FAILED | {"error": "404 Client Error. (Request ID: Root=1-af;b) Repository Not Found"}))),
            "DownloadFailed",
            "404 Client Error. Repository Not Found",
            id="the hub refuses: without the id that differs from try to try",
        ),
        pytest.param(
            pod(ended(1, log(FAILED | {"error": "[Errno 28] No space left on device: '/models/a'"}))),
            "NoSpace",
            "[Errno 28] No space left on device: '/models/a'",
            id="the model's volume is full",
        ),
        pytest.param(
            pod(ended(3, log(FAILED | {"error": "/models/a can't be loaded: No space left on device"}))),
            "NoSpace",
            "/models/a can't be loaded: No space left on device",
            id="the volume fills up while the model is unpacked",
        ),
        pytest.param(
            pod(ended(4, log(FAILED | {"error": "give both the same devices"}))),
            "Incompatible",
            "give both the same devices",
            id="exit code 4: the router can't use this worker",
        ),
        pytest.param(
            pod(ended(5, log(FAILED | {"error": "no usable RDMA device"}))),
            "TransportFailed",
            "no usable RDMA device",
            id="exit code 5: the transport",
        ),
        pytest.param(
            pod(ended(5)), "TransportFailed", "main ended with exit code 5 without saying why", id="exit code 5, silent"
        ),
        pytest.param(
            pod(ended(6, log(FAILED | {"error": "forward (Net 4x8, 2 at once) stands still for 61 s (task t)"}))),
            "Stalled",
            "forward (Net 4x8, 2 at once) stands still for 61 s (task t)",
            id="exit code 6: something of the worker stood still",
        ),
        pytest.param(
            pod(ended(7, log(FAILED | {"error": "model.tokenSecretRef: the hub does not accept the token (401)"}))),
            "DownloadFailed",
            "model.tokenSecretRef: the hub does not accept the token (401)",
            id="exit code 7: the hub does not give the model",
        ),
        pytest.param(
            pod(
                container(state={"waiting": {"reason": "PodInitializing"}}),
                phase="Pending",
                init=[ended(3, "no such bucket", name="fetch")],
            ),
            "CrashLoopBackOff",
            "fetch ended with exit code 3: no such bucket",
            id="an init container fails: the worker's exit codes are not its",
        ),
        pytest.param(
            pod(ended(2, "bad flag", name="proxy"), container(ready=True)),
            "CrashLoopBackOff",
            "proxy ended with exit code 2: bad flag",
            id="a sidecar fails",
        ),
        pytest.param(
            pod(ended(2, "bad flag", name="a-proxy"), ended(1, "boom")),
            "CrashLoopBackOff",
            "main ended with exit code 1: boom",
            id="the main container is told of before its sidecars",
        ),
        pytest.param(
            pod(
                phase="Failed",
                reason="UnexpectedAdmissionError",
                message="Allocate failed due to no healthy devices present; cannot allocate unhealthy devices rdma/hca",
            ),
            "UnexpectedAdmissionError",
            "Allocate failed due to no healthy devices present; cannot allocate unhealthy devices rdma/hca",
            id="the node's device plugin was not up yet",
        ),
        pytest.param(
            pod(phase="Failed", reason="Evicted", message="The node was low on resource: memory."),
            "Evicted",
            "The node was low on resource: memory",
            id="evicted by its node",
        ),
        pytest.param(
            pod(phase="Failed", reason="OutOfcpu", message="Node didn't have enough resource: cpu"),
            "PodFailed",
            "OutOfcpu: Node didn't have enough resource: cpu",
            id="a node that turns it away for another reason",
        ),
        pytest.param(
            pod(container(ready=True)),
            "NodeNotReady",
            "its node is silent; the pod is made anew once the node is back, or deleted",
            id="all containers are ready and the pod is not: its node is silent",
        ),
        pytest.param(
            pod(container(), ready_since=LATER),
            "NotReady",
            "was ready and no longer is: its readiness probe fails",
            id="it became unready after its container had started",
        ),
    ],
)
def test_a_pod_that_can_not_become_ready_says_why(given: dict[str, Any], reason: str, message: str) -> None:
    assert problem(given) == PodProblem(pod="digits-denoiser-0", reason=reason, message=message)


def test_a_pod_whose_claim_is_not_made_yet_says_of_which_template_though_the_scheduler_says_nothing() -> None:
    waiting: dict[str, Any] = {
        "metadata": {"name": "digits-denoiser-0"},
        "spec": {
            "resourceClaims": [
                {"name": "scratch", "resourceClaimName": "shared"},
                {"name": "gpu", "resourceClaimTemplateName": "forgotten"},
            ]
        },
        "status": {"phase": "Pending"},
    }
    found = problem(waiting)
    assert found is not None
    assert found.reason == "Unschedulable"
    assert found.message.startswith("its claim gpu is not made yet of ResourceClaimTemplate forgotten")
    waiting["status"]["resourceClaimStatuses"] = [{"name": "gpu", "resourceClaimName": "digits-denoiser-0-gpu-x"}]
    assert problem(waiting) is None


def test_a_scheduling_gate_is_named() -> None:
    gated = pod(phase="Pending", scheduled={"status": "False", "reason": "SchedulingGated"})
    gated["spec"]["schedulingGates"] = [{"name": "kueue.x-k8s.io/admission"}]
    found = problem(gated)
    assert found is not None
    assert found.reason == "SchedulingGated"
    assert found.message == "waits until its scheduling gates are lifted: kueue.x-k8s.io/admission"


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(pod(container(ready=True), ready="True"), id="it is ready"),
        pytest.param(pod(ended(1, "boom", ready=True, state=RUNNING), ready="True"), id="it crashed once and is ready"),
        pytest.param({"metadata": {"name": "digits-denoiser-0"}}, id="nobody has looked at it yet"),
        pytest.param(pod(waiting("ContainerCreating"), phase="Pending"), id="its container is being made"),
        pytest.param(pod(container()), id="it loads the model"),
        pytest.param(pod(container(), ready_since=STARTED), id="it became unready in the second it started"),
        pytest.param(
            pod(
                container(state={"waiting": {"reason": "PodInitializing"}}),
                phase="Pending",
                init=[container("fetch", ready=True, state={"terminated": {"exitCode": 0}})],
            ),
            id="its init container did its work",
        ),
        pytest.param(
            pod(container(state={"terminated": {"exitCode": 0}})), id="it ended well and was not restarted yet"
        ),
        pytest.param(pod(phase="Succeeded"), id="it is done"),
    ],
)
def test_a_pod_that_is_ready_or_on_its_way_has_no_problem(given: dict[str, Any]) -> None:
    assert problem(given) is None


def test_a_pod_that_is_leaving_has_no_problem() -> None:
    leaving = pod(ended(1, "boom"))
    leaving["metadata"]["deletionTimestamp"] = LATER
    assert problem(leaving) is None


def test_a_pod_that_should_leave_a_silent_node_says_that_it_can_not() -> None:
    stuck = pod(container(ready=True))
    stuck["metadata"]["deletionTimestamp"] = LATER
    found = problem(stuck)
    assert found is not None
    assert found.reason == "NodeNotReady"


def test_a_pod_that_waits_for_a_readiness_gate_is_not_taken_for_lost() -> None:
    given = pod(container(ready=True))
    given["status"]["conditions"][1]["reason"] = "ReadinessGatesNotReady"
    assert problem(given) is None


def test_the_problem_is_the_same_all_the_way_round_a_crash_loop() -> None:
    words = log(FAILED | {"error": "boom"})
    terminated = {"terminated": {"exitCode": 1, "reason": "Error", "message": words}}
    turns = [
        container(state=terminated),
        ended(1, words),
        ended(1, words, restartCount=4, state={"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 20s"}}),
        ended(1, words, restartCount=5, state={"running": {"startedAt": LATER}}),
        ended(1, words, restartCount=5, state=terminated),
    ]
    assert len({problem(pod(turn)) for turn in turns}) == 1


def test_without_a_memory_limit_it_is_the_node_that_has_too_little() -> None:
    given = pod(ended(137, "", "OOMKilled"))
    del given["spec"]["containers"][0]["resources"]
    found = problem(given)
    assert found is not None
    assert found.message == "main was killed because its node ran out of memory: give the role a memory request"


def test_what_is_kept_of_a_pod_is_small_and_on_one_line() -> None:
    found = problem(pod(ended(3, log(FAILED | {"error": "line\n" * 10_000}))))
    assert found is not None
    assert len(found.message) <= 320
    assert "\n" not in found.message
