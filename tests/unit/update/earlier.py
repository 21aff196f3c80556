"""What an earlier operator, of other code, made of a resource."""

from __future__ import annotations

import copy
from typing import Any

from diffusion_operator.api import from_live, with_defaults
from diffusion_operator.render import Images, Templates, templates
from diffusion_operator.update.revision import Revision
from testbed.examples import resource

OLD = Images(worker="example/worker:1", router="example/router:1")
NEW = Images(worker="example/worker:2", router="example/router:2")

Resource = dict[str, Any]


def live(name: str = "digits", **sections: Any) -> Resource:
    """An example as the API server has it, with values set in its spec's sections."""
    document = resource(name)
    for key, value in sections.items():
        if isinstance(value, dict):
            document["spec"].setdefault(key, {}).update(value)
        else:
            document["spec"][key] = value
    found: Resource = with_defaults(document)
    return found


def made_then(found: Resource, images: Images = OLD) -> Templates:
    """It knew one variable less and one more, and another port of the workers' health."""
    now = templates(from_live(found), images)
    pods = copy.deepcopy(dict(now.pods))
    for pod in pods.values():
        main = pod["spec"]["containers"][0]
        main["env"] = [item for item in main["env"] if item["name"] != "POD_UID"] + [{"name": "OLD", "value": "1"}]
        main["livenessProbe"]["periodSeconds"] = 77
    return Templates("0ldgenerat", {**now.variables, "DIFFUSION_WORKER_GENERATION": "0ldgenerat"}, pods)


def written_then(found: Resource, images: Images = OLD) -> Revision:
    return Revision(number=3, spec=found["spec"], images=images, templates=made_then(found, images))
