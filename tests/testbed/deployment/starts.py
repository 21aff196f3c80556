"""Where the time of a pod's start goes, by what Kubernetes and the worker's own log say of it."""

from __future__ import annotations

from datetime import datetime
from itertools import pairwise

from testbed.controlplane.client import JSON
from testbed.deployment.pipeline import Deployed

# Each ends with an event of the worker's log. Torch is imported at once; diffusers comes with the model.
_ENDS = {
    "import": "worker_starting",
    "transport": "transport_open",
    "load": "model_loaded",
    "register": "registered",
    "first task": "task_done",
}


def phases(pipeline: Deployed, pod: str, asked: datetime) -> dict[str, float]:
    """Seconds of each phase, from the moment at which the pod was asked for until its first task is done.

    Kubernetes tells whole seconds, so the first three are that exact. Raises KeyError for a pod that has done nothing.
    """
    live = pipeline.pod(pod)
    first: dict[str, datetime] = {}
    for line in pipeline.logs(pod):
        first.setdefault(line["event"], datetime.fromisoformat(line["timestamp"]))
    marks = {
        "": asked,
        "create": datetime.fromisoformat(live["metadata"]["creationTimestamp"]),
        "schedule": _scheduled(live),
        "start": _started(live),
        **{phase: first[event] for phase, event in _ENDS.items()},
    }
    return {
        phase: max(0.0, round((until - since).total_seconds(), 2))
        for (_, since), (phase, until) in pairwise(marks.items())
    }


def _scheduled(pod: JSON) -> datetime:
    conditions = {condition["type"]: condition for condition in pod["status"]["conditions"]}
    return datetime.fromisoformat(conditions["PodScheduled"]["lastTransitionTime"])


def _started(pod: JSON) -> datetime:
    (main,) = (status for status in pod["status"]["containerStatuses"] if status["name"] == "main")
    return datetime.fromisoformat(main["state"]["running"]["startedAt"])
