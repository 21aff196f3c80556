"""What the operator knows of the cluster: pipelines, scalers, children, and what keeps pods from running.

Reconciles read from here, so that a pipeline costs as many requests as it has children, not several times as many. It
is fed by watches and by the answers to our own writes, whichever is newer. Objects are kept packed (compressed JSON
without bookkeeping fields): the twelve thousand children of a thousand pipelines would be half a gigabyte of Python
objects, and most are never looked at again.

A child's `mark` says in a word whether it may have changed in what it is to be, as opposed to its status: reconciles
compare marks first, and whole objects only where these differ.
"""

from __future__ import annotations

import json
import sys
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from diffusion_operator.api import KIND, Role
from diffusion_operator.cluster.keys import Key, key_of, pipeline_of
from diffusion_operator.cluster.kinds import EVENT, PIPELINE, POD, SCALER, STATEFUL_SET, Kind, Object
from diffusion_operator.render import names
from diffusion_operator.status import events, phases, pods
from diffusion_operator.status.observed import PodProblem, Refusal
from diffusion_operator.status.phases import Phase

_ROLE_ENDINGS: Final = tuple(f"-{role}" for role in Role)
_BOOKKEEPING: Final = ("managedFields", "selfLink")
_REMEMBERED: Final = 4096


class Packed:
    """An object as compressed JSON."""

    __slots__ = ("_bytes",)

    def __init__(self, item: Mapping[str, Any]) -> None:
        self._bytes = zlib.compress(json.dumps(item, separators=(",", ":")).encode(), 1)

    def unpack(self) -> Object:
        unpacked: Object = json.loads(zlib.decompress(self._bytes))
        return unpacked


@dataclass(frozen=True, slots=True)
class Stored:
    """An object as it was last seen."""

    kind: Kind
    name: str
    uid: str
    version: int
    mark: str
    owner: str
    """uid of the pipeline that owns it; empty: nobody does; `foreign`: somebody else controls it."""
    deleting: bool
    rolled_out: bool
    """Of a StatefulSet: no pod of an earlier revision is to be replaced any more."""
    packed: Packed

    @property
    def id(self) -> ChildId:
        return (self.kind.kind, self.name)


@dataclass(frozen=True, slots=True)
class _Pod:
    """What is kept of a pod that is not ready."""

    uid: str
    role: str
    problem: PodProblem | None
    phase: Phase | None
    """None: it has a problem."""


ChildId = tuple[str, str]
"""Kind and name, within a pipeline's namespace."""

FOREIGN: Final = "foreign"


def version_of(item: Mapping[str, Any]) -> int:
    """resourceVersions of one API server are integers that rise (KEP-5504 says that clients may rely on it)."""
    return int(item["metadata"]["resourceVersion"])


def owner_of(metadata: Mapping[str, Any]) -> str:
    references = metadata.get("ownerReferences", ())
    # StatefulSets have their pipeline as an owner that is no controller (see `apply.Owner`).
    ours = next((str(reference["uid"]) for reference in references if reference["kind"] == KIND), "")
    others = any(reference.get("controller") and reference["kind"] != KIND for reference in references)
    return FOREIGN if others else ours


def stored(kind: Kind, item: Object) -> Stored:
    metadata = {name: value for name, value in item["metadata"].items() if name not in _BOOKKEEPING}
    return Stored(
        kind=kind,
        name=metadata["name"],
        uid=metadata["uid"],
        version=version_of(item),
        mark=mark_of(metadata),
        owner=owner_of(metadata),
        deleting="deletionTimestamp" in metadata,
        rolled_out=kind is not STATEFUL_SET or _rolled_out(item),
        packed=Packed({**item, "metadata": metadata}),
    )


def _rolled_out(stateful_set: Mapping[str, Any]) -> bool:
    status = stateful_set.get("status", {})
    return bool(
        status.get("observedGeneration") == stateful_set["metadata"].get("generation")
        and status.get("currentRevision") == status.get("updateRevision")
    )


def mark_of(metadata: Mapping[str, Any]) -> str:
    """Of a child. Another one: what it is to be may have changed."""
    # Kinds with a generation raise it for their spec alone, which leaves labels, annotations and owners to be watched.
    if "generation" not in metadata:
        return f"{metadata['uid']} {metadata['resourceVersion']}"
    rest = [metadata.get(name) for name in ("labels", "annotations", "ownerReferences", "deletionTimestamp")]
    digest = zlib.crc32(json.dumps(rest, sort_keys=True).encode())
    return f"{metadata['uid']} {metadata['generation']} {digest:x}"


Changed = Callable[[Key], None]


class Store:
    """The sink of all watches. `changed` is told of every pipeline that there is something new about."""

    def __init__(self, changed: Changed) -> None:
        self._changed = changed
        self._pipelines: dict[Key, Stored] = {}
        self._scalers: dict[Key, Stored] = {}
        self._children: defaultdict[Key, dict[ChildId, Stored]] = defaultdict(dict)
        self._pods: defaultdict[Key, dict[str, _Pod]] = defaultdict(dict)
        """Pods that have a problem, or come up, by name."""
        self._refusals: defaultdict[Key, dict[str, tuple[str, str, Refusal]]] = defaultdict(dict)
        """By namespace and name of the StatefulSet, and by name of the Event: uid, time, refusal."""

        self._gone: dict[str, None] = {}
        """uids of the latest removed: a watch may tell of an object's end before its making is answered."""

    # Reading

    def pipelines(self) -> list[Key]:
        return list(self._pipelines)

    def pipeline(self, key: Key) -> Stored | None:
        return self._pipelines.get(key)

    def scaler(self, namespace: str, name: str) -> Stored | None:
        return self._scalers.get(Key(namespace, name))

    def children(self, key: Key) -> Mapping[ChildId, Stored]:
        return self._children.get(key, {})

    def child(self, key: Key, kind: Kind, name: str) -> Stored | None:
        return self.children(key).get((kind.kind, name))

    def problems(self, key: Key, role: Role) -> tuple[PodProblem, ...]:
        """Of the pods of a role, by pod name."""
        found = self._pods.get(key, {})
        return tuple(pod.problem for _, pod in sorted(found.items()) if pod.role == role and pod.problem is not None)

    def starting(self, key: Key, role: Role) -> Mapping[Phase, int]:
        """How many pods of a role that have no problem are in each phase of coming up."""
        found = Counter(pod.phase for pod in self._pods.get(key, {}).values() if pod.role == role)
        return {phase: found[phase] for phase in Phase if found[phase]}

    def refusals(self, namespace: str, stateful_set: str) -> tuple[Refusal, ...]:
        """Why pods of a StatefulSet could not be made: the latest word."""
        found = self._refusals.get(Key(namespace, stateful_set), {})
        latest = max(found.values(), key=lambda entry: entry[1], default=None)
        return () if latest is None else (latest[2],)

    # Writing

    def wrote(self, kind: Kind, item: Object) -> None:
        """The answer to a write of our own, which is no news to whoever wrote it."""
        if item["metadata"]["uid"] in self._gone:
            return
        changed, self._changed = self._changed, lambda key: None
        try:
            self.put(kind, item)
        finally:
            self._changed = changed

    def put(self, kind: Kind, item: Object) -> None:
        """A state that was seen; an older one than is known changes nothing."""
        if kind is POD:
            self._put_pod(item)
        elif kind is EVENT:
            self._put_event(item)
        elif kind is PIPELINE:
            if self._put_one(self._pipelines, key_of(item), kind, item):
                self._changed(key_of(item))
        elif kind is SCALER:
            if self._put_one(self._scalers, key_of(item), kind, item):
                self._changed(Key(item["metadata"]["namespace"], item["spec"]["pipelineRef"]["name"]))
        else:
            self._put_child(kind, item)

    def remove(self, kind: Kind, item: Object) -> None:
        metadata = item["metadata"]
        namespace, uid = metadata["namespace"], metadata["uid"]
        if kind is POD:
            self._forget_pod(pipeline_of(metadata), metadata["name"], uid)
            return
        self._gone[uid] = None
        if len(self._gone) > _REMEMBERED:
            del self._gone[next(iter(self._gone))]
        if kind is EVENT:
            self._refusals.get(Key(namespace, item["involvedObject"]["name"]), {}).pop(metadata["name"], None)
        elif kind is PIPELINE:
            if self._remove_one(self._pipelines, key_of(item), uid):
                self._changed(key_of(item))
        elif kind is SCALER:
            if self._remove_one(self._scalers, key_of(item), uid):
                self._changed(Key(namespace, item["spec"]["pipelineRef"]["name"]))
        elif (key := pipeline_of(metadata)) is not None:
            known = self._children.get(key, {}).get((kind.kind, metadata["name"]))
            if known is not None and known.uid == uid:
                self._drop_child(key, known)

    def retain(self, kind: Kind, namespace: str | None, uids: set[str], version: str) -> None:
        listed = int(version) if version else sys.maxsize

        def gone(key: Key, uid: str, seen: int = 0) -> bool:
            # What is newer than the list is of a write of ours, or of a stream that was quicker.
            return (namespace is None or key.namespace == namespace) and uid not in uids and seen <= listed

        if kind is POD:
            for key, found in list(self._pods.items()):
                for name, pod in list(found.items()):
                    if gone(key, pod.uid):
                        self._forget_pod(key, name, pod.uid)
        elif kind is EVENT:
            for key, entries in self._refusals.items():
                for name, (uid, _, _) in list(entries.items()):
                    if gone(key, uid):
                        del entries[name]
        elif kind in (PIPELINE, SCALER):
            known = self._pipelines if kind is PIPELINE else self._scalers
            for key, entry in list(known.items()):
                if gone(key, entry.uid, entry.version):
                    self.remove(kind, entry.packed.unpack())
        else:
            for key, children in list(self._children.items()):
                for child in list(children.values()):
                    if child.kind is kind and gone(key, child.uid, child.version):
                        self._drop_child(key, child)

    def clear_refusals(self, namespace: str, stateful_set: str) -> None:
        """Its pods could be made after all."""
        self._refusals.pop(Key(namespace, stateful_set), None)

    def _put_one(self, known: dict[Key, Stored], key: Key, kind: Kind, item: Object) -> bool:
        """Whether this is news."""
        before = known.get(key)
        if before is not None and before.uid == item["metadata"]["uid"] and before.version >= version_of(item):
            return False
        known[key] = stored(kind, item)
        return True

    def _remove_one(self, known: dict[Key, Stored], key: Key, uid: str) -> bool:
        before = known.get(key)
        if before is None or before.uid != uid:
            return False
        del known[key]
        return True

    def _put_child(self, kind: Kind, item: Object) -> None:
        metadata = item["metadata"]
        key = pipeline_of(metadata)
        if key is None:
            return
        children = self._children[key]
        before = children.get((kind.kind, metadata["name"]))
        if before is not None and before.uid == metadata["uid"] and before.version >= version_of(item):
            return
        after = stored(kind, item)
        children[after.id] = after
        # The status of other kinds says nothing about a pipeline.
        if before is None or before.mark != after.mark or kind is STATEFUL_SET:
            self._changed(key)

    def _drop_child(self, key: Key, child: Stored) -> None:
        children = self._children[key]
        del children[child.id]
        if not children:
            del self._children[key]
        self._changed(key)

    def _put_pod(self, item: Object) -> None:
        metadata = item["metadata"]
        key = pipeline_of(metadata)
        if key is None:
            return
        problem = pods.problem(item)
        phase = phases.phase(item) if problem is None else None
        if problem is None and phase is None:
            self._forget_pod(key, metadata["name"], None)
            return
        entry = _Pod(metadata["uid"], metadata["labels"].get(names.ROLE_LABEL, ""), problem, phase)
        if self._pods[key].get(metadata["name"]) != entry:
            self._pods[key][metadata["name"]] = entry
            self._changed(key)

    def _forget_pod(self, key: Key | None, name: str, uid: str | None) -> None:
        """`uid`: only if it is this pod, which may have been made anew under its name."""
        if key is None or name not in self._pods.get(key, {}):
            return
        if uid is not None and self._pods[key][name].uid != uid:
            return
        del self._pods[key][name]
        if not self._pods[key]:
            del self._pods[key]
        self._changed(key)

    def _put_event(self, item: Object) -> None:
        # The watch brings such Events of every StatefulSet there is.
        if not item["involvedObject"]["name"].endswith(_ROLE_ENDINGS):
            return
        refusal = events.refusal(item)
        if refusal is None:
            return
        metadata, involved = item["metadata"], item["involvedObject"]
        when = item.get("lastTimestamp") or item.get("eventTime") or metadata["creationTimestamp"]
        entry = (metadata["uid"], when, refusal)
        stateful_set = Key(involved["namespace"], involved["name"])
        known = self._refusals[stateful_set]
        news = metadata["name"] not in known or known[metadata["name"]][2] != refusal
        known[metadata["name"]] = entry
        if news and (key := self._pipeline_with(stateful_set)) is not None:
            self._changed(key)

    def _pipeline_with(self, stateful_set: Key) -> Key | None:
        """Its name is the pipeline's and a role's."""
        for role in Role:
            key = Key(stateful_set.namespace, stateful_set.name.removesuffix(f"-{role}"))
            if (STATEFUL_SET.kind, stateful_set.name) in self.children(key):
                return key
        return None
