"""One generation a pipeline: it changes with what a tensor means, and with nothing else."""

from __future__ import annotations

from typing import Any

from diffusion_operator.api import Pipeline
from diffusion_operator.render import Images, names, render
from unit.render.children import IMAGES, of_kind, pipeline, rdma_pipeline, shared_environment, workers

HUB = {"source": "Hub", "id": "a/b"}
KARRAS = {"name": "k", "class": "DDIMScheduler"}
ADAPTER = {"name": "ink", "source": "Hub", "id": "a/ink"}
CONTROL_NET = {"name": "edges", "source": "Hub", "id": "a/edges"}
IP_ADAPTER = {"name": "style", "source": "Hub", "id": "a/looks", "file": "b.safetensors"}


def generation(given: Pipeline, images: Images = IMAGES) -> str:
    children = render(given, images)
    labels = {worker["spec"]["template"]["metadata"]["labels"][names.GENERATION_LABEL] for worker in workers(children)}
    assert labels == {shared_environment(children)["DIFFUSION_WORKER_GENERATION"]}
    return labels.pop()


def test_what_changes_the_meaning_of_a_tensor_changes_the_generation() -> None:
    main: dict[str, Any] = {"name": "main", "image": "own/worker:1"}
    other_dtype = {"name": "DIFFUSION_WORKER_MODEL_DTYPE", "value": "float16"}
    claim = {"source": "PersistentVolumeClaim", "id": "m", "claimName": "a"}
    seen = [
        generation(pipeline()),
        generation(pipeline(), Images(worker="example/worker:2")),
        generation(pipeline(image={"tag": "3"})),
        generation(pipeline(image={"digest": "sha256:" + "0" * 64})),
        generation(pipeline(model={"dtype": "bfloat16"})),
        generation(pipeline(model={"allowPickle": True})),
        generation(pipeline(model={"vae": {"tiling": True}})),
        generation(pipeline(model=HUB)),
        generation(pipeline(model={**HUB, "revision": "2"})),
        generation(pipeline(model={**HUB, "variant": "fp16"})),
        generation(pipeline(model=claim)),
        generation(pipeline(model={**claim, "claimName": "b"})),
        generation(pipeline(model={**claim, "subPath": "c"})),
        generation(pipeline(model={"adapters": [ADAPTER]})),
        generation(pipeline(model={"adapters": [{**ADAPTER, "revision": "2"}]})),
        generation(pipeline(model={"adapters": [{**ADAPTER, "scale": 0.5}]})),
        generation(pipeline(model={"adapterSource": {"path": "/adapters"}})),
        generation(pipeline(model={"controlNets": [CONTROL_NET]})),
        generation(pipeline(model={"controlNets": [{**CONTROL_NET, "revision": "2"}]})),
        generation(pipeline(model={"controlNets": [{**CONTROL_NET, "subfolder": "a"}]})),
        generation(pipeline(model={"controlNets": [{**CONTROL_NET, "scale": 0.5}]})),
        generation(pipeline(model={"controlNets": [CONTROL_NET, {**CONTROL_NET, "name": "b"}]})),
        generation(
            pipeline(
                model={"controlNets": [CONTROL_NET]},
                roles={"denoiser": {"env": [{"name": "DIFFUSION_WORKER_CONTROL_NETS", "value": "[]"}]}},
            )
        ),
        generation(pipeline(model={"ipAdapters": [IP_ADAPTER]})),
        generation(pipeline(model={"ipAdapters": [{**IP_ADAPTER, "revision": "2"}]})),
        generation(pipeline(model={"ipAdapters": [{**IP_ADAPTER, "file": "c.safetensors"}]})),
        generation(pipeline(model={"ipAdapters": [{**IP_ADAPTER, "imageEncoder": "d"}]})),
        generation(pipeline(model={"ipAdapters": [{**IP_ADAPTER, "scale": 0.5}]})),
        generation(pipeline(model={"ipAdapters": [IP_ADAPTER, {**IP_ADAPTER, "name": "b"}]})),
        generation(
            pipeline(
                model={"ipAdapters": [IP_ADAPTER]},
                roles={"denoiser": {"env": [{"name": "DIFFUSION_WORKER_IP_ADAPTERS", "value": "[]"}]}},
            )
        ),
        generation(
            pipeline(
                model={"adapters": [ADAPTER]},
                roles={"denoiser": {"env": [{"name": "DIFFUSION_WORKER_ADAPTERS", "value": "[]"}]}},
            )
        ),
        generation(pipeline(model={"schedulers": [KARRAS]})),
        generation(pipeline(model={"schedulers": [{**KARRAS, "options": {"eta": 1}}]})),
        generation(pipeline(model={"schedulers": [{**KARRAS, "options": {"eta": True}}]})),
        generation(pipeline(model={"schedulers": [{**KARRAS, "name": "l"}]})),
        generation(pipeline(transport={"backend": "tcp"})),
        generation(pipeline(transport={"protocol": "auto"})),
        generation(rdma_pipeline({"resourceName": "rdma/hca"})),
        generation(pipeline(roles={"denoiser": {"podTemplate": {"spec": {"containers": [main]}}}})),
        generation(pipeline(roles={"denoiser": {"env": [other_dtype]}})),
        generation(pipeline(roles={"decoder": {"env": [other_dtype]}})),
    ]
    assert len(set(seen)) == len(seen)


def test_scaling_tuning_and_placing_leave_the_generation_as_it_is() -> None:
    usual = generation(pipeline())
    tuned = {
        "replicas": 5,
        "threads": 8,
        "args": ["--log-format", "json"],
        "env": [{"name": "MINE", "value": "1"}],
        "drainTimeoutSeconds": 7,
        "nodeSelector": {"gpu": "yes"},
        "podTemplate": {"metadata": {"labels": {"team": "a"}}},
    }
    assert generation(pipeline(roles={"denoiser": tuned}, router={"leaseSeconds": 30})) == usual
    assert generation(pipeline(transport={"poolSize": "1Gi"}, sharedMemorySize="0", suspend=True)) == usual
    assert generation(pipeline(restart={"id": "a"})) == usual
    assert generation(pipeline(model={"vae": {"tiling": False}})) == usual
    folder = {"adapterSource": {"path": "/adapters"}}
    assert generation(pipeline(model={**folder, "maxLoadedAdapters": 2})) == generation(pipeline(model=folder))
    with_devices = generation(rdma_pipeline({"resourceName": "rdma/hca"}))
    assert generation(rdma_pipeline({"resourceName": "rdma/hca", "count": 2, "gidIndex": 3})) == with_devices


def test_the_config_map_of_a_generation_never_changes() -> None:
    """Two pipelines of one name and one generation have one ConfigMap: it is immutable."""
    before = of_kind(render(pipeline(), IMAGES), "ConfigMap")
    after = of_kind(render(pipeline(transport={"poolSize": "1Gi"}, router={"grpcPort": 9000}), IMAGES), "ConfigMap")
    assert before == after
    (config_map,) = before.values()
    assert config_map["immutable"] is True
    other = of_kind(render(pipeline(model={"dtype": "float16"}), IMAGES), "ConfigMap")
    assert before.keys().isdisjoint(other.keys())
