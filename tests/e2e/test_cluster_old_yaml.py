"""A YAML written for yellowdog-ray 2.0.0, with scripts that do everything themselves, works as it is."""

from __future__ import annotations

import pytest
import yaml

from tests.support.daemon import EmulatorDaemon
from tests.support.ray_cli import RayCluster

pytestmark = pytest.mark.e2e

OLD = """
cluster_name: {name}
max_workers: 2
upscaling_speed: 1.0
idle_timeout_minutes: 1.0
auth: &auth
  ssh_user: yd-agent
  ssh_private_key: {key}
provider:
  type: external
  module: yellowdog_ray.raydog.autoscaler.RayDogNodeProvider
  cluster_namespace: old-times
  cluster_tag: old-tag
  cluster_lifetime_hours: 0.5
  head_node_build_timeout_minutes: 4
  auth: *auth
  files_to_upload:
    - extra/data.txt
  head_start_ray_script: |
    #!/usr/bin/bash
    trap "ray stop; echo Ray stopped" EXIT
    set -euo pipefail
    source /opt/yellowdog/agent/venv/bin/activate
    redis-server --port 16667 --bind 127.0.0.1 --save "" > $HOME/tags.log &
    until [ -f $HOME/ray_bootstrap_key.pem ]; do sleep 0.5; done
    ray start --disable-usage-stats --head --port=6379 --num-cpus=0 --block \
      --autoscaling-config=/opt/yellowdog/agent/ray_bootstrap_config.yaml
  worker_start_ray_script: file:worker.sh
available_node_types:
  head.default:
    resources: {{}}
    min_workers: 0
    max_workers: 0
    node_config:
      compute_requirement_template: local/head
      metrics_enabled: false
      capture_taskoutput: true
      userdata: &userdata |
        #!/bin/bash
        mkdir -p /opt/yellowdog/agent/.ssh
        echo "{public}" >> /opt/yellowdog/agent/.ssh/authorized_keys
        chown -R yd-agent:yd-agent /opt/yellowdog/agent/.ssh
        chmod 700 /opt/yellowdog/agent/.ssh
        chmod 600 /opt/yellowdog/agent/.ssh/authorized_keys
  worker.default:
    resources: {{CPU: 1}}
    min_workers: 0
    max_workers: 2
    node_config:
      compute_requirement_template: local/worker
      userdata: *userdata
      extra_userdata: |
        touch /opt/yellowdog/agent/extra
head_node_type: head.default
head_start_ray_commands: []
worker_start_ray_commands: []
setup_commands: []
head_setup_commands: []
worker_setup_commands: []
initialization_commands: []
file_mounts: {{}}
"""
WORKER = """\
#!/usr/bin/bash
trap "ray stop; echo Ray stopped" EXIT
set -euo pipefail
source /opt/yellowdog/agent/venv/bin/activate
ray start --disable-usage-stats --address=$RAY_HEAD_IP:6379 --num-cpus=1 --block
"""


def test_old_yaml_works_as_it_is(cluster: RayCluster, platform: EmulatorDaemon) -> None:
    public = cluster.key.with_suffix(".pub").read_text().strip()
    text = OLD.format(name=cluster.name, key=cluster.key.name, public=public)
    cluster.document = yaml.safe_load(text)
    cluster.yaml.write_text(text)
    cluster.write_script("worker.sh", WORKER)
    (cluster.folder / "extra").mkdir()
    (cluster.folder / "extra" / "data.txt").write_text("uploaded")

    cluster.up()
    assert cluster.exec("cat ~/extra/data.txt") == "uploaded"
    assert cluster.runs_a_task()
    cluster.down()
    platform.nothing_left()
