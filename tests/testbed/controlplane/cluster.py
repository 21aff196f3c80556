"""One control plane as child processes: started in about three seconds, gone with the test run."""

from __future__ import annotations

import contextlib
import itertools
import json
import ssl
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, Final, Self

import httpx
import yaml

from diffusionpipeline.process.addresses import host_port
from testbed import waiting
from testbed.controlplane import programs
from testbed.controlplane.audit import POLICY, Audit
from testbed.controlplane.authority import Authority
from testbed.controlplane.children import Folder, free_ports, spawn, tail
from testbed.controlplane.client import Client, Refused

SERVICES: Final = {"IPv4": "10.96.0.0/16", "IPv6": "fd00:10:96::/112"}
LOOPBACK: Final = {"IPv4": "127.0.0.1", "IPv6": "::1"}
# Pods would reach the API server here. No fake one does, and a loopback address is refused.
ADVERTISED: Final = {"IPv4": "198.51.100.1", "IPv6": "2001:db8::1"}
FAKE_PODS: Final = {"IPv4": "198.18.0.0/15", "IPv6": "2001:db8:1::/64"}
ADMINISTRATORS = "system:masters"
STAGES = Path(__file__).parent / "stages.yaml"
# The controllers hold themselves to 20 requests a second, which tests have no time for.
UNHURRIED = ("--kube-api-qps=500", "--kube-api-burst=1000")


class ClusterError(Exception):
    """The cluster, or a command in it, failed."""


class Cluster:
    """`kubeconfig` and `api` are the administrator's.

    families: of which versions of IP its Services can be, the one first that they are of unless they say otherwise. Of
    that are its own addresses.
    """

    def __init__(
        self,
        *,
        families: Sequence[str] = ("IPv4",),
        apiserver_args: Sequence[str] = (),
        controller_args: Sequence[str] = (),
    ) -> None:
        self.families = tuple(families)
        self.address = LOOPBACK[families[0]]  # where the API server listens
        self.advertised = ADVERTISED[families[0]]  # where it tells pods to find it
        self._apiserver_args = apiserver_args
        self._controller_args = controller_args
        self._commands: dict[str, tuple[str, ...]] = {}
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._logins = itertools.count(1)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        self.programs = programs.control_plane()
        self._folder = Folder()
        self.folder = self._folder.path
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        with contextlib.suppress(KeyError):
            self.__dict__.pop("api").close()
        for child in self._children.values():
            child.kill()
        for child in self._children.values():
            child.wait()
        self._children.clear()
        self._folder.remove()

    def _start(self) -> None:
        etcd, etcd_peer, self.port = free_ports(3)
        self.url = f"https://{host_port(self.address, self.port)}"
        self.authority = Authority(self.folder / "pki")
        self.audit = Audit(self.folder / "audit.log")
        self.kubeconfig = self.kubeconfig_of("admin", [ADMINISTRATORS])
        self._run(
            "etcd",
            f"--data-dir={self.folder}/etcd",
            f"--listen-client-urls=http://127.0.0.1:{etcd}",
            f"--advertise-client-urls=http://127.0.0.1:{etcd}",
            f"--listen-peer-urls=http://127.0.0.1:{etcd_peer}",
            f"--initial-advertise-peer-urls=http://127.0.0.1:{etcd_peer}",
            f"--initial-cluster=default=http://127.0.0.1:{etcd_peer}",
            "--unsafe-no-fsync",  # nobody needs this data after a power cut
        )
        self._run("kube-apiserver", *self._apiserver_arguments(etcd))
        self.wait_ready()
        ca = self.authority.certificate
        self._run(
            "kube-controller-manager",
            f"--kubeconfig={self.kubeconfig_of('system:kube-controller-manager')}",
            "--use-service-account-credentials=true",
            f"--service-account-private-key-file={self.authority.accounts.key}",
            f"--root-ca-file={ca.file}",
            f"--cluster-signing-cert-file={ca.file}",
            f"--cluster-signing-key-file={ca.key}",
            "--leader-elect=false",
            "--secure-port=0",
            # A pod that its quota counts but that was not made after all is counted for 5 minutes without.
            "--resource-quota-sync-period=2s",
            *UNHURRIED,
            *self._controller_args,
        )
        scheduler = self.kubeconfig_of("system:kube-scheduler")
        self._run("kube-scheduler", f"--kubeconfig={scheduler}", "--leader-elect=false", "--secure-port=0", *UNHURRIED)
        # Pods are refused until the controllers have made it.
        account = "/api/v1/namespaces/default/serviceaccounts/default"
        self.until(lambda: self.api.exists(account), 60, "the default service account is there")
        self._start_nodes()

    def _start_nodes(self) -> None:
        """What makes nodes of Node objects: here KWOK, which plays them."""
        (port,) = free_ports(1)
        self._run(
            "kwok",
            f"--kubeconfig={self.kubeconfig_of('test:kwok', [ADMINISTRATORS])}",
            "--manage-all-nodes=false",
            "--manage-nodes-with-label-selector=type=kwok",
            "--node-lease-duration-seconds=40",  # 0 without: after 50 s all fake nodes would turn NotReady
            f"--cidr={FAKE_PODS[self.families[0]]}",
            f"--node-ip={ip_address(self.advertised) + 1}",
            f"--server-address=127.0.0.1:{port}",
            f"--config={STAGES}",
        )

    def _apiserver_arguments(self, etcd: int) -> list[str]:
        names = [f"kubernetes{rest}" for rest in ("", ".default", ".default.svc", ".default.svc.cluster.local")]
        first_service = str(ip_network(SERVICES[self.families[0]])[1])
        hosts = sorted({"localhost", *LOOPBACK.values(), self.address, self.advertised, first_service, *names})
        server = self.authority.issue("kube-apiserver", "kube-apiserver", hosts=hosts)
        front = self.authority.issue("front-proxy", "front-proxy")
        policy = self.folder / "audit-policy.yaml"
        policy.write_text(POLICY)
        return [
            f"--etcd-servers=http://127.0.0.1:{etcd}",
            f"--bind-address={self.address}",
            f"--secure-port={self.port}",
            f"--advertise-address={self.advertised}",
            f"--tls-cert-file={server.file}",
            f"--tls-private-key-file={server.key}",
            f"--client-ca-file={self.authority.certificate.file}",
            "--authorization-mode=Node,RBAC",
            f"--service-cluster-ip-range={','.join(SERVICES[family] for family in self.families)}",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            f"--service-account-key-file={self.authority.accounts.file}",
            f"--service-account-signing-key-file={self.authority.accounts.key}",
            f"--audit-policy-file={policy}",
            f"--audit-log-path={self.audit.file}",
            "--audit-log-maxsize=10000",
            # Servers of further APIs (APIService) are shown this certificate and told in headers who asks.
            f"--requestheader-client-ca-file={self.authority.certificate.file}",
            "--requestheader-allowed-names=front-proxy",
            "--requestheader-username-headers=X-Remote-User",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            f"--proxy-client-cert-file={front.file}",
            f"--proxy-client-key-file={front.key}",
            *self._apiserver_args,
        ]

    def _run(self, name: str, *arguments: str) -> None:
        self._commands[name] = arguments
        self.start_program(name)

    def start_program(self, name: str) -> None:
        log = self.folder / f"{name}.log"
        self._children[name] = spawn(self.programs / name, *self._commands[name], log=log)

    def kill_program(self, name: str) -> None:
        """Ends one of the programs as a crash would: `start_program` brings it back with what it had stored."""
        child = self._children.pop(name)
        child.kill()
        child.wait()

    def wait_ready(self) -> None:
        self.until(lambda: self.api.exists("/readyz"), 60, "the API server is ready")

    def until(self, condition: Callable[[], object], seconds: float, what: str, *, longest_pause: float = 0.1) -> None:
        """Waits for a condition, which is not met while the API server refuses its requests or does not answer."""

        def all_run() -> None:
            for name, child in self._children.items():
                if child.poll() is not None:
                    log = tail(self.folder / f"{name}.log")
                    raise ClusterError(f"{name} ended with {child.returncode} before: {what}\n{log}")

        refusals = (Refused, httpx.TransportError)
        try:
            waiting.until(condition, seconds, what, unless=all_run, despite=refusals, longest_pause=longest_pause)
        except waiting.TooLate as late:
            raise ClusterError(str(late)) from None

    @cached_property
    def api(self) -> Client:
        return self.client_of("admin", [ADMINISTRATORS])

    def client_of(self, user: str, groups: Sequence[str] = (), server: str | None = None) -> Client:
        certificate = self.authority.issue(self._file(user), user, groups)
        return Client(server or self.url, self.authority.certificate.file, certificate)

    def server_tls(self, file: str, *hosts: str) -> ssl.SSLContext:
        """For a server that this cluster's clients trust."""
        certificate = self.authority.issue(file, file, hosts=hosts)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate.file, certificate.key)
        return context

    def kubeconfig_of(self, user: str, groups: Sequence[str] = (), server: str | None = None) -> Path:
        """A kubeconfig that says by certificate who one is. What a user may do, `access.allow` says."""
        file = self._file(user)
        certificate = self.authority.issue(file, user, groups)
        login = {"client-certificate": str(certificate.file), "client-key": str(certificate.key)}
        return self._kubeconfig(file, user, login, server)

    def kubeconfig_of_account(self, namespace: str, account: str) -> Path:
        """A kubeconfig by which a process is what a pod with this ServiceAccount would be."""
        token = self.kubectl("--namespace", namespace, "create", "token", account).strip()
        return self._kubeconfig(self._file(account), account, {"token": token})

    def _kubeconfig(self, file: str, user: str, login: Mapping[str, str], server: str | None = None) -> Path:
        cluster = {"server": server or self.url, "certificate-authority": str(self.authority.certificate.file)}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": user, "user": dict(login)}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": user}}],
            "current-context": "test",
        }
        path = self.folder / f"{file}.kubeconfig"
        path.touch(mode=0o600)
        path.write_text(yaml.safe_dump(document))
        return path

    def _file(self, user: str) -> str:
        return f"{next(self._logins)}-" + "".join(c if c.isalnum() else "-" for c in user)

    def kubectl(self, *arguments: str | Path, stdin: str | None = None, kubeconfig: Path | None = None) -> str:
        """Runs kubectl, as the administrator unless a kubeconfig is given; returns what it printed."""
        return self._tool(self.programs / "kubectl", *arguments, stdin=stdin, kubeconfig=kubeconfig)

    @contextlib.contextmanager
    def kubectl_running(self, *arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], Callable[[], str]]]:
        """Runs kubectl beside the body, at whose end it is ended. Yields its process and what it has printed so far."""
        log = self.folder / f"kubectl-{next(self._logins)}.log"
        process = spawn(self.programs / "kubectl", *arguments, log=log, environment=self._tool_environment())
        try:
            yield process, lambda: tail(log)
        finally:
            process.kill()
            process.wait()

    def helm(self, *arguments: str | Path, kubeconfig: Path | None = None, major: int = 4) -> str:
        return self._tool(programs.helm(major), *arguments, kubeconfig=kubeconfig)

    def _tool(
        self, program: Path, *arguments: str | Path, stdin: str | None = None, kubeconfig: Path | None = None
    ) -> str:
        command = list(map(str, (program, *arguments)))
        environment = self._tool_environment(kubeconfig)
        done = subprocess.run(command, check=False, input=stdin, capture_output=True, text=True, env=environment)
        if done.returncode:
            raise ClusterError(f"{program.name} {' '.join(command[1:])}: {done.stderr.strip()}\n{done.stdout.strip()}")
        return done.stdout

    def _tool_environment(self, kubeconfig: Path | None = None) -> dict[str, str]:
        home = self.folder / "home"  # where kubectl and helm keep caches and helm its settings
        return {"HOME": str(home), "PATH": "/usr/bin:/bin", "KUBECONFIG": str(kubeconfig or self.kubeconfig)}

    def apply(self, *objects: Mapping[str, Any]) -> None:
        documents = {"apiVersion": "v1", "kind": "List", "items": objects}
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=json.dumps(documents))

    def define(self, *files: Path) -> None:
        """Applies CustomResourceDefinitions (files, or folders of them) and returns when their objects can be made."""
        for file in files:
            self.kubectl("apply", "-f", file)
        for definition in self.api.items("/apis/apiextensions.k8s.io/v1/customresourcedefinitions"):
            spec = definition["spec"]
            for version in (version for version in spec["versions"] if version["served"]):
                path = f"/apis/{spec['group']}/{version['name']}/{spec['names']['plural']}"
                # At first there is no such path, then no storage behind it.
                self.until(lambda path=path: self.api.exists(path), 30, f"{path} is served")  # type: ignore[misc]
            kind = f"{spec['names']['plural']}.{spec['group']}"
            self.until(lambda kind=kind: self._knows(kind), 30, f"kubectl knows {kind}")  # type: ignore[misc]

    def _knows(self, kind: str) -> bool:
        _, _, group = kind.partition(".")
        return kind in self.kubectl("api-resources", f"--api-group={group}", "-o", "name").split()

    def add_node(self, name: str, **resources: int | str) -> None:
        """A fake node: `**{"rdma/hca": 8}` are resources besides those that every machine has."""
        offered = {"cpu": "64", "memory": "256Gi", "pods": "1000", "ephemeral-storage": "1Ti"}
        offered |= {key: str(value) for key, value in resources.items()}
        labels = {"type": "kwok", "kubernetes.io/hostname": name}
        # The next line's annotation makes KWOK take the node's status as it stands here.
        metadata = {"name": name, "labels": labels, "annotations": {"kwok.x-k8s.io/node": "fake"}}
        node = {"apiVersion": "v1", "kind": "Node", "metadata": metadata}
        self.api.post("/api/v1/nodes", {**node, "status": {"allocatable": offered, "capacity": offered}})

    def add_namespace(self, name: str, **labels: str) -> None:
        """Returns when pods may be made there."""
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
        self.api.post("/api/v1/namespaces", namespace)
        account = f"/api/v1/namespaces/{name}/serviceaccounts/default"
        self.until(lambda: self.api.exists(account), 30, f"namespace {name} has its service account")

    @contextlib.contextmanager
    def namespace(self, name: str) -> Iterator[str]:
        """A fresh one, deleted afterwards without waiting for it."""
        self.add_namespace(name)
        try:
            yield name
        finally:
            path = f"/api/v1/namespaces/{name}"
            if self.api.exists(path):
                self.api.delete(path)
