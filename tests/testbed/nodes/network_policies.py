"""Enforces NetworkPolicies on the pods of one node, with nftables: `network_policies.py KUBECONFIG`.

The CNI plugin that connects the pods enforces none. This runs in the node's network namespace and sees what is
forwarded to and from its pods, also between two of them (br_netfilter), and what they send to the node itself. What the
node sends them (a kubelet's probes) is always allowed, as everywhere.
"""

from __future__ import annotations

import http.client
import json
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import yaml

JSON = dict[str, Any]
_WATCH_SECONDS = 60
_RETRY_SECONDS = 0.5


def selects(selector: JSON | None, labels: Mapping[str, str]) -> bool:
    """Whether a label selector selects an object with these labels."""
    selector = selector or {}
    if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    for rule in selector.get("matchExpressions") or []:
        key, values = rule["key"], rule.get("values") or []
        holds = {
            "In": labels.get(key) in values,
            "NotIn": labels.get(key) not in values,
            "Exists": key in labels,
            "DoesNotExist": key not in labels,
        }
        if not holds[rule["operator"]]:
            return False
    return True


def family(address: str) -> str:
    """Of an address or a block of them, as nftables calls it."""
    return "ip6" if ":" in address else "ip"


class Ruleset:
    """nftables' rules for all pods."""

    def __init__(self, pods: Sequence[JSON], namespaces: Sequence[JSON]) -> None:
        self._pods = sorted(filter(_is_reached, pods), key=lambda pod: str(pod["status"]["podIP"]))
        self._namespaces = {item["metadata"]["name"]: _labels(item) for item in namespaces}

    def render(self, policies: Sequence[JSON]) -> str:
        jumps: dict[str, list[str]] = {"Egress": [], "Ingress": []}
        chains: list[str] = []
        for pod in self._pods:
            applied = [
                policy
                for policy in policies
                if policy["metadata"]["namespace"] == pod["metadata"]["namespace"]
                and selects(policy["spec"].get("podSelector"), _labels(pod))
            ]
            for kind, match in (("Egress", "saddr"), ("Ingress", "daddr")):
                isolating = [policy for policy in applied if kind in policy["spec"].get("policyTypes", [])]
                if isolating:
                    chain = f"{kind.lower()}_{pod['status']['podIP'].replace('.', '_').replace(':', '_')}"
                    jumps[kind] += [f"{family(each)} {match} {each} jump {chain}" for each in _addresses(pod)]
                    allowed = [line for policy in isolating for line in self._allowed(policy, kind, pod)]
                    body = "".join(f"    {line} return\n" for line in allowed)
                    chains.append(f"  chain {chain} {{\n{body}    drop\n  }}\n")
        return (
            "table inet network_policies {}\ndelete table inet network_policies\n"
            "table inet network_policies {\n"
            + "".join(chains)
            + _hooked("forward", [*jumps["Egress"], *jumps["Ingress"]])
            + _hooked("input", jumps["Egress"])
            + "}\n"
        )

    def _allowed(self, policy: JSON, kind: str, pod: JSON) -> Iterator[str]:
        """What a policy allows a pod, one match for each thing."""
        side, match = ("from", "saddr") if kind == "Ingress" else ("to", "daddr")
        for rule in policy["spec"].get(kind.lower()) or []:
            peers: list[tuple[str, JSON | None]] = [("", None)]  # no peers: all
            if rule.get(side):
                found = [peer for wanted in rule[side] for peer in self._peers(policy, wanted)]
                peers = [(where.format(match=match), whose) for where, whose in found]
            for where, whose in peers:
                for ports in _ports(rule.get("ports"), pod if kind == "Ingress" else whose):
                    yield f"{where} {ports}".strip()

    def _peers(self, policy: JSON, peer: JSON) -> Iterator[tuple[str, JSON | None]]:
        """A peer's addresses, and the pod that each is of."""
        if block := peer.get("ipBlock"):
            excepted, version = ", ".join(block.get("except") or []), family(block["cidr"])
            but = f" {version} {{match}} != {{{{ {excepted} }}}}" if excepted else ""
            yield f"{version} {{match}} {block['cidr']}{but}", None
            return
        for pod in self._pods:
            namespace = pod["metadata"]["namespace"]
            if "namespaceSelector" in peer:
                if not selects(peer["namespaceSelector"], self._namespaces.get(namespace, {})):
                    continue
            elif namespace != policy["metadata"]["namespace"]:
                continue
            if selects(peer.get("podSelector"), _labels(pod)):
                for address in _addresses(pod):
                    yield f"{family(address)} {{match}} {address}", pod


def _hooked(hook: str, jumps: Sequence[str]) -> str:
    return (
        f"  chain {hook} {{\n"
        f"    type filter hook {hook} priority 0; policy accept;\n"
        "    ct state established,related accept\n"
        # By which IPv6 finds who is on the link, as IPv4 does by packets that are none of its own.
        "    icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept\n"
        + "".join(f"    {jump}\n" for jump in jumps)
        + "  }\n"
    )


def _addresses(pod: JSON) -> list[str]:
    return [each["ip"] for each in pod["status"]["podIPs"]]


def _labels(item: JSON) -> dict[str, str]:
    return item["metadata"].get("labels") or {}


def _is_reached(pod: JSON) -> bool:
    """By an address that is its own and of no other pod after it."""
    running = pod["status"].get("phase") not in ("Succeeded", "Failed")
    return bool(running and pod["status"].get("podIP") and not pod["spec"].get("hostNetwork"))


def _ports(ports: Sequence[JSON] | None, pod: JSON | None) -> Iterator[str]:
    """Matches for a rule's ports; a name is one of the pod's ports."""
    if not ports:
        yield ""
    for item in ports or []:
        protocol, port = item.get("protocol", "TCP"), item.get("port")
        if isinstance(port, str):
            for container in pod["spec"]["containers"] if pod else []:
                for named in container.get("ports") or []:
                    if named.get("name") == port and named.get("protocol", "TCP") == protocol:
                        yield f"{protocol.lower()} dport {named['containerPort']}"
        elif port is None:
            yield f"{protocol.lower()} dport 0-65535"
        else:
            yield f"{protocol.lower()} dport {port}" + (f"-{item['endPort']}" if "endPort" in item else "")


class Feed(threading.Thread):
    """All objects of a kind, kept up to date by a watch."""

    def __init__(self, kubeconfig: str, path: str, changed: threading.Event) -> None:
        super().__init__(name=path, daemon=True)
        with open(kubeconfig, encoding="utf-8") as file:  # noqa: PTH123
            config = yaml.safe_load(file)
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        self._host = urlsplit(cluster["server"]).netloc
        self._tls = ssl.create_default_context(cafile=cluster["certificate-authority"])
        self._tls.load_cert_chain(user["client-certificate"], user["client-key"])
        self._path = path
        self._changed = changed
        self._items: dict[str, JSON] | None = None

    def items(self) -> list[JSON] | None:
        """None until they were listed."""
        items = self._items
        return None if items is None else list(items.copy().values())

    def run(self) -> None:
        while True:
            try:
                self._follow()
            except (OSError, ValueError, http.client.HTTPException) as error:
                print(f"{self._path}: {error}", file=sys.stderr, flush=True)  # noqa: T201
                time.sleep(_RETRY_SECONDS)

    def _follow(self) -> None:
        with self._get("") as answer:
            listed = json.load(answer)
        self._items = {item["metadata"]["uid"]: item for item in listed["items"] or []}
        self._changed.set()
        version = listed["metadata"]["resourceVersion"]
        with self._get(f"?watch=true&resourceVersion={version}&timeoutSeconds={_WATCH_SECONDS}") as events:
            for line in events:
                event = json.loads(line)
                item = event["object"]
                if event["type"] == "ERROR":
                    raise OSError(item.get("message"))
                if event["type"] == "DELETED":
                    self._items.pop(item["metadata"]["uid"], None)
                else:
                    self._items[item["metadata"]["uid"]] = item
                self._changed.set()

    def _get(self, query: str) -> http.client.HTTPResponse:
        connection = http.client.HTTPSConnection(self._host, context=self._tls, timeout=_WATCH_SECONDS + 10)
        connection.request("GET", self._path + query, headers={"Connection": "close"})
        answer = connection.getresponse()
        if answer.status != 200:
            raise OSError(f"{answer.status} {answer.read(500)!r}")
        return answer


def main(kubeconfig: str) -> None:
    changed = threading.Event()
    paths = ("/api/v1/pods", "/api/v1/namespaces", "/apis/networking.k8s.io/v1/networkpolicies")
    feeds = [Feed(kubeconfig, path, changed) for path in paths]
    for feed in feeds:
        feed.start()
    applied = ""
    while changed.wait():
        changed.clear()
        pods, namespaces, policies = (feed.items() for feed in feeds)
        if pods is None or namespaces is None or policies is None:
            continue
        wanted = Ruleset(pods, namespaces).render(policies)
        if wanted != applied:
            subprocess.run(["nft", "-f", "-"], input=wanted, text=True, check=True)
            applied = wanted


if __name__ == "__main__":
    main(*sys.argv[1:])
