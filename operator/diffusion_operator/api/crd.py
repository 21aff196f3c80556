"""The custom resource definition, read from the very file that `kubectl apply` installs.

A wheel carries it as package data; in an editable install the package lies in the repository, whose `crds/` folder is
the source. Nothing here is written down a second time: schema, defaults and rules come from that file alone.
"""

from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import yaml

GROUP: Final = "diffusion-operator.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
KIND: Final = "DiffusionPipeline"

FILE: Final = "diffusionpipelines.yaml"


def definition_text() -> str:
    """The file's text. Raises FileNotFoundError if the installation lacks it."""
    packaged = files("diffusion_operator") / "crds" / FILE
    if packaged.is_file():
        return packaged.read_text(encoding="utf-8")
    repository = Path(__file__).parents[3] / "crds" / FILE
    if repository.is_file():
        return repository.read_text(encoding="utf-8")
    raise FileNotFoundError(
        f"{FILE} is neither in the package diffusion_operator nor at {repository}: the installation is incomplete, "
        "install diffusion-operator again"
    )


@cache
def schema() -> dict[str, Any]:
    """The structural schema of VERSION. Shared: do not change it."""
    definition = yaml.safe_load(definition_text())
    for version in definition["spec"]["versions"]:
        if version["name"] == VERSION:
            found: dict[str, Any] = version["schema"]["openAPIV3Schema"]
            return found
    raise LookupError(f"{FILE} has no version {VERSION}: package and definition are of different releases")
