"""What is, and what would be: of two files, of a file and the cluster, or of a cluster and this version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from diffusion_operator.api import API_VERSION, KIND, Image, InvalidResourceError, Pipeline, Platform, Role, from_live
from diffusion_operator.api.platform import NOTHING
from diffusion_operator.render import Images, names, templates
from diffusion_operator.render.images import of_platform, reference
from diffusion_operator.status.finding import parse_time
from diffusion_operator.status.standing import is_settled
from diffusion_operator.update.decide import Decision, decide, may_surge
from diffusion_operator.update.revision import Revision
from dpipe.changes.history import PLURAL, revisions_of
from dpipe.changes.kubectl import ClusterError, Kubectl, Object
from dpipe.changes.plan import Plan, Side, plan


@dataclass(frozen=True)
class Given:
    """What a user says that the operator is installed with. None: nothing."""

    worker: str | None = None
    router: str | None = None
    platform: Platform = NOTHING

    def over(self, others: Images) -> Images:
        return Images(worker=self.worker or others.worker, router=self.router or others.router)

    def of_new(self) -> Images:
        """Of a pipeline that is new."""
        return self.over(of_platform(self.platform))


def of_files(before: Sequence[Object], after: Sequence[Object], given: Given) -> list[Plan]:
    """Resources with their defaults, of which those of one name are the same pipeline."""
    old, new = ({_key(resource): _rendered(resource, given) for resource in resources} for resources in (before, after))
    return [_of_two(old.get(key), new.get(key)) for key in sorted(old.keys() | new.keys())]


def _of_two(before: Side | None, after: Side | None) -> Plan:
    if before is not None and after is not None:
        after = replace(after, beside=may_surge(after.pipeline, before.templates, after.templates))
    return plan(before, after)


def of_an_edit(cluster: Kubectl, manifest: str, version: str, given: Given, *, server_side: bool) -> list[Plan]:
    """What applying a manifest would do. Raises ClusterError."""
    wanted = [item for item in cluster.applied(manifest, server_side=server_side) if _is_pipeline(item)]
    if not wanted:
        raise ClusterError(f"there is no {KIND} in it")
    return [_edit(_in(cluster, resource), resource, version, given) for resource in wanted]


def of_an_upgrade(cluster: Kubectl, version: str, given: Given, *, everywhere: bool) -> list[Plan]:
    """What moving to this version's operator would do. Raises ClusterError.

    Of images that are not given, the version's tag is taken, of the repository that a pipeline's pods have theirs from.
    """
    return [
        _upgrade(_in(cluster, resource), resource, version, given)
        for resource in cluster.every(PLURAL, everywhere=everywhere)
    ]


def _edit(cluster: Kubectl, wanted: Object, version: str, given: Given) -> Plan:
    pipeline = _read(wanted, given)
    live = cluster.get(PLURAL, pipeline.name)
    if live is None:
        return plan(None, Side(pipeline, wanted["spec"], templates(pipeline, given.of_new())))
    before, written, counts = _present(cluster, live, given)
    images, update = given.over(written.images), live.get("status", {}).get("update", {})
    theirs, operator = update.get("available", ""), update.get("operator", version)
    # An upgrade that waits comes along only where the edit says so.
    moves = bool(pipeline.update.to & ({theirs, operator} if theirs else set()))
    decision = _decided(wanted, pipeline, images, written, given, moves=moves)
    warnings = []
    if moves and _decided(live, before.pipeline, images, written, given, moves=False).available != theirs:
        warnings.append(
            f"it moves, too: the operator {operator} would make {theirs} of it, which this dpipe can't without "
            "--worker-image and --router-image as that one was installed with (--platform, too), and being of its "
            "version"
        )
    elif operator != version:
        warnings.append(f"the operator is {operator} and this dpipe {version}: what it makes of an edit may differ")
    after = _after(pipeline, wanted["spec"], decision.revision, counts)
    return plan(before, after, _starts(cluster, pipeline), tuple(warnings))


def _upgrade(cluster: Kubectl, live: Object, version: str, given: Given) -> Plan:
    before, written, counts = _present(cluster, live, given)
    now = of_platform(given.platform) if given.platform.registry else written.images
    of_version = Images(worker=_of_version(now.worker, version), router=_of_version(now.router, version))
    decision = _decided(live, before.pipeline, given.over(of_version), written, given, moves=True)
    after = _after(before.pipeline, live["spec"], decision.revision, counts)
    return plan(before, after, _starts(cluster, before.pipeline))


def _decided(
    resource: Object, pipeline: Pipeline, images: Images, written: Revision, given: Given, *, moves: bool
) -> Decision:
    settled = is_settled(resource)
    return decide(resource, pipeline, images, written, settled=settled, moves=moves, platform=given.platform)


def _present(cluster: Kubectl, live: Object, given: Given) -> tuple[Side, Revision, dict[Role, int]]:
    pipeline = _read(live, given)
    selector = f"{names.PIPELINE_LABEL}={pipeline.name}"
    written = revisions_of(cluster, live)[0]
    counts = {
        Role(item["metadata"]["labels"][names.ROLE_LABEL]): int(item["spec"].get("replicas", 1))
        for item in cluster.every("statefulsets.apps", selector=selector)
    }
    return Side(pipeline, live["spec"], written.templates, counts, written.track), written, counts


def _after(pipeline: Pipeline, spec: Mapping[str, Any], revision: Revision, counts: Mapping[Role, int]) -> Side:
    candidate = revision.candidate
    return Side(pipeline, spec, candidate or revision.templates, counts, revision.track, beside=candidate is not None)


def _starts(cluster: Kubectl, pipeline: Pipeline) -> dict[Role, float]:
    """Seconds from a pod's creation until it was ready: the longest of each role's.

    A pod that was not ready for a while in between tells nothing: it is ready since then.
    """
    found: dict[Role, float] = {}
    for pod in cluster.every("pods", selector=f"{names.PIPELINE_LABEL}={pipeline.name}"):
        role = Role(pod["metadata"]["labels"][names.ROLE_LABEL])
        status = pod.get("status", {})
        ready = [each for each in status.get("conditions", ()) if (each["type"], each["status"]) == ("Ready", "True")]
        if not ready or any(each["restartCount"] for each in status.get("containerStatuses", ())):
            continue
        took = parse_time(ready[0]["lastTransitionTime"]) - parse_time(pod["metadata"]["creationTimestamp"])
        found[role] = max(found.get(role, 0.0), took.total_seconds())
    return found


def _of_version(image: str, version: str) -> str:
    return reference(Image(repository="", tag=version, digest="", pull_policy=""), image)


def _rendered(resource: Object, given: Given) -> Side:
    pipeline = _read(resource, given)
    return Side(pipeline, resource["spec"], templates(pipeline, given.of_new()))


def _read(resource: Object, given: Given) -> Pipeline:
    try:
        return given.platform.beneath(from_live(resource))
    except InvalidResourceError as error:
        raise ClusterError(f"{resource['metadata']['name']}: {error}") from None


def _in(cluster: Kubectl, resource: Object) -> Kubectl:
    return Kubectl(cluster.context, resource["metadata"].get("namespace", "default"))


def _is_pipeline(item: Mapping[str, Any]) -> bool:
    return bool(item.get("apiVersion") == API_VERSION and item.get("kind") == KIND)


def _key(resource: Object) -> tuple[str, str]:
    return resource["metadata"].get("namespace", "default"), resource["metadata"]["name"]
