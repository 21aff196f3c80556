"""Which devices are usable, and what a pipeline that forbids TCP gets when there is none (I10)."""

from __future__ import annotations

from pathlib import Path

import pytest

from contract.transport.peers import settings
from diffusion_worker.transport import EngineInitFailed, open_transport
from diffusion_worker.transport.devices import describe, devices
from diffusion_worker.transport.engine_process import EngineSettings, environment
from diffusion_worker.transport.open import choose_network
from diffusion_worker.transport.rdma_ports import RdmaPorts


def openable(path: Path) -> bool:
    """In the fake tree, a device that the container was given is an ordinary file."""
    return path.is_file()


def add_device(
    root: Path, name: str, *, verbs: int | None = 0, given: bool = True, ports: tuple[str, ...] = ("4: ACTIVE",)
) -> None:
    folder = root / "sys/class/infiniband" / name / "ports"
    folder.mkdir(parents=True)
    for number, state in enumerate(ports, 1):
        (folder / str(number)).mkdir()
        (folder / str(number) / "state").write_text(state + "\n")
    if verbs is not None:
        entry = root / "sys/class/infiniband_verbs" / f"uverbs{verbs}"
        entry.mkdir(parents=True)
        (entry / "ibdev").write_text(name + "\n")
        if given:
            (root / "dev/infiniband").mkdir(parents=True, exist_ok=True)
            (root / "dev/infiniband" / f"uverbs{verbs}").touch()


def test_of_all_devices_that_the_node_shows_only_the_usable_ones_are_named(tmp_path: Path) -> None:
    add_device(tmp_path, "mlx5_0", verbs=0, given=False)
    add_device(tmp_path, "mlx5_1", verbs=1)
    add_device(tmp_path, "mlx5_2", verbs=2, ports=("1: DOWN", "2: INIT"))
    add_device(tmp_path, "mlx5_3", verbs=3, ports=("1: DOWN", "4: ACTIVE"))
    add_device(tmp_path, "mlx5_4", verbs=None)
    add_device(tmp_path, "mlx5_5", verbs=5, ports=())
    found = devices(tmp_path, openable)
    assert [device.name for device in found if device.usable] == ["mlx5_1", "mlx5_3"]
    message = describe(found)
    assert "mlx5_0: /dev/infiniband/uverbs0 can't be opened" in message
    assert "mlx5_2: no port is ACTIVE (port 1 DOWN, port 2 INIT)" in message
    assert "mlx5_4: has no uverbs device" in message
    assert "mlx5_5: no port is ACTIVE (no ports)" in message
    assert choose_network("auto", "Deny", root=tmp_path, openable=openable) == ("rdma", "mlx5_1,mlx5_3")


def test_of_the_usable_devices_only_those_that_the_pipeline_allows_are_named(tmp_path: Path) -> None:
    for index in range(3):
        add_device(tmp_path, f"mlx5_{index}", verbs=index, given=index != 2)
    allowed = ["mlx5_1", "mlx5_2", "mlx5_9"]
    message = describe(devices(tmp_path, openable, allowed))
    assert "mlx5_0: is not among spec.transport.rdma.devices" in message
    assert "mlx5_1: usable" in message
    assert "mlx5_2: /dev/infiniband/uverbs2 can't be opened" in message
    assert "mlx5_9: is among spec.transport.rdma.devices, but this machine does not show it" in message
    assert choose_network("auto", "Deny", allowed=allowed, root=tmp_path, openable=openable) == ("rdma", "mlx5_1")
    with pytest.raises(EngineInitFailed, match="mlx5_9"):
        choose_network("auto", "Deny", allowed=["mlx5_9"], root=tmp_path, openable=openable)


def test_an_adapter_without_reliable_connections_is_not_usable_and_says_what_is_missing(tmp_path: Path) -> None:
    add_device(tmp_path, "rdmap0s6")
    driver = tmp_path / "sys/bus/pci/drivers/efa"
    driver.mkdir(parents=True)
    device = tmp_path / "sys/class/infiniband/rdmap0s6/device"
    device.mkdir()
    (device / "driver").symlink_to(driver)
    with pytest.raises(EngineInitFailed, match=r"rdmap0s6: is an AWS EFA adapter.*\(RC\).*libfabric"):
        choose_network("rdma", "Deny", root=tmp_path, openable=openable)
    assert choose_network("auto", "Allow", root=tmp_path, openable=openable) == ("tcp", "")


def test_a_port_that_was_down_is_told_also_when_it_is_up_again(tmp_path: Path) -> None:
    add_device(tmp_path, "mlx5_0", ports=("4: ACTIVE", "1: DOWN"))
    add_device(tmp_path, "mlx5_1", verbs=1, ports=("1: DOWN",))
    first, second = (tmp_path / "sys/class/infiniband/mlx5_0/ports" / number for number in "12")
    (first / "counters").mkdir()
    (first / "counters/link_downed").write_text("3\n")
    ports = RdmaPorts(["mlx5_0"], tmp_path)
    (second / "state").write_text("4: ACTIVE\n")
    assert ports.fault() is None
    (first / "counters/link_downed").write_text("4\n")
    assert ports.fault() == "port 1 of mlx5_0 was down for a moment"
    (first / "state").write_text("1: DOWN\n")
    assert ports.fault() == "port 1 of mlx5_0 is DOWN"
    (first / "state").unlink()
    assert ports.fault() == "port 1 of mlx5_0 is gone"
    assert RdmaPorts([], tmp_path).fault() is None


def test_the_gid_index_of_the_pod_reaches_its_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MC_GID_INDEX", "3")
    given = environment(EngineSettings("127.0.0.1", "rdma", "mlx5_0", 15000, 15063))
    assert (given["MC_GID_INDEX"], given["MC_FORCE_HCA"]) == ("3", "1")


def test_a_machine_without_infiniband_has_no_devices(tmp_path: Path) -> None:
    assert devices(tmp_path, openable) == []
    assert "no RDMA device" in describe([])


@pytest.mark.parametrize("protocol", ["auto", "rdma"])
def test_without_a_usable_device_a_pipeline_that_forbids_falling_back_does_not_start(
    tmp_path: Path, protocol: str
) -> None:
    add_device(tmp_path, "mlx5_0", given=False)
    with pytest.raises(EngineInitFailed, match=r"fallback is Deny.*mlx5_0: /dev/infiniband/uverbs0"):
        choose_network(protocol, "Deny", root=tmp_path, openable=openable)
    assert choose_network(protocol, "Allow", root=tmp_path, openable=openable) == ("tcp", "")


def test_asking_for_tcp_gets_tcp_also_beside_a_device(tmp_path: Path) -> None:
    add_device(tmp_path, "mlx5_0")
    for fallback in ("Allow", "Deny"):
        assert choose_network("tcp", fallback, root=tmp_path, openable=openable) == ("tcp", "")


def test_unknown_words_are_refused(tmp_path: Path) -> None:
    for protocol, fallback in (("infiniband", "Allow"), ("rdma", "deny")):
        with pytest.raises(EngineInitFailed, match="is not one of"):
            choose_network(protocol, fallback, root=tmp_path)


@pytest.mark.parametrize("backend", ["tcp", "shm", "memory"])
async def test_back_ends_without_rdma_are_refused_where_tcp_is_forbidden(backend: str) -> None:
    with pytest.raises(EngineInitFailed, match="set backend: mooncake"):
        await open_transport(**settings(backend, 4096) | {"protocol": "auto", "fallback": "Deny"}, incarnation="a")


async def test_an_unknown_back_end_is_refused() -> None:
    with pytest.raises(EngineInitFailed, match="'nixl' is not one of mooncake, tcp, shm, memory"):
        await open_transport(**settings("nixl", 4096), incarnation="a")
