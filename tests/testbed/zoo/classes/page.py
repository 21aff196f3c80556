"""The page docs/models.md: what came of trying each class, and then what the zoo's families show in each mode.

python -m testbed.zoo.classes.page docs/models.md                    # `make models`
python -m testbed.zoo.classes.page docs/models.md WanPipeline …      # these rows alone; others stay as they are
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from diffusion_worker.model.products import PRODUCTS
from testbed.zoo.classes.catalogue import CLASSES

FAMILIES_HEAD: Final = "## Families in each mode"
HEAD: Final = """\
# What was tried with each class of pipelines

Written by `make models` from tiny random folders, on a CPU; tests hold all of it. What is missing here may well be
served: `dpipe check` tells that of any model, and makes what this page says of each class.

- **way**: along the blocks of Modular Diffusers, or by replay of the pipeline's own `__call__`.
- **uses**: what a request brings that the class takes; and what it takes and then fails with. All else it refuses in
  words.
- **whole**: payloads and files of three processes are those of one, byte for byte, in each use.
- **diffusers**: the file is what diffusers makes by itself of the same folder and request, in the use that takes most:
  nearly always byte for byte, and no pixel further off than {rounding} of 255, by rounding and a video's coding. Of
  what is cut along blocks the last table tells how far it is from the classic pipeline.
- **parked**: a denoising ended after any step goes on in another process to the same bytes.
- **payloads**: bytes from encoder to denoiser and from denoiser to decoder, of the first use; they say how these
  compare and not how large a published model's are.

{served} classes are served:

| class | way | makes | uses | whole | diffusers | parked | payloads |
| --- | --- | --- | --- | --- | --- | --- | --- |
"""
REFUSED_HEAD: Final = """
{refused} classes are refused, when a worker starts or when a request comes, in these words:

| class | because |
| --- | --- |
"""
OTHER_WEIGHTS: Final = """\
## A model that is one file

A worker loads pipeline folders. Of the single `.safetensors` files that people trade, `dpipe convert` makes one, by
diffusers' own loaders; it needs the worker's libraries (`pip install 'diffusion-operator[worker]'`) and no GPU. Tried
with the transformer of the bundled model as the file, and its folder as the family's:

```sh
digits=$(python -c 'from diffusion_worker.model import resolve_model; print(resolve_model("Bundled", "digits", ""))')
dpipe convert "$digits/transformer/diffusion_pytorch_model.safetensors" my-digits --config "$digits"
```
```
my-digits: FluxPipeline
from the file: transformer
from the config: scheduler, text_encoder, text_encoder_2, tokenizer, tokenizer_2, vae
next: dpipe check my-digits
```

In the worker's image it is:

<!-- run: nowhere: needs a Docker engine -->
```sh
docker run --rm --user "$(id -u)" --volume /models:/models --entrypoint python diffusion-operator/worker:0.1.0 \\
  -m diffusion_worker.model.convert /models/my-painter.safetensors /models/my-painter --config /models/sdxl
```

`--config` is the folder of a pipeline of the same family, from which configs, tokenizers and the scheduler are taken,
and the networks that the file lacks: files of Flux, Wan or Z-Image mostly hold the transformer alone. It may be a
repository of the hub, of which the configs alone are downloaded; left out, it is the one that diffusers knows for such
files. Nothing else asks the network. The class is the config's, unless `--pipeline` names another. Of a pipeline with
two denoisers (Wan 2.2) `--component` says which one the file holds; the other is made after it, with the first folder
as `--config`.

The folder is there whole or not at all: every tensor must be in the file, in the shape that the config says, and be a
finite number, and what was made is loaded once as a worker does. Refused in words are adapters (they go under
`model.adapters`, [adapters.md](adapters.md)), a VAE, a text encoder or a ControlNet alone, weights that are quantised
with scales, GGUF, and pickles (`.ckpt`) without `--allow-pickle`.

## Quantised weights

A component whose config has a `quantization_config` stays quantised, and is loaded by the method's own package,
which the worker's image has to have: torchao, optimum-quanto, bitsandbytes and others are not in it. A worker names the
component, the method and the package if it is missing, and a method that its library does not know; it serves no
quantised weights as full ones because the device can't run them, unless the config says `dequantize`. Weights with
scales that no config speaks of are refused, and so is GGUF.

"""
_ROW: Final = re.compile(r"^\| (\w+Pipeline) \| .*\|$", re.MULTILINE)


ROUNDING: Final = 8


class BrokenTry(Exception):
    """Nothing is told of the class: diffusers itself can't run the folder, or the trial broke off."""


def row(name: str, report: Mapping[str, Any]) -> str:
    """The page's line on a class. Raises BrokenTry."""
    if "error" in report["classic"]:
        raise BrokenTry(f"{name}: {report['classic']['error']}")
    if "verdict" not in report:
        raise BrokenTry(f"{name}: {report['error']}")
    if "cases" not in report:
        return f"| {name} | {_sentence(report['error'])} |"
    good = {use: case for use, case in report["cases"].items() if "stages" in case}
    failed = {use: case["failed"] for use, case in report["cases"].items() if "failed" in case}
    if not good:
        why = failed or {use: case["refused"] for use, case in report["cases"].items()}
        return f"| {name} | {_sentence([*why.values()][-1])} |"
    equal = all(case["identical"] for case in good.values())
    parked = all(case["parking"]["resumable"] for case in good.values())
    first = next(iter(good.values()))
    sizes = " + ".join(_size(first["stages"][stage]["nbytes"]) for stage in ("encode", "denoise"))
    cells = [report["way"], _product(report), _uses(good, failed), "yes" if equal else "NO", _apart(report)]
    cells += ["yes" if parked else "NO", sizes]
    return f"| {name} | {' | '.join(cells)} |"


def text(rows: Iterable[str], families: str) -> str:
    """The page of these rows, whose part on families is given."""
    served, refused = [], []
    for line in sorted(rows):
        (served if line.count(" | ") > 1 else refused).append(line + "\n")
    head = HEAD.format(served=len(served), rounding=ROUNDING) + "".join(served)
    return head + REFUSED_HEAD.format(refused=len(refused)) + "".join(refused) + f"\n{OTHER_WEIGHTS}{families}"


def rows_of(page: str) -> dict[str, str]:
    """The lines of a page on classes, by class."""
    return {found[1]: found[0] for found in _ROW.finditer(page)}


def _uses(good: Iterable[str], failed: Mapping[str, str]) -> str:
    return "; ".join([*good, *(f"not from {use}: {_sentence(why)}" for use, why in failed.items())])


def _product(report: Mapping[str, Any]) -> str:
    theirs = report["classic"]["makes"]
    return report["output"] if PRODUCTS.get(theirs) == report["output"] else f"NO: {report['output']}, not {theirs}"


def _apart(report: Mapping[str, Any]) -> str:
    if "apart" not in report:
        return ""
    return "yes" if report["apart"] <= ROUNDING else f"NO: {report['apart']} of 255"


def _sentence(what: str) -> str:
    return " ".join(what.replace("|", "/").split())


def _size(nbytes: int) -> str:
    return f"{nbytes / 1000:.1f} kB"


def main(arguments: Sequence[str]) -> int:
    from testbed.zoo.classes.running import run

    path, chosen = Path(arguments[0]), list(arguments[1:]) or list(CLASSES)
    page = path.read_text(encoding="utf-8")
    broken: list[str] = []
    # Of an interrupted run what is done is on the page.
    known = rows_of(page)

    def told(name: str, report: Mapping[str, Any]) -> None:
        try:
            known[name] = row(name, report)
        except BrokenTry as error:
            known.pop(name, None)
            broken.append(str(error))
        sys.stderr.write(f"{known.get(name, f'{name}: no good recipe')}\n")
        kept = [line for one, line in known.items() if one in CLASSES]
        path.write_text(text(kept, _families(page)), encoding="utf-8")

    run(chosen, told)
    if len(arguments) == 1:
        from testbed.zoo.table import table

        kept = [line for one, line in known.items() if one in CLASSES]
        path.write_text(text(kept, f"{FAMILIES_HEAD}\n\n{table()}"), encoding="utf-8")
    for why in broken:
        sys.stderr.write(f"{why}\n")
    return 1 if broken else 0


def _families(page: str) -> str:
    """A page's part on families."""
    if FAMILIES_HEAD in page:
        return page[page.index(FAMILIES_HEAD) :]
    return FAMILIES_HEAD + "\n\n" + page[page.index("- **split") :]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
