"""`dpipe simulate`: each import is made when it runs."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diffusionpipeline.words import EXIT_FAILED, EXIT_USAGE
from dpipe.terminal import JsonOption, console, fail, print_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dpipe.simulate.report import Row
    from dpipe.simulate.scenario import Outcome
    from dpipe.simulate.studies import Case, Study


def simulate(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[mixed|super-p95|ratio-shift|adapters|faults]", help="A load that is built in."),
    ] = None,
    scenario: Annotated[
        Path | None, typer.Option(help="Instead: a file with fleet, load and faults (YAML or JSON).", dir_okay=False)
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option(
            help="With --scenario: requests out of a CSV file with columns arrival, shape and, if you like, steps, n, "
            "class, key, tenant, adapters.",
            dir_okay=False,
        ),
    ] = None,
    policies: Annotated[
        list[str] | None,
        typer.Option("--policy", help="Fifo or Deadline; several are compared on the same requests. Left out: both."),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Runs a case, each of requests of its own. Left out: the load's own.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The first of them.")] = 0,
    jobs: Annotated[int | None, typer.Option(min=1, help="Requests a run. Left out: the load's own.")] = None,
    faults: Annotated[int | None, typer.Option(min=1, help="Faults a run, of the load `faults`.")] = None,
    bound: Annotated[
        bool, typer.Option("--bound/--no-bound", help="Whether what no order exceeds stands beside the policies.")
    ] = True,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Runs that are played at a time. Left out: as many as there are cores.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Play a load through the router's own core, in virtual time.

    Prints how many jobs came in time, how long they took, and what they cost. While it runs it checks what must always
    hold (one end for each job, credits, slots, blame, order, no idle place); the exit status is 1 if that was violated.
    """
    from dpipe.simulate.errors import InputError, InvariantError, LostProcessError
    from dpipe.simulate.policies import POLICIES, named
    from dpipe.simulate.report import as_data, table
    from dpipe.simulate.runs import Asked, Run, play, usable_cores

    try:
        asked = Asked(name, scenario, trace, jobs, faults)
        study = asked.study()
        study = replace(study, bounded=study.bounded and bound)
        chosen = policies or list(POLICIES)
        for policy in chosen:
            named(policy)
        each = range(seed, seed + (seeds or study.seeds))
        runs = [Run(*run) for run in product(range(len(study.cases)), chosen, each)]
        outcomes = iter(play(asked, runs, processes or usable_cores()))
        rows = [row for case in study.cases for row in _rows(study, case, chosen, each, outcomes)]
    except InputError as error:
        fail(str(error), EXIT_USAGE)
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}", EXIT_USAGE)
    except InvariantError as error:
        fail(f"violated: {error}", EXIT_FAILED)
    except LostProcessError as error:
        fail(str(error), EXIT_FAILED)
    if as_json:
        print_json(as_data(rows))
    else:
        console(error=False).print(table(f"{study.title}; {len(each)} runs a case", rows, study.columns))


def _rows(
    study: Study, case: Case, policies: Sequence[str], seeds: Sequence[int], outcomes: Iterator[Outcome]
) -> list[Row]:
    """Of every policy on the same seeds, and of what stands beside them. outcomes: the next are theirs, in order."""
    import random
    from itertools import islice

    from dpipe.simulate.bound import best_in_time
    from dpipe.simulate.report import Row, row, together

    rows = []
    for name in policies:
        of_policy = list(islice(outcomes, len(seeds)))
        extra = [
            {**(case.extra(outcome.ends) if case.extra else {}), "faults": float(sum(outcome.faults.values()))}
            for outcome in of_policy
        ]
        rows.append(row(case.label, name, of_policy, extra))
    if study.bounded:
        scenario = case.scenario
        loads = [list(scenario.load(random.Random(f"{seed} load"))) for seed in seeds]
        best = [{"in_time": best_in_time(load, scenario.fleet, scenario.target_factor)} for load in loads]
        rows.append(Row(case.label, "no order exceeds", together(best)))
        if case.reference is not None:
            source, find = case.reference
            rows.append(Row(case.label, source, together([find(load) for load in loads])))
    rows += [Row(case.label, source, figures) for source, figures in case.beside.items()]
    return rows
