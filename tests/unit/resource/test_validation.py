"""A resource is defaulted and checked by the definition that `kubectl apply` installs; each fault names its field."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml

from diffusion_operator.api import InvalidResourceError, Role, crd, load_pipeline, with_defaults

MINIMAL = "model: {source: Bundled}"


def resource(spec: str, name: str = "digits") -> dict[str, Any]:
    return {
        "apiVersion": "diffusion-operator.dev/v1alpha1",
        "kind": "DiffusionPipeline",
        "metadata": {"name": name},
        "spec": yaml.safe_load(spec),
    }


def faults(given: object) -> list[str]:
    with pytest.raises(InvalidResourceError) as caught:
        with_defaults(given)
    return [str(error) for error in caught.value.errors]


def test_what_is_left_out_has_its_default() -> None:
    pipeline = load_pipeline(resource(MINIMAL))
    assert {role: spec.replicas for role, spec in pipeline.roles.items()} == dict.fromkeys(Role, 1)
    assert (pipeline.model.id, pipeline.model.dtype, pipeline.model.allow_pickle) == ("digits", "bfloat16", False)
    assert pipeline.transport.pool_size == 2**30
    assert (pipeline.transport.port_min, pipeline.transport.port_max) == (15000, 17000)
    assert (pipeline.router.http_port, pipeline.router.lease_seconds) == (8000, 15)


def test_the_stored_form_has_the_replicas_that_kubectl_scale_reads() -> None:
    assert with_defaults(resource(MINIMAL))["spec"]["roles"]["denoiser"]["replicas"] == 1


def test_defaulting_changes_nothing_that_is_given_and_nothing_the_second_time() -> None:
    once = with_defaults(resource("model: {id: a/b}\nroles: {denoiser: {replicas: 3, env: [{name: A}]}}"))
    assert once["spec"]["roles"]["denoiser"] == {"replicas": 3, "env": [{"name": "A"}]}
    assert with_defaults(once) == once


def test_null_means_left_out() -> None:
    assert load_pipeline(resource("model: {id: a/b, revision: null}\nroles:")).roles[Role.DENOISER].replicas == 1


def test_a_colocated_role_has_the_denoisers_pods_and_process() -> None:
    spec = MINIMAL + "\nroles: {encoder: {colocateWith: denoiser}, denoiser: {replicas: 3}}"
    pipeline = load_pipeline(resource(spec))
    assert pipeline.roles[Role.ENCODER].replicas == 3
    assert [(worker.role, roles) for worker, roles in pipeline.workers()] == [
        (Role.DENOISER, (Role.ENCODER, Role.DENOISER)),
        (Role.DECODER, (Role.DECODER,)),
    ]


def test_status_in_a_file_is_passed_over_as_the_api_server_does() -> None:
    assert "status" not in with_defaults({**resource(MINIMAL), "status": {"anything": 1}})


ON_THE_HOST = "networkPolicy: {mode: None}\ntransport: {rdma: {hostNetwork: true}}"

BROKEN_RULES = {
    "model: {}": "spec.model: id is required unless source is Bundled",
    "model: {source: Bundled, id: letters}": "spec.model: the only bundled model is digits",
    "model: {source: Path, id: models/sd}": "spec.model: id must be an absolute path",
    "model: {source: Bundled, revision: main}": "spec.model: revision belongs to source Hub",
    "model: {source: Bundled, variant: fp16}": "spec.model: the bundled model has no variants",
    MINIMAL
    + "\nroles: {encoder: {colocateWith: denoiser, threads: 2}}": "spec.roles.encoder: a colocated role runs in",
    MINIMAL + "\nroles: {decoder: {colocateWith: denoiser, env: []}}": "spec.roles.decoder: a colocated role runs in",
    MINIMAL
    + "\nsecurityProfile: OpenShift\ntransport: {backend: shm}": "spec: securityProfile: OpenShift is for pods that",
    MINIMAL + "\ncommonLabels: {app.kubernetes.io/name: mine}": "spec.commonLabels: diffusion-operator.dev/…, app.kub",
    MINIMAL
    + "\ncommonAnnotations: {diffusion-operator.dev/x: ''}": "spec.commonAnnotations: annotations named diffusion",
    MINIMAL + "\nroles: {router: {replicas: 2}}": "spec.roles.router: a pipeline has exactly one router",
    MINIMAL
    + "\nroles: {denoiser: {batching: {maxTokens: 9}}}": "spec.roles.denoiser.batching: maxTokens and maxRequests",
    MINIMAL
    + "\nroles: {encoder: {colocateWith: denoiser, replicas: 2}}": "spec.roles: encoder.replicas must be left out",
    MINIMAL
    + "\nroles: {decoder: {colocateWith: denoiser, replicas: 2}}": "spec.roles: decoder.replicas must be left out",
    MINIMAL
    + "\ntransport: {protocol: tcp, fallback: Deny}": "spec.transport: fallback: Deny forbids TCP, which protocol: tcp",
    MINIMAL + "\ntransport: {backend: tcp, protocol: rdma}": "spec.transport: backend: tcp has no RDMA",
    MINIMAL
    + "\ntransport: {backend: tcp, fallback: Deny}": "spec.transport: fallback: Deny forbids TCP, which backend: tcp",
    MINIMAL + "\ntransport: {backend: shm, protocol: tcp}": "spec.transport: backend: shm uses no network",
    MINIMAL + "\ntransport: {poolSize: 1000Ki}": "spec.transport: poolSize must be at least 1Mi",
    MINIMAL + "\ntransport: {rpcPortRange: {min: 17000, max: 15000}}": "spec.transport.rpcPortRange: min must be below",
    MINIMAL
    + "\ntransport: {rpcPortRange: {min: 30000, max: 40000}}": "spec.transport.rpcPortRange: the range must lie",
    MINIMAL
    + "\ntransport: {rpcPortRange: {min: 15000, max: 15062}}": "spec.transport.rpcPortRange: the range must span",
    MINIMAL + "\nscheduling: {policy: Fifo, lateShare: 4}": "spec.scheduling: targetFactor and lateShare are of policy",
    MINIMAL + "\nrouter: {httpPort: 50051}": "spec.router: httpPort and grpcPort must differ",
    "model: {id: a/b, claimName: c}": "spec.model: claimName belongs to source PersistentVolumeClaim",
    "model: {source: PersistentVolumeClaim, id: m}": "spec.model: claimName belongs to source PersistentVolumeClaim",
    "model: {id: a/b, subPath: sd}": "spec.model: subPath is a folder in a claim or image",
    "model: {source: Path, id: /m, tokenSecretRef: {name: s}}": "spec.model: tokenSecretRef belongs to source Hub",
    "model: {source: Bundled, cache: {type: PerPod}}": "spec.model: only models of source Hub or Path use a cache",
    "model: {source: Path, id: /m, cache: {downloadPolicy: Never}}": "spec.model: cache.downloadPolicy belongs to",
    "model: {id: a/b, cache: {type: PersistentVolumeClaim}}": "spec.model.cache: claimName belongs to type",
    "model: {id: a/b, cache: {claimName: c}}": "spec.model.cache: claimName belongs to type",
    "model: {id: a/b, cache: {type: PersistentVolumeClaim, claimName: c, size: 1Gi}}": "spec.model.cache: an existing",
    "model: {id: a/b, cache: {type: ModelCache}}": "spec.model.cache: modelCacheName belongs to type ModelCache",
    "model: {id: a/b, cache: {type: ModelCache, modelCacheName: c, size: 1Gi}}": "spec.model.cache: a ModelCache takes",
    "model: {source: Path, id: /m, cache: {type: ModelCache, modelCacheName: c}}": "spec.model: a ModelCache is of a",
    "model: {id: a/b, cache: {storageClassName: fast}}": "spec.model.cache: storageClassName belongs to type PerPod",
    "model: {id: a/b, cache: {readOnly: true}}": "spec.model.cache: a read-only cache must be there already",
    "model: {source: Bundled, adapters: [{name: a, source: Path, id: a}]}": (
        "spec.model.adapters[0]: id must be an absolute path when source is Path"
    ),
    "model: {source: Bundled, adapters: [{name: a, source: Path, id: /a, revision: main}]}": (
        "spec.model.adapters[0]: revision belongs to source Hub"
    ),
    "model: {source: Bundled, adapters: [{name: a, source: Path, id: /a.safetensors, file: a.safetensors}]}": (
        "spec.model.adapters[0]: id names a file already"
    ),
    "model: {source: Bundled, adapters: [{name: a, source: Path, id: /a}], tokenSecretRef: {name: s}}": (
        "spec.model: tokenSecretRef belongs to source Hub, of the model, an adapter"
    ),
    "model: {id: a/b, cache: {type: ModelCache, modelCacheName: c}, adapters: [{name: a, source: Hub, id: c/d}]}": (
        "spec.model: a ModelCache holds its model alone"
    ),
    "model: {source: Bundled, controlNets: [{name: a, source: Path, id: a}]}": (
        "spec.model.controlNets[0]: id must be an absolute path when source is Path"
    ),
    "model: {source: Bundled, controlNets: [{name: a, source: Path, id: /a, revision: main}]}": (
        "spec.model.controlNets[0]: revision belongs to source Hub"
    ),
    "model: {source: Bundled, controlNets: [{name: a, source: Path, id: /a, subfolder: ../b}]}": (
        "spec.model.controlNets[0].subfolder: "
    ),
    "model: {id: a/b, cache: {type: ModelCache, modelCacheName: c}, controlNets: [{name: a, source: Hub, id: c/d}]}": (
        "spec.model: a ModelCache holds its model alone"
    ),
    "model: {source: Bundled, ipAdapters: [{name: a, source: Path, id: a, file: b.safetensors}]}": (
        "spec.model.ipAdapters[0]: id must be an absolute path when source is Path"
    ),
    "model: {source: Bundled, ipAdapters: [{name: a, source: Path, id: /a, file: b.safetensors, revision: main}]}": (
        "spec.model.ipAdapters[0]: revision belongs to source Hub"
    ),
    "model: {source: Bundled, ipAdapters: [{name: a, source: Path, id: /a, file: b.safetensors, "
    "imageEncoder: {id: c}}]}": "spec.model.ipAdapters[0]: imageEncoder.id must be an absolute path when source is",
    "model: {source: Bundled, ipAdapters: [{name: a, source: Path, id: /a, file: b.safetensors, "
    "imageEncoder: {id: /c, revision: d}}]}": "spec.model.ipAdapters[0]: imageEncoder.revision belongs to source Hub",
    "model: {id: a/b, ipAdapters: [{name: a, source: Hub, id: c/d, file: b.safetensors, "
    "imageEncoder: {revision: d}}]}": "spec.model.ipAdapters[0].imageEncoder: revision is of a repository of its own",
    "model: {source: Bundled, ipAdapters: [{name: a, source: Path, id: /a, file: b.bin}]}": (
        "spec.model: a .bin is a pickle, which can run any code: name the IP-Adapter's .safetensors as its file"
    ),
    "model: {source: Bundled, tokenSecretRef: {name: s}, ipAdapters: [{name: a, source: Path, id: /a, "
    "file: b.safetensors}]}": ("spec.model: tokenSecretRef belongs to source Hub, of the model, an adapter"),
    "model: {id: a/b, cache: {type: ModelCache, modelCacheName: c}, ipAdapters: [{name: a, source: Hub, id: c/d, "
    "file: e.safetensors}]}": ("spec.model: a ModelCache holds its model alone"),
    "model: {source: Bundled, maxLoadedAdapters: 2}": "spec.model: maxLoadedAdapters is about the adapters of",
    MINIMAL + "\nroles: {denoiser: {cacheRetention: {whenScaled: Delete}}}": "spec: cacheRetention is about the claims",
    MINIMAL + "\nroles: {encoder: {colocateWith: denoiser, gpus: 1}}": "spec.roles.encoder: a colocated role runs in",
    MINIMAL + "\nroles: {denoiser: {gpus: 4}}": "spec.roles.denoiser.gpus: a worker computes on one GPU, and more of",
    MINIMAL + "\nroles: {denoiser: {gpus: 1, device: cpu}}": "spec.roles.denoiser: gpus are of no use to device cpu",
    MINIMAL + "\nroles: {decoder: {gpuResourceName: amd.com/gpu}}": "spec.roles.decoder: gpuResourceName says what",
    MINIMAL
    + "\nroles: {router: {updateStrategy: {type: OnDelete, partition: 1}}}": "spec.roles.router.updateStrategy: OnDel",
    MINIMAL + "\nroles: {router: {env: [{name: A, value: '', valueFrom: {fieldRef: {fieldPath: p}}}]}}": (
        "spec.roles.router.env[0]: a variable has one value"
    ),
    MINIMAL
    + "\nroles: {router: {env: [{name: A, valueFrom: {}}]}}": "spec.roles.router.env[0].valueFrom: valueFrom has one",
    MINIMAL + "\ntransport: {protocol: rdma}": "spec.transport: protocol: rdma needs devices",
    MINIMAL + "\ntransport: {protocol: rdma, rdma: {devices: [mlx5_0]}}": "spec.transport: protocol: rdma needs",
    MINIMAL + "\ntransport: {protocol: tcp, rdma: {resourceName: rdma/hca}}": "spec.transport: rdma has no effect here",
    MINIMAL + "\ntransport: {backend: shm, rdma: {}}": "spec.transport: rdma has no effect here",
    MINIMAL + "\nnetworkPolicy: {mode: None}\ntransport: {rdma: {hostNetwork: true, networks: [roce]}}": (
        "spec.transport.rdma: pods on the host's"
    ),
    MINIMAL + "\nnetworkPolicy: {mode: None}\ntransport: {rdma: {hostNetwork: true, networkSelections: [{name: a}]}}": (
        "spec.transport.rdma: pods on the host's network have no networks of their own: leave out networkSelections"
    ),
    MINIMAL + "\ntransport: {rdma: {networks: [a], networkSelections: [{name: a}]}}": (
        "spec.transport.rdma: networks and networkSelections are two forms"
    ),
    MINIMAL + "\ntransport: {rdma: {resourceName: rdma/a, resourceNames: [rdma/b]}}": (
        "spec.transport.rdma: devices come by one of"
    ),
    MINIMAL + "\ntransport: {rdma: {resourceClaimTemplateName: a, count: 2}}": (
        "spec.transport.rdma: count is of resourceName"
    ),
    MINIMAL + "\nroles: {denoiser: {resourceClaims: [{name: gpu}]}}": (
        "spec.roles.denoiser.resourceClaims[0]: a claim is one of the pod's own"
    ),
    MINIMAL + "\nroles: {encoder: {colocateWith: denoiser, resourceClaims: []}}": (
        "spec.roles.encoder: a colocated role runs in"
    ),
    MINIMAL + "\nsecurityProfile: OpenShift\ntransport: {rdma: {resourceNames: [rdma/a]}}": (
        "spec: securityProfile: OpenShift is for pods that"
    ),
    MINIMAL + "\nsecurityProfile: OpenShift\ntransport: {rdma: {resourceClaimTemplateName: a}}": (
        "spec: securityProfile: OpenShift is for pods that"
    ),
    MINIMAL + "\ntransport: {backend: shm, hugePages: 2Mi}": "spec.transport: hugePages are not for backend shm",
    MINIMAL + "\ntransport: {backend: tcp, edges: {}}": "spec.transport: edges are of backend mooncake",
    MINIMAL + "\ntransport: {edges: {encoderToDenoiser: {protocol: tcp}, denoiserToDecoder: {protocol: tcp}}}": (
        "spec.transport: both edges have the same protocol"
    ),
    MINIMAL + "\ntransport: {edges: {denoiserToDecoder: {protocol: rdma}}}": (
        "spec.transport: protocol: rdma needs devices"
    ),
    MINIMAL + "\ntransport: {edges: {encoderToDenoiser: {protocol: auto}, denoiserToDecoder: {protocol: rdma}}}": (
        "spec.transport: protocol: rdma needs devices"
    ),
    MINIMAL + "\ntransport: {protocol: tcp, edges: {encoderToDenoiser: {protocol: tcp}}, rdma: {gidIndex: 1}}": (
        "spec.transport: rdma has no effect here"
    ),
    MINIMAL
    + "\nroles: {encoder: {colocateWith: denoiser}}\ntransport: {edges: {encoderToDenoiser: {protocol: tcp}}}": (
        "spec: nothing is sent to or from a colocated role"
    ),
    MINIMAL
    + "\nroles: {decoder: {colocateWith: denoiser}}\ntransport: {edges: {denoiserToDecoder: {protocol: tcp}}}": (
        "spec: nothing is sent to or from a colocated role"
    ),
    MINIMAL + "\ntransport: {rdma: {hostNetwork: true}}": "spec: networkPolicy.mode: Isolate",
    MINIMAL + "\ntransport: {backend: shm}\ntopology: {key: zone}": "spec: topology has no effect with backend shm",
    f"{MINIMAL}\n{ON_THE_HOST}\ntopology: {{key: kubernetes.io/hostname}}": (
        "spec: on the host's network each worker has a node of its own: set topology.key"
    ),
    MINIMAL + "\nnetworkPolicy: {mode: None, metricsFrom: []}": "spec.networkPolicy: httpFrom, grpcFrom, metricsFrom",
    MINIMAL + "\nnetworkPolicy: {httpFrom: [{}]}": "spec.networkPolicy.httpFrom[0]: a peer is an ipBlock, or",
    MINIMAL + "\nnetworkPolicy: {grpcFrom: [{podSelector: {}, ipBlock: {cidr: 10.0.0.0/8}}]}": (
        "spec.networkPolicy.grpcFrom[0]: a peer is an ipBlock, or"
    ),
    MINIMAL + "\nnetworkPolicy: {metricsFrom: [{podSelector: {matchExpressions: [{key: a, operator: In}]}}]}": (
        "spec.networkPolicy.metricsFrom[0].podSelector.matchExpressions[0]: operators In and NotIn need values"
    ),
    MINIMAL + "\nnetworkPolicy: {egress: [{ports: [{port: 2, endPort: 1}]}]}": (
        "spec.networkPolicy.egress[0].ports[0]: endPort must not be below port"
    ),
    MINIMAL + "\nrouter: {service: {ports: [grpc]}}": "spec.router.service: ports must have http",
    MINIMAL + "\nrouter: {service: {loadBalancerSourceRanges: [10.0.0.0/8]}}": (
        "spec.router.service: loadBalancerSourceRanges and loadBalancerClass belong to type LoadBalancer"
    ),
    MINIMAL + "\nrouter: {service: {type: NodePort, loadBalancerClass: example.com/x}}": (
        "spec.router.service: loadBalancerSourceRanges and loadBalancerClass belong to type LoadBalancer"
    ),
    MINIMAL + "\nrouter: {service: {externalTrafficPolicy: Local}}": (
        "spec.router.service: externalTrafficPolicy is about what comes from outside"
    ),
    MINIMAL + "\nrouter: {storage: {storageClassName: fast}}": "spec.router.storage: storageClassName belongs to type",
}


@pytest.mark.parametrize("spec", BROKEN_RULES)
def test_a_broken_rule_is_refused_with_its_field_and_remedy(spec: str) -> None:
    found = faults(resource(spec))
    assert len(found) == 1
    assert found[0].startswith(BROKEN_RULES[spec])


BROKEN_QUANTITIES = {
    MINIMAL + "\nroles: {denoiser: {gpus: 1, resources: {limits: {nvidia.com/gpu: 1}}}}": (
        "spec.roles.denoiser.resources.limits.nvidia.com/gpu: GPUs are given twice: leave nvidia.com/gpu out of limits"
    ),
    MINIMAL + "\nroles: {encoder: {resources: {requests: {cpu: 1}, limits: {cpu: 999m}}}}": (
        "spec.roles.encoder.resources: a request must not be above the limit of the same name: raise the limit"
    ),
    MINIMAL + "\nroles: {router: {resources: {requests: {cpu: 0.5}, limits: {cpu: 0.25}}}}": (
        "spec.roles.router.resources: a request must not be above"
    ),
}
"""What the definition takes, and no pod could have: rules of CEL do not see a quantity."""


@pytest.mark.parametrize("spec", BROKEN_QUANTITIES)
def test_quantities_that_no_pod_could_have_are_refused_with_their_field_and_remedy(spec: str) -> None:
    with pytest.raises(InvalidResourceError) as caught:
        load_pipeline(resource(spec))
    assert str(caught.value).startswith(BROKEN_QUANTITIES[spec])


@pytest.mark.parametrize(
    ("written", "kept"),
    [("0.5", "0.5"), ("2", 2), ("2.0", "2"), ("0.0005", "0.0005"), ("1.0e+9", "1000000000"), ("500m", "500m")],
)
def test_a_quantity_may_be_any_number_as_in_a_pod(written: str, kept: str | int) -> None:
    spec = f"{MINIMAL}\nroles: {{denoiser: {{resources: {{requests: {{cpu: {written}}}, limits: {{cpu: 2e9}}}}}}}}"
    assert load_pipeline(resource(spec)).roles[Role.DENOISER].resources["requests"] == {"cpu": kept}


def test_a_name_that_pods_could_not_have_is_refused() -> None:
    for name in ("Digits", "1digits", "digits-", "d" * 41):
        assert faults(resource(MINIMAL, name))[0].startswith("metadata.name must be at most 40 characters")
    with_defaults(resource(MINIMAL, "d" * 40))


def test_every_rule_of_the_definition_has_a_resource_here_that_breaks_it() -> None:
    broken = [message for spec in BROKEN_RULES for message in faults(resource(spec))]
    broken += faults(resource(MINIMAL, "Digits"))
    for rule in _rules(crd.schema()):
        # Those about edits have tests of their own.
        assert "oldSelf" in rule["rule"] or any(rule["message"] in message for message in broken), rule["rule"]


WRONG_VALUES = {
    MINIMAL + "\nroles: {encoder: {cacheShare: 1.1}}": "spec.roles.encoder.cacheShare",
    MINIMAL + "\nroles: {encoder: {cacheShare: -0.1}}": "spec.roles.encoder.cacheShare",
    "model: {source: Bundled, schedulers: [{name: a}]}": "spec.model.schedulers[0]: lacks the required field class",
    "model: {source: Bundled, schedulers: [{name: a, class: ../x}]}": "spec.model.schedulers[0].class: ",
    "model: {source: Bundled, schedulers: [{name: a, class: A}, {name: a, class: B}]}": "spec.model.schedulers",
    "model: {source: Bundled, schedulers: [{name: a, class: A, options: {b: [1]}}]}": (
        "spec.model.schedulers[0].options.b: must be a number, a text, true or false, not a list ([1])"
    ),
    "model: {source: Bundled, schedulers: [{name: a, class: A, options: {b: {c: 1}}}]}": (
        "spec.model.schedulers[0].options.b: must be a number, a text, true or false, not an object"
    ),
    "model: {source: Bundled, schedulers: [{name: a, class: A, options: {b: $(HF_TOKEN)}}]}": (
        "spec.model.schedulers[0].options.b: "
    ),
    "model: {source: Bundled, ipAdapters: [{name: a, source: Path, id: /a}]}": (
        "spec.model.ipAdapters[0]: lacks the required field file"
    ),
    **{
        f"model: {{source: Bundled, ipAdapters: [{{name: a, source: Path, id: /a, file: '{file}'}}]}}": (
            "spec.model.ipAdapters[0].file: must match"
        )
        for file in (
            "/b.safetensors",
            "../b.safetensors",
            "b/../c.safetensors",
            "b//c.safetensors",
            "b/",
            "b.pt",
            ".bin",
        )
    },
    "model: {id: a/b, ipAdapters: [{name: a, source: Hub, id: c/d, file: e.safetensors, "
    "imageEncoder: {subfolder: ../f}}]}": ("spec.model.ipAdapters[0].imageEncoder.subfolder: must match"),
    "model: {source: Bundled, dtype: fp16}": "spec.model.dtype: must be one of bfloat16, float16, float32, not 'fp16'",
    "model: {id: ''}": "spec.model.id: must not be empty",
    "roles: {}": "spec: lacks the required field model",
    MINIMAL + "\nroles: {denoiser: {replicas: -1}}": "spec.roles.denoiser.replicas: must be at least 0, not -1",
    MINIMAL + "\nroles: {denoiser: {replicas: 1025}}": "spec.roles.denoiser.replicas: must be at most 1024, not 1025",
    MINIMAL
    + "\nroles: {denoiser: {replicas: '2'}}": "spec.roles.denoiser.replicas: must be an integer, not a string ('2')",
    MINIMAL + "\nroles: {denoiser: {device: tpu}}": "spec.roles.denoiser.device: must be one of cpu, cuda, not 'tpu'",
    MINIMAL
    + "\nroles: {decoder: {env: [{name: A}, {name: A}]}}": "spec.roles.decoder.env[1]: A is already given by item 0",
    MINIMAL + "\nroles: {decoder: {env: [{value: a}]}}": "spec.roles.decoder.env[0]: lacks the required field name",
    MINIMAL + "\ntopology: {mode: Require}": "spec.topology: lacks the required field key",
    MINIMAL + "\ntopology: {key: a b}": "spec.topology.key: must match",
    MINIMAL + "\ntransport: {poolSize: -1}": "spec.transport.poolSize: must be at least 0, not -1",
    MINIMAL + "\ntransport: {poolSize: 4 GB}": "spec.transport.poolSize: must match",
    MINIMAL + "\ntransport: {poolSize: 1.5}": "spec.transport.poolSize: must be an integer or a string, not a number",
    MINIMAL + "\nrouter: {leaseSeconds: 1}": "spec.router.leaseSeconds: must be at least 3, not 1",
    MINIMAL
    + "\nroles: {denoiser: {podTemplate: [a]}}": "spec.roles.denoiser.podTemplate: must be an object, not a list",
    MINIMAL + "\nroles: {denoiser: {scaling: {}}}": "spec.roles.denoiser.scaling: lacks the required field mode",
    MINIMAL + "\nroles: {router: {resources: {limits: {cpu: -1}}}}": (
        "spec.roles.router.resources.limits.cpu: must be at least 0, not -1"
    ),
    **{
        f"{MINIMAL}\nroles: {{router: {{resources: {{limits: {{cpu: {value}}}}}}}}}": (
            "spec.roles.router.resources.limits.cpu: must be a quantity, such as 500m, 0.5 or 4Gi, not"
        )
        for value in ("true", "[]", "[1]", "{}", "{a: 1}")
    },
    MINIMAL + "\nroles: {denoiser: {updateStrategy: {maxUnavailable: 0}}}": "spec.roles.denoiser.updateStrategy.maxUna",
    MINIMAL
    + "\nroles: {denoiser: {disruptionBudget: {maxUnavailable: 0%}}}": "spec.roles.denoiser.disruptionBudget.max",
    "model: {source: Image, id: r/m, subPath: ../etc}": "spec.model.subPath: must match",
    MINIMAL + "\nimage: {digest: sha256:1}": "spec.image.digest: must match",
    MINIMAL + "\nimagePullSecrets: [{name: a}, {name: a}]": "spec.imagePullSecrets[1]: a is already given by item 0",
    MINIMAL + "\nroles: {encoder: {resourceClaims: [{name: a}, {name: a}]}}": (
        "spec.roles.encoder.resourceClaims[1]: a is already given by item 0"
    ),
    MINIMAL + "\ntransport: {hugePages: 4Mi}": "spec.transport.hugePages: must be one of 2Mi, 1Gi, not '4Mi'",
    MINIMAL + "\ntransport: {rdma: {networkSelections: [{interface: net1}]}}": (
        "spec.transport.rdma.networkSelections[0]: lacks the required field name"
    ),
    MINIMAL + "\ntransport: {rdma: {networkSelections: [{name: a, interface: sixteen-letters.}]}}": (
        "spec.transport.rdma.networkSelections[0].interface: must have at most 15"
    ),
    MINIMAL
    + "\ntransport: {rdma: {devices: [mlx5_0, mlx5_0]}}": "spec.transport.rdma.devices[1]: mlx5_0 is given twice",
}


@pytest.mark.parametrize("spec", WRONG_VALUES)
def test_a_wrong_value_is_refused_with_its_path(spec: str) -> None:
    found = faults(resource(spec))
    assert len(found) == 1
    assert found[0].startswith(WRONG_VALUES[spec])


UNKNOWN_FIELDS = {
    MINIMAL + "\nrolez: {}": "spec.rolez: unknown field; did you mean roles?",
    MINIMAL + "\nroles: {decoder: {replica: 2}}": "spec.roles.decoder.replica: unknown field; did you mean replicas?",
    MINIMAL + "\nroles: {denoiser: {colocateWith: denoiser}}": "spec.roles.denoiser.colocateWith: unknown field",
    MINIMAL + "\nroles: {encoder: {env: [{name: A, val: b}]}}": "spec.roles.encoder.env[0].val: unknown field",
    MINIMAL + "\nroles: {router: {gpus: 1}}": "spec.roles.router.gpus: unknown field",
    MINIMAL + "\nroles: {decoder: {cacheShare: 0.5}}": "spec.roles.decoder.cacheShare: unknown field",
    MINIMAL + "\nroles: {denoiser: {cacheShare: 0.5}}": "spec.roles.denoiser.cacheShare: unknown field",
    MINIMAL + "\nroles: {router: {scaling: {mode: External}}}": "spec.roles.router.scaling: unknown field",
}


@pytest.mark.parametrize("spec", UNKNOWN_FIELDS)
def test_an_unknown_field_is_refused_with_its_path(spec: str) -> None:
    assert faults(resource(spec))[0].startswith(UNKNOWN_FIELDS[spec])


def test_all_faults_are_told_at_once() -> None:
    assert len(faults(resource("model: {source: Shop, dtype: int4}\nrolez: {}"))) == 3


def test_another_kind_or_version_is_refused() -> None:
    assert faults({"apiVersion": "v1", "kind": "Pod"}) == [
        "apiVersion: must be diffusion-operator.dev/v1alpha1, not 'v1'",
        "kind: must be DiffusionPipeline, not 'Pod'",
    ]
    assert faults(["a", "list"])[0].startswith("a DiffusionPipeline is an object")


def test_a_resource_without_a_name_is_refused() -> None:
    assert faults({**resource(MINIMAL), "metadata": {}})[0].startswith("metadata.name: is required")


def _rules(schema: Mapping[str, Any]) -> Iterator[Mapping[str, str]]:
    yield from schema.get("x-kubernetes-validations", ())
    for field in schema.get("properties", {}).values():
        yield from _rules(field)
    if "items" in schema:
        yield from _rules(schema["items"])
