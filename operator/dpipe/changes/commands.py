"""`dpipe diff`, `dpipe revisions`, `dpipe rollback`: each imports what it needs when it runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from diffusionpipeline.words import EXIT_USAGE
from dpipe.terminal import ContextOption, JsonOption, NamespaceOption, console, fail, faults_of, print_json


def _refuse(why: str, options: Mapping[str, object]) -> None:
    for name, given in options.items():
        if given:
            fail(f"{name} {why}", EXIT_USAGE)


def diff(
    file: Annotated[
        Path | None,
        typer.Option("--file", "-f", help="Resources as they are to be; - for standard input. Left out: this version."),
    ] = None,
    against: Annotated[
        Path | None, typer.Option("--from", help="File with the resources as they are. Left out: the cluster.")
    ] = None,
    namespace: NamespaceOption = None,
    everywhere: Annotated[
        bool, typer.Option("--all-namespaces", "-A", help="Without --file: pipelines of all namespaces.")
    ] = False,
    context: ContextOption = None,
    server_side: Annotated[bool, typer.Option("--server-side", help="As kubectl apply --server-side would.")] = False,
    worker_image: Annotated[str | None, typer.Option(help="What the operator is, or is to be, installed with.")] = None,
    router_image: Annotated[str | None, typer.Option(help="Likewise.")] = None,
    platform: Annotated[Path | None, typer.Option(help="Its platform file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Tell which pods a change would replace, why, how many at once, and about how long it takes.

    With --file, what applying it would do, to the cluster (by kubectl) or to the pipelines of --from. Without, what an
    operator of this version would do to the cluster's pipelines, once they are told to move. Changes nothing. Exit
    status: 0 nothing changes, 1 something does, 2 it could not be found out.
    """
    from importlib.metadata import version as installed

    from diffusion_operator.api.platform import load_platform, read_document
    from dpipe.changes.comparing import Given, of_an_edit, of_an_upgrade, of_files
    from dpipe.changes.kubectl import ClusterError, Kubectl
    from dpipe.changes.telling import as_data, told
    from dpipe.manifests import read_defaulted, read_text

    version = installed("diffusion-operator")
    document = None
    if platform is not None:
        with faults_of(platform, EXIT_USAGE):
            document = read_document(platform)
    given = Given(worker_image, router_image, load_platform(document))
    cluster = Kubectl(context, namespace)
    try:
        if file is None:
            _refuse("goes with --file", {"--from": against, "--server-side": server_side})
            plans = of_an_upgrade(cluster, version, given, everywhere=everywhere)
        elif against is None:
            _refuse("does not go with --file", {"--all-namespaces": everywhere})
            with faults_of(file, EXIT_USAGE):
                manifest = read_text(file)
            plans = of_an_edit(cluster, manifest, version, given, server_side=server_side)
        else:
            of_clusters = {
                "--namespace": namespace,
                "--all-namespaces": everywhere,
                "--context": context,
                "--server-side": server_side,
                "--worker-image": worker_image,
                "--router-image": router_image,
            }
            _refuse("does not go with --from", of_clusters)
            with faults_of(against, EXIT_USAGE):
                before = read_defaulted(against)
            with faults_of(file, EXIT_USAGE):
                after = read_defaulted(file)
            plans = of_files(before, after, given)
    except ClusterError as error:
        fail(str(error), EXIT_USAGE)
    if as_json:
        print_json(as_data(plans))
    else:
        for line in told(plans):
            typer.echo(line)
    raise SystemExit(int(not all(plan.is_empty for plan in plans)))


def revisions(
    name: Annotated[str, typer.Argument(help="Of a pipeline in the cluster.")],
    namespace: NamespaceOption = None,
    context: ContextOption = None,
) -> None:
    """List of what a pipeline's pods are made, and were before, the latest first."""
    from dpipe.changes.history import pipeline_of, revision_table, revisions_of
    from dpipe.changes.kubectl import ClusterError, Kubectl

    cluster = Kubectl(context, namespace)
    try:
        found = revisions_of(cluster, pipeline_of(cluster, name))
    except ClusterError as error:
        fail(str(error))
    console(error=False).print(revision_table(found))


def rollback(
    name: Annotated[str, typer.Argument(help="Of a pipeline in the cluster.")],
    revision: Annotated[
        int | None, typer.Option("--to-revision", min=1, help="Left out: the latest one with other pods.")
    ] = None,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
) -> None:
    """Have a pipeline's pods made as they were before.

    Sets the resource's spec to that revision's, apart from replicas and scaling, and spec.update.to to its digest, so
    that what an earlier operator made is gone back to as well. Whoever keeps the resource in git must do so there too.
    """
    from dpipe.changes.history import go, pipeline_of, revisions_of, way_back
    from dpipe.changes.kubectl import ClusterError, Kubectl

    cluster = Kubectl(context, namespace)
    try:
        live = pipeline_of(cluster, name)
        way = way_back(live, revisions_of(cluster, live), revision)
        go(cluster, live, way)
    except ClusterError as error:
        fail(str(error))
    typer.echo(f"{name} goes back to revision {way.to.number} ({way.to.digest})")
