"""Runs a pipeline's own `__call__` up to, between or after the points where it is cut.

A family without modular blocks has one long `__call__`. Every role runs that same code, and only what belongs to
another role is answered from a record:

- `encode` runs up to the first call of the denoiser. It records what each method that used an encoder (or the VAE's
  encoder) returned, and the generator's state after it.
- `denoise` gets those results in their place, restores the generator, and runs up to the first decoding; where several
  networks decode (a video's pictures and its sound), up to the last of them, with nothing made of those before.
- `decode` answers encoders and denoiser with zeros of the right shapes, puts the real latents into the decodings, and
  lets the tail of `__call__` (cropping, post-processing) run as it is.

What such a cut can't carry is found while running, and raised as UnsupportedModel.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Final, NotRequired, TypedDict

import torch
from diffusers.image_processor import VaeImageProcessor

from diffusion_worker.model.records import hollow, outline, pack, unpack
from diffusion_worker.model.retrace import Outline, Outlines, ProgressBar, Retrace
from diffusion_worker.model.taps import Answer, Method, Reached, Taps
from diffusion_worker.model.types import ModelError, UnsupportedModel

DIRECT: Final = "component:"
"""Prefix of a record's name where `__call__` used the component itself and not one of the pipeline's methods."""


class Record(TypedDict):
    """What a call that belongs to an encoder returned."""

    name: str
    call: int
    """Which call of that name."""
    result: object
    """As `pack` gives it; for `decode`, as `hollow` does."""
    generator: NotRequired[torch.Tensor]
    """The generator's state after the call; not for `decode`."""


class Decoding(TypedDict):
    """A call that decodes, and its arguments."""

    name: str
    call: int
    args: object
    kwargs: object
    generator: torch.Tensor


class Made(TypedDict):
    """What `decode` needs of what `denoise` did."""

    records: list[Record]
    outputs: dict[str, list[Outline]]
    """By denoiser."""
    decoding: Decoding
    """The first one."""
    others: NotRequired[list[Decoding]]
    """One of each other network that decodes."""


@dataclass(frozen=True)
class Parts:
    """A pipeline's components that compute, by role. A role's own are whole, the others are shells."""

    encoders: Mapping[str, torch.nn.Module]
    denoisers: Mapping[str, torch.nn.Module]
    decoders: Mapping[str, torch.nn.Module]

    def all(self) -> list[tuple[str, torch.nn.Module]]:
        """By name."""
        return [*self.encoders.items(), *self.denoisers.items(), *self.decoders.items()]


@dataclass(frozen=True)
class Run:
    """One call of one pipeline, for one stage of one job. The pipeline object is this run's alone."""

    pipeline: Any
    parts: Parts
    arguments: Mapping[str, Any]
    generator: torch.Generator
    device: torch.device

    @property
    def name(self) -> str:
        """The pipeline class's name, for messages."""
        return type(self.pipeline).__name__

    def start(self, taps: Taps, answer: Answer) -> Any:
        """Runs `__call__` with `answer` in the place of the pipeline's methods, to its end or to Reached."""
        taps.methods(self.pipeline, answer)
        return self.pipeline(**self.arguments)


def encode(run: Run) -> list[Record]:
    """Runs up to the denoiser. Returns the records of what the encoders made.

    Raises UnsupportedModel if the denoiser is never reached, or a result can't be sent.
    """
    records: list[Record] = []
    touched = 0

    def touch() -> None:
        nonlocal touched
        touched += 1

    def record(name: str, call: int, result: Any) -> Any:
        packed = pack(result, f"{run.name}.{name}'s result", run.generator)
        records.append({"name": name, "call": call, "result": packed, "generator": run.generator.get_state()})
        return result

    def answer(name: str, call: int, method: Method, args: Any, kwargs: Any) -> Any:
        before = touched
        result = method(*args, **kwargs)
        return record(name, call, result) if touched > before else result

    def direct(name: str, call: int, method: Method, args: Any, kwargs: Any) -> Any:
        touch()
        result = method(*args, **kwargs)
        return result if taps.depth else record(name, call, result)

    with Taps() as taps:
        for name, encoder in run.parts.encoders.items():
            # Some methods of encoders use a tower inside of it, past the encoder's own forward.
            for tower in encoder.children():
                taps.hear(tower, touch)
            if hasattr(encoder, "final_layer_norm") and not hasattr(encoder, "text_model"):
                # Pipelines with clip_skip use a tower inside of CLIP's model, with which transformers 5 made it one.
                taps.put(encoder, "text_model", encoder)
            taps.handle(encoder, "forward", DIRECT + name, direct)
        for name, decoder in run.parts.decoders.items():
            taps.handle(decoder, "encode", f"{DIRECT}{name}.encode", direct)
        for name, denoiser in run.parts.denoisers.items():
            taps.handle(denoiser, "forward", DIRECT + name, _stop)
        try:
            run.start(taps, answer)
        except Reached:
            return records
    raise UnsupportedModel(f"{run.name} never calls {_either(run.parts.denoisers)}, so nothing denoises")


def denoise(run: Run, records: Sequence[Record], retrace: Retrace) -> Made:
    """Runs from the encoders' records up to the first decoding.

    Raises UnsupportedModel if nothing is ever decoded, Parked, and what the driver raises.
    """
    reached: list[Decoding] = []
    denoised = 0

    def reach(name: str, call: int, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        what = f"{run.name}.{name}'s argument"
        decoding: Decoding = {
            "name": name,
            "call": call,
            "args": pack(list(args), what, run.generator),
            "kwargs": pack(dict(kwargs), what, run.generator),
            "generator": run.generator.get_state(),
        }
        reached.append(decoding)

    def answer(name: str, call: int, method: Method, args: Any, kwargs: Any) -> Any:
        if (name, call) in answers:
            return answers.give(name, call)
        before = denoised
        try:
            return method(*args, **kwargs)
        except Reached:
            if denoised > before:
                raise UnsupportedModel(
                    f"{run.name}.{name} denoises and decodes in one; it can't be cut by role"
                ) from None
            reach(name, call, args, kwargs)
            raise

    def traced(name: str, _call: int, forward: Method, args: Any, kwargs: Any) -> Any:
        nonlocal denoised
        denoised += 1
        if retrace.skips:
            return unpack(retrace.outlines.take(name), run.device)
        result = forward(*args, **kwargs)
        if retrace.repeats:
            retrace.outlines.take(name)
        else:
            retrace.outlines.add(name, outline(result, f"{name}'s output"))
        return result

    def stop(name: str, call: int, _method: Method, args: Any, kwargs: Any) -> Any:
        if not taps.depth:
            reach(name, call, args, kwargs)
            if len(reached) < len(decoders):
                return (None,) if kwargs.get("return_dict") is False else SimpleNamespace(sample=None)
        raise Reached

    with Taps() as taps:
        answers = _Answers(run, records)
        answers.attach(taps)
        for name, denoiser in run.parts.denoisers.items():
            taps.handle(denoiser, "forward", name, traced)
        decoders = {name: one for name, one in run.parts.decoders.items() if hasattr(one, "decode")}
        for name, decoder in decoders.items():
            taps.handle(decoder, "decode", DIRECT + name, stop)
        if len(decoders) > 1:
            _process_nothing(taps, run.pipeline)
        retrace.attach(taps, run.pipeline)
        try:
            run.start(taps, answer)
        except Reached:
            outlines = [Record(name=r["name"], call=r["call"], result=hollow(r["result"])) for r in records]
            made: Made = {"records": outlines, "outputs": retrace.outlines.kept, "decoding": reached[0]}
            if len(reached) > 1:
                made["others"] = reached[1:]
            return made
    raise UnsupportedModel(f"{run.name} never calls decode of {_either(run.parts.decoders)}, so nothing decodes")


def decode(run: Run, made: Made) -> Any:
    """Runs with zeros up to the decoding where `denoise` stopped, and from there for real. Returns the output.

    Raises UnsupportedModel if one of its networks decodes more than once or it denoises after that: what is decoded
    then depends on what this role does not have.
    """
    targets = {(one["name"], one["call"]): one for one in (made["decoding"], *made.get("others", ()))}
    outlines = Outlines(made["outputs"])
    entered: set[tuple[str, int]] = set()
    inside = False

    def enter(key: tuple[str, int], method: Method) -> Any:
        nonlocal inside
        if key in entered:
            raise UnsupportedModel(f"{run.name} decodes more than once; it can't be cut by role")
        entered.add(key)
        inside = True
        target = targets[key]
        run.generator.set_state(target["generator"])
        args = unpack(target["args"], run.device, run.generator)
        kwargs = unpack(target["kwargs"], run.device, run.generator)
        result = method(*args, **kwargs)
        inside = False
        return result

    def answer(name: str, call: int, method: Method, args: Any, kwargs: Any) -> Any:
        if (name, call) in answers:
            return answers.give(name, call)
        if (name, call) in targets:
            return enter((name, call), method)
        return method(*args, **kwargs)

    def decoder(name: str, call: int, method: Method, args: Any, kwargs: Any) -> Any:
        if inside:
            return method(*args, **kwargs)
        if not taps.depth and (name, call) in targets:
            return enter((name, call), method)
        raise UnsupportedModel(f"{run.name} decodes more than once ({name}); it can't be cut by role")

    def silent(name: str, _call: int, _forward: Method, _args: Any, _kwargs: Any) -> Any:
        if entered:
            raise UnsupportedModel(f"{run.name} denoises again after decoding; it can't be cut by role")
        return unpack(outlines.take(name), run.device)

    with Taps() as taps:
        answers = _Answers(run, made["records"])
        answers.attach(taps)
        for name, denoiser in run.parts.denoisers.items():
            taps.handle(denoiser, "forward", name, silent)
        for name, component in run.parts.decoders.items():
            taps.handle(component, "decode", DIRECT + name, decoder)
        taps.put(run.pipeline, "progress_bar", lambda iterable=None, total=None: ProgressBar(_ignore, iterable, total))
        result = run.start(taps, answer)
    if missed := [name for name, _ in targets.keys() - entered]:
        raise ModelError(f"{run.name} never came to {missed[0]}, where its denoising ended")
    return result


class _Answers:
    """The encoders' records, given in the place of the calls that made them."""

    def __init__(self, run: Run, records: Sequence[Record]) -> None:
        self._run = run
        self._records = {(record["name"], record["call"]): record for record in records}

    def __contains__(self, key: tuple[str, int]) -> bool:
        return key in self._records

    def give(self, name: str, call: int) -> Any:
        """The recorded result; the generator is left as the call that was recorded left it."""
        record = self._records[name, call]
        if "generator" in record:
            self._run.generator.set_state(record["generator"])
        return unpack(record["result"], self._run.device, self._run.generator)

    def attach(self, taps: Taps) -> None:
        """Answers encoders that `__call__` uses directly."""
        for name, encoder in self._run.parts.encoders.items():
            taps.handle(encoder, "forward", DIRECT + name, self._direct)
        for name, decoder in self._run.parts.decoders.items():
            taps.handle(decoder, "encode", f"{DIRECT}{name}.encode", self._direct)

    def _direct(self, name: str, call: int, _method: Method, _args: Any, _kwargs: Any) -> Any:
        if (name, call) not in self:
            raise UnsupportedModel(
                f"{self._run.name} encodes again after its denoising began ({name}); it can't be cut by role"
            )
        return self.give(name, call)


def _process_nothing(taps: Taps, pipeline: Any) -> None:
    """Lets the pipeline, which is one run's alone, pass by its post-processing."""
    for name, processor in list(vars(pipeline).items()):
        if isinstance(processor, VaeImageProcessor):
            # Other runs of this pipeline share it.
            pipeline.__dict__[name] = own = copy.copy(processor)
            for method in ("postprocess", "postprocess_video"):
                taps.handle(own, method, f"{name}.{method}", lambda *_: None)


def _stop(_name: str, _call: int, _method: Method, _args: Any, _kwargs: Any) -> Any:
    raise Reached


def _ignore(_step: int, _steps: int) -> None:
    return None


def _either(parts: Mapping[str, object]) -> str:
    return " or ".join(parts) or "anything"
