"""The self-test that decides whether a model is supported: all roles in one process against three processes.

    python -m diffusion_worker.model.check MODEL [--quick] [--json]

It says which way the model is cut, what each role loads and ships, whether every payload and every file of the cut
model equals the uncut one's, byte for byte, and whether a denoising can be parked at any step and resumed. Exit code:
0 identical, 1 different, 2 the model can't be loaded or cut.
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

from diffusion_worker.model.folder import DTYPES, ModelFolder, count_elements, open_folder
from diffusion_worker.model.sizes import sizes_by_stage
from diffusion_worker.model.source import resolve_model
from diffusion_worker.model.types import DownloadFailed, UnsupportedModel
from diffusionpipeline.words import STAGES, Stage

STEPS: Final = 2
SIZE: Final = 128
"""Pixels of a check's picture, unless the model folder has defaults of its own: a multiple of every family's grid."""
FRAMES: Final = 9
"""4k + 1 and 8k + 1: what video families take."""
MEMORY_SHARE: Final = 0.7
"""Share of the free memory that the weights may take before the check turns to a small copy."""
TIMEOUT_SECONDS: Final = 3600


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


def check(path: Path, options: Options, *, quick: bool) -> dict[str, Any]:
    """The report on the model in `path`. Raises CheckFailed, UnsupportedModel."""
    folder = open_folder(path, variant=options.variant, allow_pickle=options.allow_pickle)
    needed, free = _weights_in_memory(folder, options.dtype), _free_memory()
    small = quick or (options.device == "cpu" and needed > MEMORY_SHARE * free)
    with tempfile.TemporaryDirectory(prefix="diffusion-check-") as directory:
        work = Path(directory)
        (work / "cases.json").write_text(json.dumps(_cases(folder.defaults)))
        trials = _run_trials(path, work, options, small=small)
    whole, split = trials["whole"], {stage: trials[stage] for stage in STAGES}
    cases = {name: compare(name, whole, split) for name in whole["cases"]}
    served = [case for case in cases.values() if "refused" not in case]
    return {
        "model": str(path),
        "pipeline": whole["pipeline"],
        "way": whole["way"],
        "output": whole["output"],
        "dtype": options.dtype,
        "device": options.device,
        "small_copy": small,
        "roles": {stage.value: _role(split[stage], folder.weight_bytes) for stage in STAGES},
        "cases": cases,
        "identical": bool(served) and all(case["identical"] for case in served),
    }


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
    given = parser.parse_args(argv)
    options = Options(given.dtype, given.device, given.threads, given.allow_pickle, given.variant)
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
        failure = {"model": given.model, "error": str(error)}
        sys.stdout.write(json.dumps(failure) + "\n" if given.json else f"{given.model} can't be served: {error}\n")
        return 2
    sys.stdout.write(json.dumps(report, indent=2) + "\n" if given.json else _text(report))
    return 0 if report["identical"] else 1


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


def _cases(defaults: Mapping[str, object]) -> dict[str, Any]:
    """Requests that between them use every block a served request may use; a family refuses what it does not know."""
    request: dict[str, Any] = {
        "prompt": "a red seven on a black background",
        "seed": 7,
        "num_inference_steps": STEPS,
        "num_frames": FRAMES,
        "height": SIZE,
        "width": SIZE,
    }
    request = {name: value for name, value in request.items() if name not in defaults}
    sized = {"images": {"image": [SIZE, SIZE]}}
    return {
        "text": request,
        "image": {**request, **sized, "strength": 0.6, "num_inference_steps": STEPS + 1},
    }


def _run_trials(path: Path, work: Path, options: Options, *, small: bool) -> dict[str, Any]:
    """The reports of the whole model and of each role. Raises CheckFailed, UnsupportedModel."""
    command = [sys.executable, "-m", "diffusion_worker.model.trial", str(path), str(work)]
    command += ["--dtype", options.dtype, "--device", options.device, "--threads", str(options.threads)]
    command += ["--variant", options.variant] if options.variant else []
    command += ["--allow-pickle"] if options.allow_pickle else []
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
    """One case's boundaries, cut against uncut."""
    uncut = whole["cases"][name]
    if "refused" in uncut:
        return {"refused": uncut["refused"]}
    stages: dict[str, Any] = {}
    for index, stage in enumerate(STAGES):
        (cut,) = split[stage]["cases"][name]["stages"]
        reference = uncut["stages"][index]
        stages[stage.value] = {
            "identical": cut["digest"] == reference["digest"],
            "nbytes": cut["nbytes"],
            "seconds": round(cut["seconds"], 3),
            "ships": cut["ships"],
        }
    identical = all(stage["identical"] for stage in stages.values())
    parking = split[Stage.DENOISE]["cases"][name]["parking"]
    return {"request": uncut["request"], "identical": identical, "stages": stages, "parking": parking}


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
            lines.append(f"  from {name}: not served: {case['refused']}")
            continue
        lines.append(f"  from {name}: {'identical' if case['identical'] else 'DIFFERENT'}")
        for stage, made in case["stages"].items():
            tensors = ", ".join(f"{one['name']} {one['dtype']}{one['shape']}" for one in made["ships"])
            verdict = "" if made["identical"] else " DIFFERENT"
            ships = f"ships {_size(made['nbytes'])}: {tensors}" if tensors else f"writes {_size(made['nbytes'])}"
            lines.append(f"    {stage} {ships} ({made['seconds']} s){verdict}")
        lines.append(f"    {_parking(case['parking'])}")
    lines.append("bit-identical" if report["identical"] else "NOT bit-identical: this model can't be served in roles")
    return "\n".join(lines) + "\n"


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
