"""The custom resource definitions, read from the very files that `kubectl apply` installs.

A wheel carries them as package data; in an editable install the package lies in the repository, whose `crds/` folder is
the source. Nothing here is written down a second time: schema, defaults and rules come from those files alone.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import yaml

GROUP: Final = "diffusion-operator.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
KIND: Final = "DiffusionPipeline"
PLURAL: Final = "diffusionpipelines"
SCALER_KIND: Final = "DiffusionPipelineRoleScaler"
SCALER_PLURAL: Final = "diffusionpipelinerolescalers"
CACHE_KIND: Final = "ModelCache"
CACHE_PLURAL: Final = "modelcaches"
PLURALS: Final = (PLURAL, SCALER_PLURAL, CACHE_PLURAL)


def definition_text(plural: str = PLURAL) -> str:
    """The text of a definition's file. Raises FileNotFoundError if the installation lacks it."""
    file = f"{plural}.yaml"
    packaged = files("diffusion_operator") / "crds" / file
    if packaged.is_file():
        return packaged.read_text(encoding="utf-8")
    repository = Path(__file__).parents[3] / "crds" / file
    if repository.is_file():
        return repository.read_text(encoding="utf-8")
    raise FileNotFoundError(
        f"{file} is neither in the package diffusion_operator nor at {repository}: the installation is incomplete, "
        "install diffusion-operator again"
    )


@cache
def definition(plural: str = PLURAL) -> dict[str, Any]:
    """The CustomResourceDefinition. Shared: do not change it."""
    loaded: dict[str, Any] = yaml.load(definition_text(plural), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return loaded


@cache
def schema(plural: str = PLURAL) -> dict[str, Any]:
    """The structural schema of VERSION. Shared: do not change it."""
    for version in definition(plural)["spec"]["versions"]:
        if version["name"] == VERSION:
            found: dict[str, Any] = version["schema"]["openAPIV3Schema"]
            return found
    raise LookupError(f"{plural}.yaml has no version {VERSION}: package and definition are of different releases")
