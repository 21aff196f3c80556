"""The command line: `dpipe --help`.

Each command imports what it needs when it runs, so that help and errors come at once.
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diffusionpipeline.words import LogFormat, LogLevel, PriorityName
from dpipe.changes.commands import diff, revisions, rollback
from dpipe.models import check, convert
from dpipe.simulate.command import simulate
from dpipe.terminal import JsonOption, console, fail, faults_of, print_json

if TYPE_CHECKING:
    from dpipe.manifests import Manifests
    from dpipe.up.running import Running

app = typer.Typer(
    name="dpipe",
    help="Run diffusion models cut by role (encoder, denoiser, decoder), and draw with them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # Rich's help takes half a second to load.
    rich_markup_mode=None,
)

FileOption = Annotated[
    Path, typer.Option("--file", "-f", help="A file with DiffusionPipeline resources; - for standard input.")
]
ChosenOption = Annotated[
    str | None,
    typer.Option("--pipeline", metavar="[NAMESPACE/]NAME", help="Which one, if the file has several."),
]
UrlOption = Annotated[
    str | None,
    typer.Option(envvar="DPIPE_URL", help="The router's HTTP address. Left out: the pipeline that runs here."),
]
GrpcOption = Annotated[
    str | None,
    typer.Option(envvar="DPIPE_GRPC", help="The router's gRPC host:port. Left out: the pipeline that runs here."),
]
PipelineOption = Annotated[str | None, typer.Option(help="Name of a pipeline that runs here, if several do.")]


@app.command()
def up(
    file: FileOption,
    chosen: ChosenOption = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="HTTP port; 0: any free one. Left out: the resource's, if free."),
    ] = None,
    logs: Annotated[bool, typer.Option("--logs", help="Print the pods' logs instead of a table.")] = False,
    log_level: Annotated[LogLevel, typer.Option(help="Least level that pods log, unless the resource says.")] = "info",
    log_format: Annotated[LogFormat, typer.Option(help="How pods log, unless the resource says; auto: JSON.")] = "auto",
    data: Annotated[
        Path | None, typer.Option(help="Folder for jobs and logs. Left out: ~/.local/state/dpipe/NAME.")
    ] = None,
) -> None:
    """Run a pipeline on this machine until Ctrl-C.

    Each pod that the operator would make is a process here, with the same command and environment.
    """
    from dpipe.up.foreground import run_up
    from dpipe.up.local import DataFolderInUseError, LocalPipeline
    from dpipe.up.pods import NotLocalError
    from dpipe.up.ports import NoFreePortError, is_free
    from dpipe.up.running import data_folder

    screen = console()
    with faults_of(file):
        pipeline = _read(file).pipeline(chosen)
    if port is None:
        wanted = pipeline.router.http_port
        port = wanted if is_free(wanted) else 0
        if port == 0:
            screen.print(f"port {wanted} is taken: choosing another", highlight=False)
    elif port and not is_free(port):
        fail(f"port {port} is taken: give another, or --port 0 for any free one")
    try:
        local = LocalPipeline(
            pipeline,
            data_dir=data or data_folder(pipeline.name),
            http_port=port,
            log_level=log_level,
            log_format=log_format,
        )
        run_up(local, screen, show_logs=logs)
    except (DataFolderInUseError, NotLocalError, NoFreePortError) as error:
        fail(str(error))


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="What to make.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write; several are numbered.")],
    image: Annotated[Path | None, typer.Option(help="Picture to start from.", exists=True, dir_okay=False)] = None,
    video: Annotated[
        bool, typer.Option("--video", help="Make a video (the served model must be one for videos).")
    ] = False,
    number: Annotated[int, typer.Option("-n", "--number", min=1, help="How many; each has a seed one higher.")] = 1,
    size: Annotated[str | None, typer.Option(metavar="WxH", help="Pixels. Left out: the model's own size.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Denoising steps.")] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="The same seed makes the same bytes. Left out: drawn.")
    ] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="How closely to follow the prompt.")] = None,
    negative_prompt: Annotated[str | None, typer.Option(help="What to keep out.")] = None,
    adapters: Annotated[
        list[str] | None,
        typer.Option(
            "--adapter", metavar="NAME[:SCALE]", help="A LoRA adapter that the pipeline offers; several add up."
        ),
    ] = None,
    controls: Annotated[
        list[str] | None,
        typer.Option(
            "--control", metavar="NAME=FILE[:SCALE]", help="A ControlNet that the pipeline offers, led by this picture."
        ),
    ] = None,
    ip_adapters: Annotated[
        list[str] | None,
        typer.Option(
            "--ip-adapter",
            metavar="NAME=FILE[:SCALE]",
            help="An IP-Adapter that the pipeline offers, which shows the model this picture.",
        ),
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(metavar="NAME", help="A scheduler that the pipeline lists. Left out: the model's own.")
    ] = None,
    exact: Annotated[
        bool | None, typer.Option("--exact", help="Computed by itself, where forwards are shared among requests.")
    ] = None,
    strength: Annotated[float | None, typer.Option(help="How much of --image is redrawn, 0 to 1.")] = None,
    target: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="In which it should end; it may take longer, up to its deadline."),
    ] = None,
    priority: Annotated[
        PriorityName | None, typer.Option(help="Whose jobs come first. Left out: standard.", show_default=False)
    ] = None,
    frames: Annotated[int | None, typer.Option(min=1, help="Frames of the video.")] = None,
    fps: Annotated[int | None, typer.Option(min=1, help="Frames a second of the video.")] = None,
    as_json: JsonOption = False,
    url: UrlOption = None,
    pipeline: PipelineOption = None,
) -> None:
    """Make a picture or a video.

    By the pipeline that `dpipe up` runs here, or by the router at --url.
    """
    import asyncio

    from dpipe.client.generate import adapter, generate_files, output_format, pictured

    try:
        wanted = output_format(output, video=video)
        asked = [adapter(text) for text in adapters or ()]
        led = [pictured("--control", text) for text in controls or ()]
        shown = [pictured("--ip-adapter", text) for text in ip_adapters or ()]
    except ValueError as error:
        fail(str(error))
    request = {
        "prompt": prompt,
        "n": number,
        "size": size,
        "num_inference_steps": steps,
        "seed": seed,
        "guidance_scale": guidance_scale,
        "negative_prompt": negative_prompt,
        "adapters": asked or None,
        "scheduler": scheduler,
        "controls": [one for one, _ in led] or None,
        "ip_adapters": [one for one, _ in shown] or None,
        "exact": exact,
        "strength": strength,
        "target_seconds": target,
        "priority": priority,
        "num_frames": frames,
        "fps": fps,
        "output_format": wanted,
    }
    given = {name: value for name, value in request.items() if value is not None}
    pictures = [
        *([("image", image)] if image else ()),
        *(("controls[image]", picture) for _, picture in led),
        *(("ip_adapters[image]", picture) for _, picture in shown),
    ]
    raise SystemExit(
        asyncio.run(generate_files(_url(url, pipeline), given, pictures, output, video=video, as_json=as_json))
    )


@app.command()
def peers(grpc: GrpcOption = None, pipeline: PipelineOption = None, as_json: JsonOption = False) -> None:
    """List workers and their memory pools."""
    from dpipe.client.registry import Registry, RegistryError, peer_table

    with Registry(grpc or _running(pipeline).grpc) as registry:
        try:
            found = registry.peers()
        except RegistryError as error:
            fail(str(error))
    if as_json:
        from google.protobuf.json_format import MessageToDict

        print_json([MessageToDict(peer, preserving_proto_field_name=True) for peer in found])
    else:
        console(error=False).print(peer_table(found))


@app.command()
def jobs(
    status: Annotated[str | None, typer.Option(help="queued, in_progress, completed, failed or cancelled.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many, newest first.")] = 20,
    as_json: JsonOption = False,
    url: UrlOption = None,
    pipeline: PipelineOption = None,
) -> None:
    """List jobs."""
    import asyncio

    from dpipe.client.http import RouterError
    from dpipe.client.jobs import job_table, list_jobs

    try:
        found = asyncio.run(list_jobs(_url(url, pipeline), status, limit))
    except RouterError as error:
        fail(str(error))
    if as_json:
        print_json(found)
    else:
        console(error=False).print(job_table(found))


app.command()(check)
app.command()(convert)


@app.command()
def render(
    file: FileOption,
    chosen: ChosenOption = None,
    platform: Annotated[
        Path | None,
        typer.Option(help="The operator's platform file; what comes of it is told in comments."),
    ] = None,
) -> None:
    """Print the Kubernetes objects of each resource."""
    import yaml

    from diffusion_operator.api.platform import read_document
    from dpipe.origins import explained

    document = None
    if platform is not None:
        with faults_of(platform):
            document = read_document(platform)
    with faults_of(file):
        pipelines = _read(file).pipelines(chosen)
    children = [each for pipeline in pipelines for each in explained(pipeline, document)]
    for number, (child, origins) in enumerate(children):
        if number:
            typer.echo("---")
        for line in ("of the platform:", *(f"  {origin}" for origin in origins)) if origins else ():
            typer.echo(f"# {line}")
        typer.echo(yaml.safe_dump(child, sort_keys=False), nl=False)


app.command()(diff)
app.command()(revisions)
app.command()(rollback)
app.command()(simulate)


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="File for the grid of digits.")] = Path(
        "out/digits.png"
    ),
) -> None:
    """Draw ten digits with the bundled model.

    Starts it cut in three roles, draws, shows where the time went, and stops it.
    """
    from dpipe.client.http import RouterError
    from dpipe.demo import DemoError, run_demo
    from dpipe.up.local import NotReadyError
    from dpipe.up.ports import NoFreePortError

    try:
        run_demo(console(error=False), output)
    except (DemoError, NotReadyError, NoFreePortError, RouterError) as error:
        fail(str(error))


def _read(file: Path) -> Manifests:
    """What else is in the file is named. Raises what `faults_of` takes."""
    from dpipe.manifests import read_manifests

    found = read_manifests(file)
    if found.resources and found.passed_over:
        typer.echo(f"{file}: passed over {found.others()}", err=True)
    return found


def _url(url: str | None, pipeline: str | None) -> str:
    return url or _running(pipeline).url


def _running(name: str | None) -> Running:
    from dpipe.up.running import NothingRunsError, find

    try:
        return find(name)
    except NothingRunsError as error:
        fail(str(error))


def main() -> None:
    # Both ways of being asked to leave let the commands clean up.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    app()
