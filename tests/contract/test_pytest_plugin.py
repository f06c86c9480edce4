"""The pytest plugin as another project uses it: in a pytest of its own, with no configuration of this one."""

from __future__ import annotations

import os

import pytest

from raydog.emulator.real.image import cache_folder
from tests.support.real import needs_real_instances

pytest_plugins = ["pytester"]

CACHE = str(cache_folder().parents[1])
PLUGIN = ("-p", "raydog.emulator.pytest_plugin", "-p", "no:cacheprovider")

USE = """
import os
import pytest
import requests
from yellowdog_client import PlatformClient
from yellowdog_client.model import (
    ApiKey, AutoShutdown, ComputeRequirementTemplateUsage, NodeWorkerTarget, ProvisionedWorkerPoolProperties,
    RunSpecification, ServicesSchema, Task, TaskGroup, WorkRequirement, WorkRequirementSearch,
)
from datetime import timedelta
from raydog.emulator.templates import Template

def make(client, template="local/worker"):
    idle = AutoShutdown(enabled=True, timeout=timedelta(minutes=10))
    client.worker_pool_client.provision_worker_pool(
        ComputeRequirementTemplateUsage(templateId=template, requirementNamespace="n", requirementName="pool",
                                        targetInstanceCount=1),
        ProvisionedWorkerPoolProperties(createNodeWorkers=NodeWorkerTarget.per_node(1), minNodes=0, maxNodes=9,
                                        workerTag="tag", idleNodeShutdown=idle, idlePoolShutdown=idle))
    work = client.work_client.add_work_requirement(WorkRequirement(namespace="n", name="work", taskGroups=[
        TaskGroup(name="g", runSpecification=RunSpecification(taskTypes=["bash"], workerTags=["tag"]))]))
    (task,) = client.work_client.add_tasks_to_task_group_by_id(work.taskGroups[0].id, [
        Task(name="t", taskType="bash", taskData="echo hello", arguments=["taskdata.txt"])])
    return task

def names(client):
    return [one.name for one in client.work_client.find_all_work_requirements()]
"""

SIMULATED = (
    USE
    + """
def test_program_finds_it_through_the_environment(yellowdog):
    assert [os.environ[name] for name in ("YD_API_URL", "YD_API_KEY_ID", "YD_API_KEY_SECRET")] == [
        yellowdog.url, yellowdog.key_id, yellowdog.key_secret]
    assert "YD_URL" not in os.environ and "YD_SECRET" not in os.environ
    own = PlatformClient.create(ServicesSchema(defaultUrl=os.environ["YD_API_URL"]),
                                ApiKey(os.environ["YD_API_KEY_ID"], os.environ["YD_API_KEY_SECRET"]))
    task = make(own)
    assert str(own.work_client.get_task_by_id(task.id).status) == "EXECUTING"
    assert names(yellowdog.client) == ["work"]
    own.close()

def test_another_test_has_another_one(yellowdog):
    assert names(yellowdog.client) == []
    assert [call["operation"] for call in yellowdog.calls()] == ["get_work_requirements"]

@pytest.mark.yellowdog(virtual_clock=True, idle_grace=0, templates=[Template("cloud/gpu", gpus=4, boot_seconds=30)])
def test_time_is_the_tests_own(yellowdog):
    task = make(yellowdog.client, "cloud/gpu")
    assert str(yellowdog.client.work_client.get_task_by_id(task.id).status) == "READY"
    yellowdog.advance(30)
    assert str(yellowdog.client.work_client.get_task_by_id(task.id).status) == "EXECUTING"
    yellowdog.client.work_client.cancel_task_by_id(task.id, True)
    yellowdog.advance(601)
    assert yellowdog.status()["liveInstances"] == 0

def test_faults_and_preemption(yellowdog):
    task = make(yellowdog.client)
    yellowdog.fault("get_task_by_id", "status", status=503, times=2)
    assert str(yellowdog.client.work_client.get_task_by_id(task.id).status) == "EXECUTING"  # the SDK tries again
    assert len(yellowdog.calls("get_task_by_id")) == 3
    (instance,) = yellowdog.status()["instances"]
    yellowdog.preempt(instance["id"])
    assert str(yellowdog.client.work_client.get_task_by_id(task.id).status) == "FAILED"

@pytest.mark.yellowdog(colour="red")
def test_wrong_setting(yellowdog):
    pass

def test_last():
    assert os.environ["YD_URL"] == "https://real.example" and "YD_API_KEY_SECRET" not in os.environ
"""
)

REAL = (
    USE
    + """
import time

def test_task_runs(yellowdog):
    task = make(yellowdog.client)
    deadline = time.monotonic() + 60
    while (status := str(yellowdog.client.work_client.get_task_by_id(task.id).status)) != "COMPLETED":
        assert time.monotonic() < deadline, status
        time.sleep(0.1)
    assert yellowdog.task_output(task.id) == "hello\\n"
"""
)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's shell with a real account in it, and a proxy."""
    for name in [name for name in os.environ if name.startswith("YD_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("YD_URL", "https://real.example")
    monkeypatch.setenv("YD_SECRET", "real")
    monkeypatch.setenv("XDG_CACHE_HOME", CACHE)  # pytester changes HOME; the image of real instances is there already
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "intranet.example")
    monkeypatch.delenv("no_proxy", raising=False)


def test_every_test_gets_a_simulated_yellowdog_of_its_own(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(SIMULATED)
    result = pytester.runpytest_subprocess(*PLUGIN, "--strict-markers", "-W", "error")
    result.assert_outcomes(passed=5, errors=1)
    result.stdout.fnmatch_lines(["*@pytest.mark.yellowdog has colour; it is yellowdog(instances*"])


def test_plugin_lists_its_option_and_is_not_there_unasked(pytester: pytest.Pytester) -> None:
    with_it = pytester.runpytest_subprocess(*PLUGIN, "--help")
    without = pytester.runpytest_subprocess("--help")
    assert "--yellowdog-instances={simulated,real}" in with_it.stdout.str()
    assert "--yellowdog-instances" not in without.stdout.str()


@needs_real_instances
def test_option_runs_the_same_tests_on_real_instances(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(REAL)
    pytester.runpytest_subprocess(*PLUGIN, "--yellowdog-instances=real").assert_outcomes(passed=1)


def test_real_instances_that_cannot_be_are_said_and_not_left_out(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("import raydog.emulator.real.host as host; host.platform.machine = lambda: 'pdp11'")
    pytester.makepyfile(
        """
        import pytest

        def test_asked_for_on_the_command_line(yellowdog): ...

        @pytest.mark.yellowdog(instances="real")
        def test_that_needs_them(yellowdog): ...
        """
    )
    result = pytester.runpytest_subprocess(*PLUGIN, "--yellowdog-instances=real", "-rs")
    result.assert_outcomes(errors=1, skipped=1)
    result.stdout.fnmatch_lines(["*real instances cannot run on this machine: *pdp11*"])
