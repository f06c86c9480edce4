"""One emulator with real instances for all tests that drive Ray; a cluster for each that leaves nothing."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.daemon import EmulatorDaemon
from tests.support.ray_cli import RayCluster
from tests.support.real import missing_for_real_instances

TEMPLATES = """
- {name: local/never, cpus: 2, ram_gb: 4, boots: false}
- {name: local/scarce, cpus: 2, ram_gb: 4, capacity: 0}
- {name: local/gone, cpus: 2, ram_gb: 4, capacity: 0}
"""
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatorDaemon]:
    """A YellowDog of this session's own, with real instances; it leaves nothing on the machine."""
    reason = missing_for_real_instances()
    if reason is not None:
        pytest.skip(reason)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell starts jobs in the background so, and programs inherit it; those under test are to hear Ctrl+C.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    daemon = EmulatorDaemon(tmp_path_factory.mktemp("yellowdog") / "emulator", TEMPLATES, "--package", "prometheus")
    try:
        yield daemon
    finally:
        daemon.stop()


@pytest.fixture
def make_cluster(platform: EmulatorDaemon, tmp_path: Path) -> Iterator[Callable[..., RayCluster]]:
    """Makes YAMLs of clusters. After the test nothing of any cluster is left; if something is, the test fails."""
    made: list[RayCluster] = []

    def make(*, v2: bool = True) -> RayCluster:
        number = next(_numbers)
        made.append(RayCluster(tmp_path / f"cluster-{number}", f"test-{number}", platform.environment, v2=v2))
        return made[-1]

    platform.nothing_left()
    try:
        yield make
    finally:
        platform.clear_faults()
        for cluster in made:
            cluster.close()
        left = platform.left()
        if left:  # so that other tests find a clean platform
            for cluster in made:
                cluster.start_ray("down", "-y").wait()
        assert left == {}, "the test left something"


@pytest.fixture
def cluster(make_cluster: Callable[..., RayCluster]) -> RayCluster:
    """A cluster's YAML, under autoscaler v2; nothing runs yet."""
    return make_cluster()
