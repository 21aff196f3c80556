"""What every use of the zoo shows in each mode, as a part of the page docs/models.md.

The same comparisons are tests (tests/contract/parity); here their figures are written down.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from testbed.zoo.catalogue import FAMILIES
from testbed.zoo.processes import Case, Stay
from testbed.zoo.roles import Roles, started

DTYPES: Final = ("float32", "bfloat16")
HEAD: Final = """\
- **split = whole**: latents and files of three processes are those of one, byte for byte, in the modes Exact and
  Guidance.
- **classic**: the largest difference to diffusers' own `__call__` of what the VAE is given, in fp32, Exact / Guidance.
  0 is the same bits. What is far off in both modes is where diffusers' modular pipelines, which these are cut from,
  encode or draw noise otherwise than its older ones.
- **shared**: the largest difference of latents when three requests share forwards, as a share of the largest value,
  fp32 / bf16; `exact` ones among them are the same bytes. In brackets forwards for one call and for several.
- **parked**: ended after each step, and gone on with in another process, to the same bytes, in both modes and
  precisions; and what a checkpoint adds to the encoder's output.

| | way | split = whole | classic | shared | parked |
| --- | --- | --- | --- | --- | --- |
"""


def rows(roles: Roles) -> Iterator[str]:
    for family in FAMILIES:
        cells = [
            FAMILIES[family].way,
            _yes(_split_equals_whole(roles, family)),
            _classic(roles, family),
            _shared(roles, family),
            _parked(roles, family),
        ]
        yield f"| `{family}` | {' | '.join(cells)} |\n"


def _split_equals_whole(roles: Roles, family: str) -> bool:
    for dtype in DTYPES:
        case = Case(family, dtype)
        outcome = roles.run(case)
        if outcome["split"]["files"] != outcome["whole"]["files"]:
            return False
        encoded = outcome["split"]["encoded"]
        split, whole = (role.call("denoise", case, encoded, gathers=True)[0] for role in (roles.denoiser, roles.whole))
        if split != whole:
            return False
    return True


def _classic(roles: Roles, family: str) -> str:
    modes = (False, True)
    return " / ".join(_number(roles.whole.call("distance_to_classic", Case(family), gathers=mode)) for mode in modes)


def _shared(roles: Roles, family: str) -> str:
    found, counts = [], {}
    for dtype in DTYPES:
        cases = [Case(family, dtype, changes=(("seed", seed),)) for seed in (7, 8, 9)]
        alone = [roles.split(case) for case in cases]
        stays = [
            Stay(case, one["encoded"], joins=place) for place, (case, one) in enumerate(zip(cases, alone, strict=True))
        ]
        together = roles.denoiser.call("denoise_together", stays)
        counts = together["forwards"]
        found.append(
            max(
                roles.denoiser.call("distance", shared, one["denoised"])
                for shared, one in zip(together["denoised"], alone, strict=True)
            )
        )
    return f"{' / '.join(map(_number, found))} ({counts['alone']}, {counts['joined']})"


def _parked(roles: Roles, family: str) -> str:
    most = 0
    for dtype in DTYPES:
        for gathers in (False, True):
            case = Case(family, dtype)
            encoded = roles.run(case)["split"]["encoded"]
            undisturbed, steps = roles.denoiser.call("denoise", case, encoded, gathers=gathers)
            for step in range(1, len(steps)):
                parked, _ = roles.denoiser.call("denoise", case, encoded, gathers=gathers, park_at=step)
                if roles.whole.call("denoise", case, parked, gathers=gathers)[0] != undisturbed:
                    return f"no: {dtype}, step {step}"
                most = max(most, len(parked) - len(encoded))
    return f"yes, {most / 1000:.0f} kB"


def _yes(good: bool) -> str:
    return "yes" if good else "NO"


def _number(value: float) -> str:
    return f"{value:.0e}".replace("e-0", "e-") if value else "0"


def table() -> str:
    """What the words of the columns mean, and a row for each family."""
    with started() as roles:
        return HEAD + "".join(rows(roles))
