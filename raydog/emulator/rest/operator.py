"""``/emulator/``: what the emulator has and the platform has not: state at a glance, faults, the record of calls."""

from __future__ import annotations

from typing import Any

from raydog.emulator.problems import not_found
from raydog.emulator.requests import as_number, as_object
from raydog.emulator.rest.call import Call
from raydog.emulator.rest.routes import Route


def status(call: Call) -> Any:
    return call.platform.status()


def task_output(call: Call) -> Any:
    output = call.platform.task_output(call.path["id"])
    if output is None:
        raise not_found("the output of task", call.path["id"])
    return {"taskId": call.path["id"], "output": output}


def preempt(call: Call) -> Any:
    body = as_object(call.body or {}, "the request")
    seconds = as_number(body.get("warningSeconds"), "warningSeconds", 0.0)
    call.platform.preempt(call.path["id"], seconds)
    return {}


def change_template(call: Call) -> Any:
    settings = as_object(call.body or {}, "the settings")
    name = f"{call.path['namespace']}/{call.path['name']}"
    call.platform.change_template(name, settings)
    return {}


def list_faults(call: Call) -> Any:
    return call.platform.faults.waiting()


def clear_faults(call: Call) -> Any:
    call.platform.faults.clear()
    return {}


ROUTES = (
    Route("GET", "/emulator/status", "emulator_status", status),
    Route("GET", "/emulator/tasks/{id}/output", "emulator_task_output", task_output),
    Route("POST", "/emulator/instances/{id}/preempt", "emulator_preempt", preempt),
    Route("PUT", "/emulator/templates/{namespace}/{name}", "emulator_change_template", change_template),
    Route("GET", "/emulator/faults", "emulator_faults", list_faults),
    Route("DELETE", "/emulator/faults", "emulator_clear_faults", clear_faults),
)
