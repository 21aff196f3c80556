"""A ModelCache as typed values: what is pulled to which nodes ahead of pods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from diffusion_operator.api import crd, reading
from diffusion_operator.api.live import read_live
from diffusion_operator.api.model import NODE_FOLDER, Model, SecretKey
from diffusion_operator.api.pipeline import CaBundle, Image
from diffusion_operator.api.role import RoleSpec
from diffusionpipeline.words import MODEL_ROLES, Role


@dataclass(frozen=True, kw_only=True)
class ModelCache:
    name: str
    namespace: str
    id: str
    """Repository on the hub."""
    revision: str
    """Empty: the repository's default branch."""
    variant: str
    """Empty: none."""
    allow_pickle: bool
    token: SecretKey | None
    image: Image
    """Of the workers."""
    pull_secrets: tuple[str, ...]
    roles: Mapping[Role, RoleSpec]
    """Those that are pulled: where their pods go, and what these may use."""
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    ca_bundle: CaBundle | None = None
    node_folder: str = NODE_FOLDER

    def lacks(self, model: Model, roles: tuple[Role, ...]) -> str:
        """What a pipeline with this model can't have from it, in words; empty: nothing."""
        for field_name, ours, theirs in (
            ("id", self.id, model.id),
            ("revision", self.revision, model.revision),
            ("variant", self.variant, model.variant),
        ):
            if ours != theirs:
                return f"its model.{field_name} is {ours or 'none'}, that of the pipeline {theirs or 'none'}"
        missing = [role for role in roles if role not in self.roles]
        return f"it does not pull what the {missing[0]} loads: add spec.roles.{missing[0]} to it" if missing else ""


def cache_from_live(resource: Mapping[str, Any]) -> ModelCache:
    """As the API server gave it, which checked it. Raises InvalidResourceError for what can't be rendered."""
    return read_live(resource, crd.CACHE_PLURAL, _read)


def _read(resource: Mapping[str, Any]) -> ModelCache:
    metadata, spec = resource["metadata"], resource["spec"]
    model, given = spec["model"], spec["roles"]
    wanted: tuple[Role, ...] = MODEL_ROLES
    roles = {role: reading.role_spec(role, given[role], 0) for role in wanted if role in given}
    return ModelCache(
        name=metadata["name"],
        namespace=metadata["namespace"],
        id=model["id"],
        revision=model.get("revision", ""),
        variant=model.get("variant", ""),
        allow_pickle=model["allowPickle"],
        token=reading.secret_key(model.get("tokenSecretRef")),
        image=reading.image(spec.get("image", {})),
        pull_secrets=tuple(secret["name"] for secret in spec.get("imagePullSecrets", ())),
        roles=roles,
    )
