"""However edits, autoscalers and an operator that dies interleave, each role has the pods that its one writer says.

A `Static` role's writer is the resource, an `External` role's is its scaler. The regression that this guards against is
the one that every operator with scalers had at first: a number that somebody wrote is overwritten by an older one.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from cluster.user import User
from testbed.controlplane.client import Refused
from testbed.controlplane.cluster import Cluster
from testbed.controlplane.operators import Operator

SEEDS = range(4)
STEPS = 25
QUIET_SECONDS = 60
MODEL_ROLES = ("encoder", "denoiser", "decoder")
WRITES = {("create", ""), ("delete", ""), ("patch", "status")}


@dataclass
class Written:
    """What was written about one role."""

    replicas: int = 1
    """By the resource."""
    external: bool = False
    scaler: str = ""
    """uid of the scaler that was last seen."""
    scaled: int = 0
    """The number that this scaler has."""
    seeds: set[int] = field(default_factory=lambda: {1})
    """What may have run since all was quiet: a new scaler begins with one of these numbers."""


class History:
    """One pipeline's, made of steps that are drawn; `told` has those that were taken."""

    def __init__(self, user: User, operator: Operator, seed: int) -> None:
        self.user = user
        self.operator = operator
        self.told: list[str] = []
        self.written = {role: Written() for role in MODEL_ROLES}
        self.suspended = False
        self.running = True
        self._drawn = random.Random(seed)
        user.make()

    def step(self) -> None:
        roles: tuple[str, ...] = MODEL_ROLES
        choices: list[Callable[[str, int], None]] = (
            [self.edit_the_resource] * 3 + [self.hand_over_or_take_back] * 3 + [self.delete_the_scaler] * 2
        )
        choices += [self.suspend_or_resume, self.be_quiet, self.be_quiet]
        choices += [self.kill_the_operator] * 2 if self.running else [self.start_the_operator] * 3
        if external := [role for role in MODEL_ROLES if self.written[role].external]:
            choices += [self.write_to_the_scaler] * 6
        chosen = self._drawn.choice(choices)
        if chosen in (self.write_to_the_scaler, self.delete_the_scaler) and external:
            roles = tuple(external)
        role, replicas = self._drawn.choice(roles), self._drawn.randint(0, 5)
        self.told.append(f"{chosen.__name__} {role} {replicas}")
        chosen(role, replicas)

    def edit_the_resource(self, role: str, replicas: int) -> None:
        written = self.written[role]
        if written.external and replicas != written.replicas:
            with pytest.raises(Refused, match="scale the role by its scaler instead"):
                self.user.edit(roles={role: {"replicas": replicas}})
        else:
            self.user.edit(roles={role: {"replicas": replicas}})
            self._resource_says(written, replicas)

    def write_to_the_scaler(self, role: str, replicas: int) -> None:
        try:
            scale = self.user.set_scaler(replicas, role)
        except Refused as refused:
            assert refused.code == 404, refused
            return
        written = self.written[role]
        written.scaler, written.scaled = scale["metadata"]["uid"], replicas
        written.seeds.add(replicas)

    def hand_over_or_take_back(self, role: str, replicas: int) -> None:
        written = self.written[role]
        written.external = not written.external
        mode = "External" if written.external else "Static"
        self.user.edit(roles={role: {"scaling": {"mode": mode}, "replicas": replicas}})
        self._resource_says(written, replicas)

    def delete_the_scaler(self, role: str, _: int) -> None:
        try:
            self.user.api.delete(f"{self.user.scalers}/{self.user.name}-{role}")
        except Refused as refused:
            assert refused.code == 404, refused

    def suspend_or_resume(self, *_: str | int) -> None:
        self.suspended = not self.suspended
        self.user.edit(suspend=self.suspended)
        for written in self.written.values():
            # Without pods a new scaler begins with what the resource says.
            written.seeds.add(written.replicas)

    def kill_the_operator(self, *_: str | int) -> None:
        self.operator.kill()
        self.running = False

    def start_the_operator(self, *_: str | int) -> None:
        self.operator.start()
        self.running = True

    def be_quiet(self, *_: str | int) -> None:
        if not self.running:
            self.start_the_operator()
        self.user.cluster.until(self._is_so, QUIET_SECONDS, "each role has what its writer says")
        scalers = self._scalers()
        for role, written in self.written.items():
            if written.external:
                uid, replicas = scalers[role]
                if uid == written.scaler:
                    assert replicas == written.scaled, f"the {role}'s scaler has not the number that was written to it"
                else:
                    seeds = {max(1, seed) for seed in written.seeds}
                    assert replicas in seeds, f"the {role}'s new scaler began with {replicas}, not one of {seeds}"
                written.scaler, written.scaled = uid, replicas
            written.seeds = {written.scaled if written.external else written.replicas}
            if self.suspended:
                written.seeds.add(written.replicas)

    @staticmethod
    def _resource_says(written: Written, replicas: int) -> None:
        written.seeds |= {written.replicas, replicas}
        written.replicas = replicas

    def _is_so(self) -> bool:
        """Whether pods are as their writers say, and nobody is about to change it."""
        live = self.user.live()
        if live.get("status", {}).get("observedGeneration") != live["metadata"]["generation"]:
            return False
        if self.operator.metric("workqueue_depth") or self.operator.metric("controller_runtime_active_workers"):
            return False
        scalers, external = self._scalers(), {role for role, written in self.written.items() if written.external}
        wanted = {role: written.replicas for role, written in self.written.items()}
        wanted |= {role: replicas for role, (_, replicas) in scalers.items()}
        wanted |= {"router": 1}
        if self.suspended:
            wanted = dict.fromkeys(wanted, 0)
        return scalers.keys() == external and self.user.counts() == wanted

    def _scalers(self) -> dict[str, tuple[str, int]]:
        """uid and number of each that stays."""
        found = self.user.api.items(self.user.scalers)
        return {
            one["spec"]["role"]: (one["metadata"]["uid"], one["spec"]["replicas"])
            for one in found
            if one["spec"]["pipelineRef"]["name"] == self.user.name and "deletionTimestamp" not in one["metadata"]
        }


@pytest.mark.parametrize("seed", SEEDS)
def test_no_number_of_pods_is_lost_or_overwritten(
    seed: int, cluster: Cluster, namespace: str, operators: Callable[..., Operator]
) -> None:
    mark = cluster.audit.mark()
    history = History(User(cluster, namespace, "painter"), operators(), seed)
    try:
        for _ in range(STEPS):
            history.step()
        history.be_quiet()
    except BaseException as failure:
        failure.add_note("\n".join(history.told))
        raise
    written = cluster.audit.writes(mark, resource="diffusionpipelinerolescalers", user=f"operator:{namespace}")
    assert {(entry.verb, entry.subresource) for entry in written} <= WRITES
