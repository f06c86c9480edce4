"""`SSHTunnelSpec` and `RayTunnels` as existing programs use them, and the clear names beside the old ones."""

from __future__ import annotations

import importlib
import inspect

import pytest

from raydog.errors import ConfigError
from raydog.tunnels import RayTunnels, SSHTunnelSpec


def test_spec_takes_what_older_programs_give() -> None:
    spec = SSHTunnelSpec("localhost", 13000, "10.0.0.5", 3000)
    assert (spec.local_host, spec.local_port, spec.remote_host, spec.remote_port) == (
        "localhost", 13000, "10.0.0.5", 3000,
    )  # fmt: skip
    assert spec == SSHTunnelSpec(
        local_bind_hostname="localhost",
        local_bind_ip_address=13000,
        remote_bind_hostname="10.0.0.5",
        remote_bind_ip_address=3000,
    )
    spec.local_bind_ip_address = 13001
    assert spec == SSHTunnelSpec.of(local_port=13001, remote_host="10.0.0.5", remote_port=3000)


def test_tunnels_have_the_older_programs_arguments_in_order() -> None:
    positional = [
        (name, parameter.default)
        for name, parameter in inspect.signature(RayTunnels).parameters.items()
        if parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    ]
    assert positional == [
        ("ray_head_ip_address", inspect.Parameter.empty),
        ("ssh_user", inspect.Parameter.empty),
        ("password", None),
        ("private_key_file", None),
        ("private_key_password", None),
        ("ray_tunnel_specs", None),
    ]
    assert str(inspect.signature(RayTunnels.stop_tunnels)) == "(self, ignore_errors: 'bool' = True) -> 'None'"


def test_default_tunnels_are_the_clients_and_the_dashboards() -> None:
    assert RayTunnels("10.0.0.1", "yd-agent").specs == [
        SSHTunnelSpec("localhost", 10001, "localhost", 10001),
        SSHTunnelSpec("localhost", 8265, "localhost", 8265),
    ]
    assert RayTunnels.basic_port_forward(8265) == SSHTunnelSpec("localhost", 8265, "localhost", 8265)
    assert RayTunnels.observability("10.0.0.5") == [
        SSHTunnelSpec("localhost", 3000, "10.0.0.5", 3000),
        SSHTunnelSpec("localhost", 9090, "10.0.0.5", 9090),
    ]


def test_old_import_path_gives_the_same_objects() -> None:
    old = importlib.import_module("yellowdog_ray.utils.ray_ssh_tunnels")
    assert old.RayTunnels is RayTunnels
    assert old.SSHTunnelSpec is SSHTunnelSpec


def test_all_faults_of_specs_are_reported_together() -> None:
    specs = [
        SSHTunnelSpec("localhost", "127.0.0.1", "localhost", 8265),  # type: ignore[arg-type]
        SSHTunnelSpec("localhost", 1, "", 70000),
        SSHTunnelSpec.of(remote_port=8265),
        SSHTunnelSpec.of(remote_port=8266, local_port=8265),
    ]
    with pytest.raises(ConfigError) as raised:
        RayTunnels("10.0.0.1", "me", ray_tunnel_specs=specs)
    assert [fault.partition(":")[0] for fault in raised.value.faults] == [
        "ray_tunnel_specs[0].local_bind_ip_address",
        "ray_tunnel_specs[1].remote_bind_ip_address",
        "ray_tunnel_specs[1].remote_bind_hostname",
        "ray_tunnel_specs[3]",
    ]
    assert "takes a port number" in raised.value.faults[0]


def test_specs_are_not_the_callers_own_objects() -> None:
    spec = SSHTunnelSpec.of(remote_port=8265)
    tunnels = RayTunnels("10.0.0.1", "me", ray_tunnel_specs=[spec])
    spec.local_bind_ip_address = 1
    tunnels.specs[0].local_bind_ip_address = 2
    assert tunnels.specs[0].local_port == 8265


def test_secrets_are_in_no_text() -> None:
    tunnels = RayTunnels("10.0.0.1", "me", password="hidden-one", private_key_password="hidden-two")
    assert "hidden" not in repr(vars(tunnels))


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("8265", SSHTunnelSpec("localhost", 8265, "localhost", 8265)),
        ("18265:8265", SSHTunnelSpec("localhost", 18265, "localhost", 8265)),
        ("0:node-7:80", SSHTunnelSpec("localhost", 0, "node-7", 80)),
        ("3000:[fd00::5]:3000", SSHTunnelSpec("localhost", 3000, "fd00::5", 3000)),
    ],
)
def test_spec_from_text(text: str, spec: SSHTunnelSpec) -> None:
    assert SSHTunnelSpec.parse(text) == spec


@pytest.mark.parametrize("text", ["", "x", "1:", ":1", "1::2", "1:host:", "1:2:x", "70000", "1:0", "1:fd00::5:2", "٣"])
def test_text_that_is_no_spec_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        SSHTunnelSpec.parse(text)


@pytest.mark.parametrize(("host", "shown"), [("", "localhost"), ("::1", "[::1]"), ("127.0.0.2", "127.0.0.2")])
def test_host_as_it_stands_in_an_url(host: str, shown: str) -> None:
    assert SSHTunnelSpec.of(remote_port=1, local_host=host).url_host == shown
