"""Shutting a cluster down from its saved state, by another program than the one that has built it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from raydog.builder.arguments import credentials, short_name
from raydog.builder.reporting import Reporter
from raydog.builder.state import SavedState
from raydog.errors import StateError, TeardownError
from raydog.yellowdog import naming, teardown
from raydog.yellowdog.cluster import ClusterName
from raydog.yellowdog.credentials import DEFAULT_API_URL
from raydog.yellowdog.gateway import Gateway
from raydog.yellowdog.naming import Maker
from raydog.yellowdog.teardown import Teardown

TEARDOWN_SECONDS = 120.0


class RayDogClusterProxy:
    """A cluster of which only the saved state is known."""

    def __init__(
        self,
        yd_application_key_id: str,
        yd_application_key_secret: str,
        yd_platform_api_url: str = DEFAULT_API_URL,
        *,
        on_progress: Callable[[str], None] | None = None,
    ) -> None:
        """The application key must be able to end the cluster. ``on_progress`` gets each stage as a text; by default
        a terminal shows it. Raises `CredentialsError`, `ConfigError`."""
        self._gateway = Gateway(credentials(yd_application_key_id, yd_application_key_secret, yd_platform_api_url))
        self._report = Reporter(on_progress)
        self._state: SavedState | None = None
        self._is_shut_down = False

    @property
    def yd_client(self) -> Any:
        """The yellowdog-sdk `PlatformClient` that this proxy uses."""
        return self._gateway.client

    def load_saved_state_from_json(self, cluster_state: str) -> None:
        """Take over what `RayDogCluster.save_state_to_json` (or yellowdog-ray's) has returned. Raises `ConfigError`."""
        self._load(SavedState.from_json(cluster_state))

    def load_saved_state_from_json_file(self, file_name: str | Path) -> None:
        """As `load_saved_state_from_json`, from a file. Raises `ConfigError`, `MissingFileError`."""
        self._load(SavedState.from_file(file_name))

    def _load(self, state: SavedState) -> None:
        self._state, self._is_shut_down = state, False

    def shut_down(self) -> None:
        """Cancel the cluster's work requirement, end its worker pools at once, and wait until nothing is left.

        Pools of this cluster that were added after its state was saved are ended as well. Raises `StateError` if no
        state is loaded or this was done already; also, but only after everything that was still there has ended, if
        something in the state was gone already, with a list of it. Raises `TeardownError` if something is left;
        then try again.
        """
        state = self._state
        if state is None:
            raise StateError("there is no cluster state to shut down: load it with load_saved_state_from_json_file()")
        if self._is_shut_down:
            raise StateError(f"cluster {state.cluster_name} has been shut down already")
        try:
            gone = end_saved(self._gateway, state, self._report)
        finally:
            self._report.close()
            self._gateway.close()
        if len(gone) == len(state.worker_pool_ids) + 1 and all(text.endswith(teardown.UNKNOWN) for text in gone):
            raise StateError(
                f"the platform at {self._gateway.api_url} knows nothing of cluster {state.cluster_name}: is this the "
                "platform it was built on, and the key of the account it belongs to? " + "; ".join(gone)
            )
        self._is_shut_down = True
        if gone:
            raise StateError(
                f"nothing of cluster {state.cluster_name} is left, but its saved state was out of date: "
                + "; ".join(gone)
            )


def end_saved(gateway: Gateway, state: SavedState, report: Reporter) -> list[str]:
    """End everything of a saved cluster and wait for it; return, in words, what was gone already."""
    name = name_of(state)
    failure: TeardownError | None = None
    begun, gone = Teardown(), list[str]()
    try:
        begun, gone = teardown.request_teardown_by_ids(
            gateway, state.work_requirement_id, state.worker_pool_ids, report=report.unstoppable
        )
    except TeardownError as error:  # what is found by name is ended all the same
        failure = error
    if name is not None:
        more = teardown.request_teardown(gateway, name, cluster_id=state.cluster_id, report=report.unstoppable)
        begun = Teardown((*more.pools, *begun.pools), (*more.clusters, *begun.clusters))
    if failure is not None:
        raise failure
    going = teardown.await_teardown(
        gateway, name, begun, TEARDOWN_SECONDS, cluster_id=state.cluster_id, report=report.unstoppable
    )
    for text in going:
        report.done(f"still ending by itself: {text}")
    return gone


def name_of(state: SavedState) -> ClusterName | None:
    """Under which name its things are found; None if the state has no cluster id, so not a name of ours."""
    if state.cluster_id is None or not state.cluster_name or naming.check_name(state.cluster_namespace) is not None:
        return None
    short = short_name(state.cluster_name)
    if naming.check_cluster_name(short) is not None:
        return None
    return ClusterName(state.cluster_namespace, short, Maker.BUILDER)
