from __future__ import annotations

import pytest

from diffusion_worker.settings import Settings
from diffusionpipeline.words import Role, Stage

ENCODER = ["--role", "encoder"]


@pytest.mark.parametrize(
    "flags",
    [["--role", "decoder", "--role", "encoder"], ["--role", "encoder,decoder"], ["--roles", "decoder,encoder,encoder"]],
)
def test_roles_are_given_once_or_more_in_any_order(flags: list[str]) -> None:
    settings = Settings.read(flags)
    assert settings.roles == [Role.ENCODER, Role.DECODER]
    assert settings.stages == {Stage.ENCODE, Stage.DECODE}
    assert settings.label == "encoder+decoder"


@pytest.mark.parametrize("value", ["encoder,decoder", '["encoder", "decoder"]'])
def test_roles_may_come_from_the_environment_as_a_comma_list_or_json(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("DIFFUSION_WORKER_ROLES", value)
    assert Settings.read([]).roles == [Role.ENCODER, Role.DECODER]
    assert Settings.read(["--role", "denoiser"]).roles == [Role.DENOISER]


def test_rdma_devices_are_a_comma_list(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings.read(ENCODER).rdma_devices == []
    monkeypatch.setenv("DIFFUSION_WORKER_RDMA_DEVICES", "mlx5_0,mlx5_1")
    assert Settings.read(ENCODER).rdma_devices == ["mlx5_0", "mlx5_1"]


def test_an_empty_variable_is_one_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFUSION_WORKER_MODEL_ID", "")
    assert Settings.read(ENCODER).model_id == "digits"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--role", ","], "--role (DIFFUSION_WORKER_ROLES): name at least one"),
        ([*ENCODER, "--router", "router"], "--router (DIFFUSION_WORKER_ROUTER): 'router' is not host:port"),
        ([*ENCODER, "--router", "router:http"], "is not host:port"),
        ([*ENCODER, "--port-min", "100", "--port-max", "99"], "--port-min 100 is above --port-max 99"),
        (
            [*ENCODER, "--stall-seconds", "1000"],
            "--stall-first-seconds 900 is below --stall-seconds 1000",
        ),
        ([*ENCODER, "--router", "fd00::7:8001"], "an IPv6 address stands in brackets, as in [::1]:8001"),
        ([*ENCODER, "--backend", "pigeon"], "--backend (DIFFUSION_WORKER_BACKEND): Input should be 'mooncake'"),
        ([*ENCODER, "--drain-seconds", "-1"], "--drain-seconds (DIFFUSION_WORKER_DRAIN_SECONDS)"),
    ],
)
def test_a_wrong_value_ends_with_status_2_and_names_the_flag(
    flags: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        Settings.read(flags)
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("host", "bound"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("::1", "::1"),
        ("10.0.0.7", "::"),
        ("fd00::7", "::"),
        ("localhost", "localhost"),
    ],
)
def test_probes_of_a_local_worker_stay_on_the_machine(host: str, bound: str) -> None:
    assert Settings.read([*ENCODER, "--host", host]).health_host == bound
