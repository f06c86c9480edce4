"""Making a cluster with an observability node, against the platform; only the login to the head is the test's own."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from raydog.autoscaler import head
from raydog.autoscaler.config import ClusterConfig, NodeType, SshAuth
from raydog.autoscaler.head import HeadLauncher
from raydog.autoscaler.status import cluster_status
from raydog.emulator import Emulator
from raydog.errors import ProvisioningError, ProvisioningTimeoutError
from raydog.progress import Progress
from raydog.ssh import Completed, RemoteFile
from raydog.yellowdog import cluster as clusters
from raydog.yellowdog import teardown
from raydog.yellowdog.cluster import ClusterName
from raydog.yellowdog.credentials import Credentials
from raydog.yellowdog.gateway import Gateway

NAME = ClusterName("tests", "demo")
HEAD = NodeType("head", ("local/head",))
CONFIG = ClusterConfig(
    "demo",
    "tests",
    auth=SshAuth("yd-agent"),
    use_internal_ips=True,
    observability=NodeType("observability-node", ("local/worker",)),
    head_build_timeout=timedelta(seconds=20),
)


class Login:
    """A head's side of SSH: its task waits for what is brought."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def run(self, command: str, timeout: float) -> Completed:
        return Completed(0, "", "")

    def write_files(self, files: list[RemoteFile], timeout: float) -> None:
        self.files.update({file.path: file.data for file in files})


class Maker:
    """What ``ray up`` does to make a head."""

    def __init__(self, emulator: Emulator) -> None:
        self.emulator = emulator
        self.credentials = Credentials(emulator.url, emulator.key_id, emulator.key_secret)
        self.gateway = Gateway(self.credentials)
        self.login = Login()

    def launcher(self, config: ClusterConfig = CONFIG) -> HeadLauncher:
        return HeadLauncher(self.gateway, self.credentials, config, Progress(), lambda _cluster_id: None)

    def launch(self, config: ClusterConfig = CONFIG) -> head.Head:
        return self.launcher(config).launch(HEAD, {}, {})

    def pools(self) -> list[str]:
        """The live pools, by what follows the cluster's id in their names."""
        return sorted(pool.name[14:] for pool in clusters.find_pools(self.gateway, NAME) if pool.live)

    def end(self) -> None:
        begun = teardown.request_teardown(self.gateway, NAME)
        assert teardown.await_teardown(self.gateway, NAME, begun, 30) == []


@pytest.fixture
def maker(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[Maker]:
    emulator.template("local/worker", boot_seconds=0.3)
    made = Maker(emulator)
    monkeypatch.setattr(head, "wait_for_login", lambda *_arguments, **_more: made.login)
    for name, value in emulator.environment.items():
        monkeypatch.setenv(name, value)
    yield made
    made.end()
    made.gateway.close()


def test_head_is_told_where_it_is_and_submitted_without_waiting_for_it(maker: Maker) -> None:
    made = maker.launch()
    assert maker.pools() == ["head", "observability-node"]
    node = clusters.find_observability_node(maker.gateway, made.cluster)
    assert node is not None
    address = maker.gateway.node_address(node)
    assert address is not None
    assert (
        maker.login.files[".raydog/observability.env"] == f"export OBSERVABILITY_HOST={address.private_ip}\n".encode()
    )
    order = [call["operation"] for call in maker.emulator.calls()]
    assert order.count("add_tasks_to_task_group") == 2
    assert max(n for n, one in enumerate(order) if one == "add_tasks_to_task_group") < order.index(
        "provision_worker_pool"
    )


def test_a_cluster_without_one_gets_nothing_of_it(maker: Maker) -> None:
    made = maker.launch(dataclasses.replace(CONFIG, observability=None))
    assert maker.pools() == ["head"]
    assert ".raydog/observability.env" not in maker.login.files
    assert clusters.find_observability_node(maker.gateway, made.cluster) is None


def test_status_has_it_beside_rays_nodes(maker: Maker) -> None:
    made = maker.launch()
    status = cluster_status(CONFIG, ask_head=False)
    assert sorted(node.kind for node in status.nodes) == ["head", "observability"]
    node = next(node for node in status.nodes if node.kind == "observability")
    assert (node.status, node.node_type) == ("EXECUTING", "observability-node")
    assert node.private_ip is not None
    assert node.private_ip.encode() in maker.login.files[".raydog/observability.env"]
    assert node.node_id != made.node.name


def test_template_that_is_refused_is_named_as_its(maker: Maker) -> None:
    config = dataclasses.replace(CONFIG, observability=NodeType("observability-node", ("local/none-such",)))
    with pytest.raises(ProvisioningError, match=r"provider\.observability: .*none-such"):
        maker.launch(config)


def test_machine_that_does_not_come_is_named_within_the_heads_time(maker: Maker) -> None:
    maker.emulator.template("local/worker", capacity=0)
    config = dataclasses.replace(CONFIG, head_build_timeout=timedelta(seconds=2))
    with pytest.raises(ProvisioningTimeoutError, match=r"observability.* was not EXECUTING .*observability-node"):
        maker.launch(config)


def test_interrupted_ray_up_is_completed_by_the_next(maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(HeadLauncher, "_add_pools", interrupted)
        with pytest.raises(KeyboardInterrupt):
            maker.launch()
    assert maker.pools() == []
    monkeypatch.setattr(clusters, "HEADLESS_GRACE_SECONDS", 0.2)
    (cluster,) = clusters.find_clusters(maker.gateway, NAME)
    node = clusters.find_head(maker.gateway, cluster)
    assert node is not None
    maker.launcher().resume(cluster, node, HEAD)
    assert maker.pools() == ["head", "observability-node"]
    assert b"OBSERVABILITY_HOST=" in maker.login.files[".raydog/observability.env"]


def test_teardown_ends_it_with_the_rest_and_another_cluster_keeps_its_own(maker: Maker, tmp_path: Path) -> None:
    maker.launch()
    other = ClusterName("tests", "demo-2")
    HeadLauncher(
        maker.gateway,
        maker.credentials,
        dataclasses.replace(CONFIG, cluster_name="demo-2"),
        Progress(),
        lambda _cluster_id: None,
    ).launch(HEAD, {}, {})
    maker.end()
    assert maker.pools() == []
    assert len([pool for pool in clusters.find_pools(maker.gateway, other) if pool.live]) == 2
