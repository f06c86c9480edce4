"""The unmodified builder and proxy of PyPI's ``yellowdog-ray`` 2.0.0 on simulated instances."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raydog.emulator import Emulator
from tests.support.reference import PROXY, dialogue, require_reference

SIMULATED = """
    import json, os
    from datetime import timedelta
    import yellowdog_ray
    from yellowdog_ray.raydog import builder

    key = (os.environ["YD_API_KEY_ID"], os.environ["YD_API_KEY_SECRET"])
    cluster = builder.RayDogCluster(
        *key, "life", "tests", "local/head", "head", os.environ["YD_API_URL"], cluster_tag="tag",
        enable_observability=True, observability_node_compute_requirement_template_id="local/worker",
        observability_node_start_script="watch", cluster_lifetime=timedelta(hours=1),
    )
    cluster.add_worker_pool("local/worker", "worker", 2, "early")
    private, public = cluster.build(timedelta(minutes=1))
    assert cluster.head_node_private_ip == private and public and cluster.observability_node_private_ip
    step(yellowdog_ray.__version__ + " " + builder.__file__)

    late = cluster.add_worker_pool("local/worker", "worker", 3, "late")
    assert cluster.get_worker_pool_internal_name_by_id(late) == "late"
    step(late)

    cluster.remove_worker_pool_by_internal_name("early")
    step(cluster.worker_pool_internal_names)

    cluster.save_state_to_json_file("state.json")
    step("saved")
    if os.environ.get("END") == "shut_down":
        cluster.shut_down()
        cluster.shut_down()
        step("shut down")
"""


def pools(emulator: Emulator) -> list[str]:
    """The pool of each live simulated instance, without the cluster's name."""
    return sorted(one["workerPool"].removeprefix("life-") for one in emulator.status()["instances"])


EARLY = ["00-head", "01-wrkrs", "01-wrkrs", "observability"]
LATE = ["00-head", "02-wrkrs", "02-wrkrs", "02-wrkrs", "observability"]


@pytest.mark.parametrize("end", ["shut_down", "proxy"])
def test_reference_builder_lives_on_simulated_instances(tmp_path: Path, end: str) -> None:
    reference = require_reference()
    with Emulator() as emulator:
        environment = {**emulator.environment, "END": end}
        with dialogue(reference, tmp_path, SIMULATED, environment) as program:
            version, module = program.hear().split()
            assert (version, module.startswith(f"{reference}/")) == ("2.0.0", True)
            assert pools(emulator) == EARLY
            program.go_on()
            assert program.hear().startswith("ydid:wrkrpool:")
            assert pools(emulator) == sorted(EARLY + ["02-wrkrs"] * 3)
            program.go_on()
            assert program.hear() == "['late']"
            assert pools(emulator) == LATE
            program.go_on()
            program.hear()
            if end == "shut_down":
                program.go_on()
                program.hear()
            program.end()
        if end == "proxy":
            assert pools(emulator) == LATE  # the cluster goes on without the program that made it
            with dialogue(reference, tmp_path, PROXY, emulator.environment) as program:
                program.hear()
                program.end()
        status: dict[str, Any] = emulator.status()
        assert status["liveInstances"] == 0
        assert (status["unfinishedPools"], status["unfinishedWorkRequirements"], status["unfinishedTasks"]) == (0, 0, 0)
