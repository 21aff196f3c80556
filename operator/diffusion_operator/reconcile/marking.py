"""Whether a child is as it was applied last, and was to be: so that what is so is not sent again.

An annotation tells for which rendering it was applied, and a comparison of every field that we would send tells whether
somebody changed it since. Only both together will do: the annotation alone misses a hand edit, the comparison alone a
field that was dropped from the rendering.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

from diffusion_operator.api import GROUP

Object = dict[str, Any]

APPLIED_ANNOTATION: Final = f"{GROUP}/applied"
# The version of an empty store. An apply that names a version is refused (409) if the object exists with another.
NO_VERSION: Final = "1"


def marked(adopted: Object) -> Object:
    """With the annotation that tells what it was applied for."""
    text = json.dumps(adopted, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    metadata = adopted["metadata"]
    annotations = {**metadata.get("annotations", {}), APPLIED_ANNOTATION: digest}
    return {**adopted, "metadata": {**metadata, "annotations": annotations}}


def rendered_so(marked: Object, live: Mapping[str, Any]) -> bool:
    """Whether the live object was applied for this very rendering."""
    annotation = live["metadata"].get("annotations", {}).get(APPLIED_ANNOTATION)
    return bool(annotation == marked["metadata"]["annotations"][APPLIED_ANNOTATION])


def only_new(marked: Object) -> Object:
    """To be applied where there is no such object yet, else refused (409).

    What somebody else made is theirs. Without a conflict of values an apply would merge into it, and make it a child
    that goes when its owner does.
    """
    return {**marked, "metadata": {**marked["metadata"], "resourceVersion": NO_VERSION}}
