"""`dpipe simulate`: what it is given, what it prints, and how it says what is wrong."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from typer.testing import CliRunner

from diffusion_router.core.scheduler import Scheduler
from dpipe.app import app
from testbed.waiting import until

SCENARIO: dict[str, Any] = {
    "shapes": {
        "image": {"encode": 0.1, "denoise": 2.5, "decode": 0.2, "steps": 50},
        "video": {"denoise": 20, "steps": 40},
    },
    "fleet": [
        {"roles": ["encoder", "decoder"], "peers": 1},
        {"roles": ["denoiser"], "peers": 2, "capacity": 2, "batch": [1, 1.3]},
    ],
    "load": {"load": 0.7, "jobs": 40, "mix": {"image": 0.9, "video": 0.1}, "numbers": {1: 0.7, 4: 0.3}, "keys": 10},
    "transferSeconds": 0.02,
}

# What is started in the background may ignore SIGINT, and what that starts too.
LONG = ["env", "--default-signal=INT", sys.executable, "-m", "dpipe", "simulate"]
LONG += ["mixed", "--jobs", "100000", "--processes", "2"]


def simulate(*arguments: str) -> tuple[int, str]:
    alone = () if "--processes" in arguments else ("--processes", "1")
    result = CliRunner().invoke(app, ["simulate", *arguments, *alone], catch_exceptions=False)
    return result.exit_code, result.output


def scenario(folder: Path, **changed: Any) -> str:
    file = folder / "scenario.yaml"
    file.write_text(yaml.safe_dump({**SCENARIO, **changed}))
    return str(file)


def test_a_load_that_is_built_in_is_told_in_a_table() -> None:
    status, text = simulate("ratio-shift")
    assert status == 0
    for expected in ("1:6:1", "monolith x 8", "0.0924", "bound"):
        assert expected in text


def test_figures_for_programs(tmp_path: Path) -> None:
    status, text = simulate("--scenario", scenario(tmp_path), "--json")
    assert status == 0
    fifo, deadline, bound = json.loads(text)
    assert [row["source"] for row in (fifo, deadline, bound)] == ["Fifo", "Deadline", "no order exceeds"]
    assert fifo["case"] == deadline["case"] == "scenario"
    figures = fifo["figures"]
    assert figures["completed"] == figures["jobs"] >= 40
    assert 0 < figures["in_time"] <= bound["figures"]["in_time"] <= 1
    assert figures["p50"] <= figures["p95"] <= figures["p99"] <= figures["max"]
    assert figures["encoded"] <= figures["jobs"]
    assert set(fifo["shapes"]) <= {"image", "video"}
    assert set(fifo["utilisation"]) == {"encoder+decoder", "denoiser"}


def test_policies_are_compared_on_the_same_requests() -> None:
    status, text = simulate("mixed", "--policy", "Fifo", "--policy", "Fifo", "--jobs", "60", "--seeds", "1")
    assert status == 0
    assert text.count("(1.00x)") >= 4 * 7


def test_runs_that_are_played_beside_each_other_give_the_same_figures() -> None:
    asked = ("mixed", "--policy", "Deadline", "--jobs", "40", "--seeds", "2", "--seed", "7", "--json")
    told, beside = simulate(*asked), simulate(*asked, "--processes", "2")
    assert beside == told
    assert beside[0] == 0


def test_a_file_is_read_by_every_process(tmp_path: Path) -> None:
    asked = ("--scenario", scenario(tmp_path), "--json")
    assert simulate(*asked, "--processes", "2") == simulate(*asked)


def test_a_process_that_is_ended_is_told_and_nobody_waits_for_the_others(tmp_path: Path) -> None:
    with subprocess.Popen(LONG, stderr=subprocess.PIPE, text=True) as run:
        until(lambda: len(psutil.Process(run.pid).children()) >= 3, 60, "a resource tracker and two that play")
        players = [child for child in psutil.Process(run.pid).children() if "spawn_main" in " ".join(child.cmdline())]
        players[0].kill()
        _, told = run.communicate(timeout=60)
        psutil.wait_procs(players, timeout=60)
    assert run.returncode == 1
    assert "one of its processes was ended" in told
    assert not any(player.is_running() for player in players)


@pytest.mark.parametrize("way", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_process_outlives_the_command(way: signal.Signals) -> None:
    with subprocess.Popen(LONG, stderr=subprocess.DEVNULL) as run:
        until(lambda: len(psutil.Process(run.pid).children()) >= 3, 60, "a resource tracker and two that play")
        others = psutil.Process(run.pid).children()
        run.send_signal(way)
        run.wait(timeout=60)
        _, left = psutil.wait_procs(others, timeout=60)
    assert not left


def test_a_trace_in_place_of_a_load(tmp_path: Path) -> None:
    file = tmp_path / "trace.csv"
    file.write_text("arrival,shape,steps,n,class,key,tenant\n0,image,25,2,interactive,cat,a\n1.5,video,,,,,\n")
    status, text = simulate("--scenario", scenario(tmp_path), "--trace", str(file), "--json")
    assert status == 0
    shapes = json.loads(text)[0]["shapes"]
    assert {name: shape["completed"] for name, shape in shapes.items()} == {"image/25": 2, "video": 1}


def test_faults_of_a_file_happen(tmp_path: Path) -> None:
    faults = [{"kind": "kill", "peer": "denoiser-0", "at": 5, "seconds": 3}, {"kind": "restart", "at": 9}]
    status, text = simulate("--scenario", scenario(tmp_path, faults=faults), "--json")
    assert status == 0
    assert json.loads(text)[0]["figures"]["faults"] == 2


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"shapes": {"image": {"denoise": -1, "steps": 4}}}, "shapes.image.denoise: Input should be greater than"),
        ({"fleet": [{"roles": ["painter"], "peers": 1}]}, "fleet.0.roles.0: Input should be 'encoder', 'denoiser'"),
        ({"fleet": [{"roles": ["encoder"], "peers": 1}]}, "fleet: no group has the role denoiser"),
        ({"fleet": [*SCENARIO["fleet"], SCENARIO["fleet"][1]]}, "fleet: there are two groups of denoiser"),
        ({"load": {"jobs": 3}}, "load: Value error, give exactly one of rate"),
        ({"load": {"rate": 1, "mix": {"poster": 1}}}, "load: 'poster' of a mix is none of the shapes image, video"),
        ({"load": {"rate": 1, "deadline": [9, 3]}}, "load: Value error, deadline: the first must not exceed"),
        ({"load": {"rate": 1, "variation": 3}}, "load: Value error, variation: is of arrivals that are bursts"),
        ({"load": {"rate": 1, "classes": {"urgent": 1}}}, "load.classes.urgent.[key]: Input should be 'interactive'"),
        ({"load": None}, "load: is missing: state one, or give --trace FILE"),
        ({"colour": "red"}, "colour: Extra inputs are not permitted"),
        ({"faults": [{"kind": "kill", "peer": "denoiser-9", "at": 1}]}, "faults: 'denoiser-9' is no peer of the fleet"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(tmp_path: Path, changed: dict[str, Any], told: str) -> None:
    status, text = simulate("--scenario", scenario(tmp_path, **changed))
    assert status == 2
    assert told in text


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("x,image,1,standard", ":2: arrival: 'x' is not a number from 0"),
        ("nan,image,1,standard", ":2: arrival: 'nan' is not a number from 0"),
        ("0,,1,standard", ":2: shape: is empty"),
        ("0,image,0,standard", ":2: n: '0' is not a number from 1"),
        ("0,image,1,urgent", ":2: class: 'urgent' is none of interactive, standard, batch"),
        ("0,poster,1,batch", "shape 'poster' of a request is none of image, video"),
        ("0,image,1,batch,-3", ":2: deadline: '-3' is not a number from 0"),
        ("5,image,1,batch\n4,image,1,batch", ":3: arrival: before that of the row above"),
    ],
)
def test_what_is_wrong_with_a_trace_is_named_with_its_line(tmp_path: Path, row: str, told: str) -> None:
    file = tmp_path / "trace.csv"
    file.write_text(f"arrival,shape,n,class,deadline\n{row}\n")
    status, text = simulate("--scenario", scenario(tmp_path), "--trace", str(file))
    assert status == 2
    assert told in text


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["mixed", "--policy", "Lifo"], "--policy Lifo: is none of Fifo, Deadline"),
        (["mixture"], "mixture: is none of mixed, super-p95, ratio-shift, adapters, faults"),
        ([], "give one of mixed, super-p95, ratio-shift, adapters, faults, or --scenario FILE"),
        (["mixed", "--trace", "x.csv"], "--trace: give --scenario too"),
        (["--scenario", "nowhere.yaml"], "nowhere.yaml: No such file or directory"),
    ],
)
def test_what_is_wrong_with_an_option_is_named(arguments: list[str], told: str) -> None:
    status, text = simulate(*arguments)
    assert (status, told in text) == (2, True), text


def test_a_violated_invariant_is_told_with_its_name_and_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scheduler, "_touch", lambda *_: None)
    status, text = simulate("ratio-shift")
    assert status == 1
    assert text.startswith("violated: ")
    assert " s, event " in text
