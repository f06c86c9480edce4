"""``/compute/.../templates/``: what can be provisioned (contract, section 2.3). They come from the emulator's start."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from raydog.emulator import encode
from raydog.emulator.entities import Json
from raydog.emulator.problems import not_found
from raydog.emulator.rest.call import Call
from raydog.emulator.rest.routes import Route
from raydog.emulator.templates import Template

_SORTS: dict[str, Callable[[Template], Any]] = {
    "name": lambda one: one.short_name,
    "namespace": lambda one: one.namespace,
}


def _search(call: Call, summary: Callable[[Template], Json], types: dict[str, tuple[str, ...]]) -> Any:
    """``types``: a filter's names, and the key of the summary that it is about."""
    filters: list[Callable[[Template], bool]] = []
    namespaces, name = call.texts("namespace", "namespaces"), call.text("name")
    if namespaces:
        filters.append(lambda one: one.namespace in namespaces)
    if name is not None:
        filters.append(lambda one: name in one.short_name)
    for key, parameters in types.items():
        wanted = call.texts(*parameters)
        if wanted:
            filters.append(lambda one, key=key, wanted=wanted: summary(one)[key] in wanted)  # type: ignore[misc]
    items = call.platform.templates.all()
    if call.flag("sliced"):
        return call.page(items, filters, summary, _SORTS)
    return [summary(one) for one in items if all(keep(one) for keep in filters)]


def search_templates(call: Call) -> Any:
    return _search(call, encode.template_summary, {"type": ("type",), "strategyType": ("strategyType",)})


def search_sources(call: Call) -> Any:
    return _search(call, encode.source_template_summary, {"sourceType": ("sourceType", "sourceTypes")})


def _template(call: Call, wanted: Callable[[Template], bool], kind: str, key: str) -> Template:
    found = next((one for one in call.platform.templates.all() if wanted(one)), None)
    if found is None:
        raise not_found(kind, key)
    return found


def get_template(call: Call) -> Any:
    key = call.path["id"]
    return encode.template(_template(call, lambda one: one.id == key, "compute requirement template", key))


def get_template_by_name(call: Call) -> Any:
    key = f"{call.path['namespace']}/{call.path['name']}"
    return encode.template(_template(call, lambda one: one.name == key, "compute requirement template", key))


def get_source(call: Call) -> Any:
    key = call.path["id"]
    return encode.source_template(_template(call, lambda one: one.source_id == key, "compute source template", key))


def get_source_by_name(call: Call) -> Any:
    key = f"{call.path['namespace']}/{call.path['name']}"
    return encode.source_template(_template(call, lambda one: one.name == key, "compute source template", key))


_ALL = "/compute/templates"
_NAMED = "/compute/namespaces/{namespace}/templates"

ROUTES = (
    Route("GET", _ALL + "/requirements", "get_compute_requirement_templates", search_templates),
    Route("GET", _ALL + "/requirements/{id}", "get_compute_requirement_template", get_template),
    Route("GET", _NAMED + "/requirements/{name}", "get_compute_requirement_template_by_name", get_template_by_name),
    Route("GET", _ALL + "/sources", "get_compute_source_templates", search_sources),
    Route("GET", _ALL + "/sources/{id}", "get_compute_source_template", get_source),
    Route("GET", _NAMED + "/sources/{name}", "get_compute_source_template_by_name", get_source_by_name),
)
