"""Of a live object, the fields that a manager has applied, as the API server keeps the list of them."""

from __future__ import annotations

from typing import Any

from diffusion_operator.update.owned import owned

LIVE: dict[str, Any] = {
    "metadata": {"name": "x", "managedFields": []},
    "spec": {
        "replicas": 2,
        "template": {
            "metadata": {"labels": {"ours": "1", "theirs": "2"}, "annotations": {"theirs": "3"}},
            "spec": {
                "containers": [
                    {
                        "name": "main",
                        "image": "w:1",
                        "args": ["--a", "--b"],
                        "terminationMessagePath": "/dev/termination-log",
                        "env": [
                            {"name": "A", "value": "1"},
                            {
                                "name": "B",
                                "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}},
                            },
                            {"name": "INJECTED", "value": "2"},
                        ],
                        "ports": [{"containerPort": 80, "protocol": "TCP", "name": "http"}],
                    },
                    {"name": "injected", "image": "s"},
                ],
                "volumes": [{"name": "tmp", "emptyDir": {}}],
                "tolerations": [{"key": "gpu"}],
                "dnsPolicy": "ClusterFirst",
            },
        },
    },
}
FIELDS: dict[str, Any] = {
    "f:spec": {
        "f:template": {
            "f:metadata": {"f:labels": {"f:ours": {}}},
            "f:spec": {
                "f:containers": {
                    'k:{"name":"main"}': {
                        ".": {},
                        "f:name": {},
                        "f:image": {},
                        "f:args": {},
                        "f:env": {
                            'k:{"name":"A"}': {".": {}, "f:name": {}, "f:value": {}},
                            'k:{"name":"B"}': {".": {}, "f:name": {}, "f:valueFrom": {".": {}, "f:fieldRef": {}}},
                        },
                        "f:ports": {
                            'k:{"containerPort":80,"protocol":"TCP"}': {".": {}, "f:containerPort": {}, "f:name": {}}
                        },
                    }
                },
                "f:volumes": {'k:{"name":"tmp"}': {".": {}, "f:name": {}, "f:emptyDir": {}}},
                "f:tolerations": {},
            },
        },
    }
}


def managed(*entries: dict[str, Any]) -> dict[str, Any]:
    return {**LIVE, "metadata": {**LIVE["metadata"], "managedFields": list(entries)}}


def entry(manager: str, **more: Any) -> dict[str, Any]:
    return {"manager": manager, "operation": "Apply", "fieldsType": "FieldsV1", "fieldsV1": FIELDS, **more}


def test_defaults_of_the_server_and_what_others_add_are_left_out() -> None:
    template = owned(managed(entry("others", fieldsV1={"f:spec": {}}), entry("ours")), "ours")["spec"]["template"]
    assert template == {
        "metadata": {"labels": {"ours": "1"}},
        "spec": {
            "containers": [
                {
                    "name": "main",
                    "image": "w:1",
                    "args": ["--a", "--b"],
                    "env": [
                        {"name": "A", "value": "1"},
                        {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                    ],
                    "ports": [{"containerPort": 80, "name": "http"}],
                }
            ],
            "volumes": [{"name": "tmp", "emptyDir": {}}],
            "tolerations": [{"key": "gpu"}],
        },
    }


def test_updates_and_writes_of_a_status_are_no_applies() -> None:
    assert owned(managed(entry("ours", operation="Update"), entry("ours", subresource="status")), "ours") == {}
    assert owned(LIVE, "ours") == {}
