"""The self-test that decides whether a model is supported: all roles in one process against three processes.

    python -m diffusion_worker.model.check MODEL [--quick] [--json]

It says which way the model is cut, what each role loads and ships, and for each use (from a text, from a picture, with
a mask, …) whether it is served: whether every payload and every file of the cut model equals the uncut one's, byte for
byte, and whether a denoising can be parked at any step and resumed; or why not. Exit code: 0 every use that the model
takes is served, 1 some or all of them differ or fail, 2 the model is refused, and the report says why.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from diffusion_worker.model.cases import FRAMES
from diffusion_worker.model.folder import DTYPES, ModelFolder, count_elements, open_folder
from diffusion_worker.model.sizes import sizes_by_stage
from diffusion_worker.model.source import resolve_model
from diffusion_worker.model.types import DownloadFailed, UnsupportedModel
from diffusionpipeline.words import STAGES, Stage

STEPS: Final = 2
SIZE: Final = 128
"""Pixels of a check's picture, unless the model folder has defaults of its own: a multiple of every family's grid."""
MEMORY_SHARE: Final = 0.7
"""Share of the free memory that the weights may take before the check turns to a small copy."""
TIMEOUT_SECONDS: Final = 3600

SERVED, PARTLY, UNFIT, REFUSED = "served", "partly", "unfit", "refused"


class CheckFailed(Exception):
    """The model can't be checked; the message says why."""


@dataclass(frozen=True)
class Options:
    """How to run a check."""

    dtype: str
    device: str
    threads: int
    allow_pickle: bool
    variant: str
    vae_tiling: bool = False


def check(path: Path, options: Options, *, quick: bool) -> dict[str, Any]:
    """The report on the model in `path`. Raises CheckFailed, UnsupportedModel."""
    folder = open_folder(path, variant=options.variant, allow_pickle=options.allow_pickle)
    needed, free = _weights_in_memory(folder, options.dtype), _free_memory()
    small = quick or (options.device == "cpu" and needed > MEMORY_SHARE * free)
    with tempfile.TemporaryDirectory(prefix="diffusion-check-") as directory:
        work = Path(directory)
        (work / "request.json").write_text(json.dumps(request_of(folder)))
        trials = _run_trials(path, work, options, small=small)
    return judge(folder, trials, options, small=small)


def judge(folder: ModelFolder, trials: Mapping[str, Any], options: Options, *, small: bool) -> dict[str, Any]:
    """The report on what the trials of the whole model and of each role made."""
    whole, split = trials["whole"], {stage: trials[stage] for stage in STAGES}
    cases = {name: compare(name, whole, split) for name in whole["cases"]}
    return {
        "model": str(folder.path),
        "verdict": verdict(cases),
        "uses": uses(cases),
        "pipeline": whole["pipeline"],
        "way": whole["way"],
        "output": whole["output"],
        "dtype": options.dtype,
        "device": options.device,
        "small_copy": small,
        "roles": {stage.value: _role(split[stage], folder.weight_bytes) for stage in STAGES},
        "cases": cases,
        "identical": verdict(cases) == SERVED,
    }


def uses(cases: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Which uses are served, and of the others why not: those that the model does not have, and those that go wrong."""
    differ = "other bytes in roles than whole"
    return {
        "served": [name for name, case in cases.items() if case.get("identical")],
        "not_served": {
            name: case.get("failed", differ)
            for name, case in cases.items()
            if "refused" not in case and not case.get("identical")
        },
        "refused": {name: case["refused"] for name, case in cases.items() if "refused" in case},
    }


def verdict(cases: Mapping[str, Mapping[str, Any]]) -> str:
    """What the outcomes of all uses come to.

    served: every use that the model takes makes the same bytes, cut and whole. partly: some do, and some fail or
    differ. refused: the model takes none of the requests. unfit: it takes some, and none makes the same bytes.
    """
    taken = [case for case in cases.values() if "refused" not in case]
    if not taken:
        return REFUSED
    good = sum(case.get("identical", False) for case in taken)
    return SERVED if good == len(taken) else PARTLY if good else UNFIT


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m diffusion_worker.model.check", description=__doc__)
    parser.add_argument("model", help="a folder, the name of a bundled model, or an id on the hub")
    parser.add_argument("--revision", default="", help="of a model on the hub")
    parser.add_argument("--variant", default="", help="of the weights, where a component has it, such as fp16")
    parser.add_argument("--quick", action="store_true", help="check a small random copy made from the model's configs")
    parser.add_argument("--sizes", action="store_true", help="only print what each role loads; downloads no weights")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--allow-pickle", action="store_true", help="load pickled weights, which may run any code")
    parser.add_argument("--vae-tiling", action="store_true", help="have the VAE work in tiles")
    given = parser.parse_args(argv)
    options = Options(
        given.dtype, given.device, given.threads, given.allow_pickle, given.variant, vae_tiling=given.vae_tiling
    )
    try:
        if given.sizes:
            found = sizes_by_stage(
                _source(given.model),
                given.model,
                given.revision,
                variant=given.variant,
                allow_pickle=given.allow_pickle,
            )
            sys.stdout.write(json.dumps(found, indent=2) + "\n" if given.json else _sizes_text(found))
            return 0
        path = resolve_model(
            _source(given.model),
            given.model,
            given.revision,
            variant=given.variant,
            allow_pickle=given.allow_pickle,
        )
        report = check(path, options, quick=given.quick)
    except (CheckFailed, DownloadFailed, UnsupportedModel, OSError) as error:
        failure = {"model": given.model, "verdict": REFUSED, "error": str(error)}
        sys.stdout.write(json.dumps(failure) + "\n" if given.json else f"{given.model} can't be served: {error}\n")
        return 2
    sys.stdout.write(json.dumps(report, indent=2) + "\n" if given.json else _text(report))
    return {SERVED: 0, REFUSED: 2}.get(report["verdict"], 1)


def _sizes_text(found: Mapping[Stage, Mapping[str, int]]) -> str:
    lines = []
    for stage, sizes in found.items():
        largest = sorted(sizes.items(), key=lambda one: -one[1])
        each = ", ".join(f"{name} ({_size(size)})" for name, size in largest)
        lines.append(f"{stage.role}: {_size(sum(sizes.values()))}: {each}")
    return "\n".join(lines) + "\n"


def _source(model: str) -> str:
    if Path(model).expanduser().is_dir():
        return "Path"
    return "Hub" if "/" in model else "Bundled"


def request_of(folder: ModelFolder) -> dict[str, Any]:
    """What the requests of a check have in common, and the side of their pictures."""
    side = _side(folder)
    request: dict[str, Any] = {
        "prompt": "a red seven on a black background",
        "seed": 7,
        "num_inference_steps": STEPS,
        "num_frames": FRAMES,
        "height": side,
        "width": side,
    }
    return {"request": {name: value for name, value in request.items() if name not in folder.defaults}, "side": side}


def _side(folder: ModelFolder) -> int:
    """The model's own, if it tells one that is smaller than SIZE."""
    width = folder.defaults.get("width")
    if isinstance(width, int):
        return width
    return min([SIZE, *own_sides(folder)])


def own_sides(folder: ModelFolder) -> list[int]:
    """Pixels of the pictures that the model's networks are made for, where their configs tell."""
    scale = 1
    if "vae" in folder.components or "vqvae" in folder.components or "movq" in folder.components:
        name = next(name for name in ("vae", "vqvae", "movq") if name in folder.components)
        widths = folder.component_config(name).get("block_out_channels")
        if not isinstance(widths, list):
            return []
        scale = 2 ** (len(widths) - 1)
    sizes = [
        folder.component_config(name).get("sample_size")
        for name in ("unet", "transformer")
        if name in folder.components
    ]
    return [size * scale for size in sizes if isinstance(size, int)]


def _run_trials(path: Path, work: Path, options: Options, *, small: bool) -> dict[str, Any]:
    """The reports of the whole model and of each role. Raises CheckFailed, UnsupportedModel."""
    command = [sys.executable, "-m", "diffusion_worker.model.trial", str(path), str(work)]
    command += ["--dtype", options.dtype, "--device", options.device, "--threads", str(options.threads)]
    command += ["--variant", options.variant] if options.variant else []
    command += ["--allow-pickle"] if options.allow_pickle else []
    command += ["--vae-tiling"] if options.vae_tiling else []
    command += ["--small"] if small else []
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise CheckFailed(f"not done after {TIMEOUT_SECONDS} seconds; try --quick") from error
    lines = done.stdout.strip().splitlines()
    if done.returncode not in (0, 2) or not lines:
        raise CheckFailed(f"the trial ended with code {done.returncode}: {done.stderr.strip()[-2000:]}")
    report: dict[str, Any] = json.loads(lines[-1])
    if "error" in report:
        detail = f"\n{done.stderr.strip()[-2000:]}" if done.stderr.strip() and not report["unsupported"] else ""
        raise (UnsupportedModel if report["unsupported"] else CheckFailed)(report["error"] + detail)
    return report


def compare(name: str, whole: Mapping[str, Any], split: Mapping[Stage, Mapping[str, Any]]) -> dict[str, Any]:
    """One case's boundaries, cut against uncut: refused, failed, or its request and whether its bytes are identical."""
    cut = {stage: split[stage]["cases"][name] for stage in STAGES}
    uncut = whole["cases"][name]
    if "refused" in uncut:
        return {"refused": uncut["refused"]}
    for who, outcome in {"whole": uncut, **{stage.value: one for stage, one in cut.items()}}.items():
        if why := outcome.get("failed") or outcome.get("refused"):
            return {"failed": why, "by": who}
    stages: dict[str, Any] = {}
    for index, stage in enumerate(STAGES):
        (made,) = cut[stage]["stages"]
        reference = uncut["stages"][index]
        stages[stage.value] = {
            "identical": made["digest"] == reference["digest"],
            "nbytes": made["nbytes"],
            "seconds": round(made["seconds"], 3),
            "ships": made["ships"],
        }
    identical = all(stage["identical"] for stage in stages.values())
    return {
        "request": uncut["request"],
        "identical": identical,
        "stages": stages,
        "parking": cut[Stage.DENOISE]["parking"],
    }


def _role(trial: Mapping[str, Any], weight_bytes: Any) -> dict[str, Any]:
    components = [{**one, "bytes": weight_bytes(one["name"])} for one in trial["components"]]
    return {
        "components": components,
        "bytes": sum(one["bytes"] for one in components),
        "load_seconds": round(trial["load_seconds"], 2),
        "peak_memory_bytes": trial["peak_memory_bytes"],
    }


def _weights_in_memory(folder: ModelFolder, dtype: str) -> int:
    """Bytes that the model's weights take once loaded in `dtype`."""
    files = {file for name in folder.components for file in folder.weight_paths(name)}
    return sum(map(count_elements, files)) * (4 if dtype == "float32" else 2)


def _free_memory() -> int:
    """Bytes that this process may still take: the machine's, or its control group's if that is less."""
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        free = int(fields["MemAvailable"].split()[0]) * 1024
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and used.is_file() and limit.read_text().strip() != "max":
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return free


def _text(report: Mapping[str, Any]) -> str:
    lines = [
        f"{report['model']}: {report['pipeline']}, makes {report['output']}s, cut by {report['way']}, "
        f"{report['dtype']} on {report['device']}" + (", a small random copy of it" if report["small_copy"] else "")
    ]
    for stage, role in report["roles"].items():
        names = ", ".join(f"{one['name']} ({_size(one['bytes'])})" for one in role["components"] if one["bytes"])
        lines.append(f"  {stage} loads {_size(role['bytes'])}: {names}")
    for name, case in report["cases"].items():
        if "refused" in case:
            lines.append(f"  from {name}: no use of this model: {case['refused']}")
            continue
        if "failed" in case:
            lines.append(f"  from {name}: NOT served: {case['failed']} (the {case['by']} model)")
            continue
        lines.append(f"  from {name}: {'identical' if case['identical'] else 'DIFFERENT'}")
        for stage, made in case["stages"].items():
            tensors = ", ".join(f"{one['name']} {one['dtype']}{one['shape']}" for one in made["ships"])
            verdict = "" if made["identical"] else " DIFFERENT"
            ships = f"ships {_size(made['nbytes'])}: {tensors}" if tensors else f"writes {_size(made['nbytes'])}"
            lines.append(f"    {stage} {ships} ({made['seconds']} s){verdict}")
        lines.append(f"    {_parking(case['parking'])}")
    lines.append(_verdict_text(report["uses"], report["verdict"]))
    return "\n".join(lines) + "\n"


def _verdict_text(found: Mapping[str, Any], verdict: str) -> str:
    bad = ", ".join(found["not_served"])
    if verdict == REFUSED:
        return "refused: the model takes none of these requests"
    if verdict == UNFIT:
        return f"NOT served: {bad}"
    return f"served, bit-identical in roles, from {', '.join(found['served'])}" + (f"; NOT from {bad}" if bad else "")


def _parking(parking: Mapping[str, Any]) -> str:
    if parking["resumable"]:
        return f"can be parked at any step: a checkpoint adds {_size(parking['nbytes'])}"
    why = parking["why"] or f"other bytes when parked at step {', '.join(map(str, parking['differs']))}"
    return f"CAN'T be parked: {why}"


def _size(nbytes: float) -> str:
    for unit in ("B", "KB", "MB"):
        if nbytes < 1000:
            return f"{nbytes:.0f} {unit}" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1000
    return f"{nbytes:.1f} GB"


if __name__ == "__main__":
    sys.exit(main())
