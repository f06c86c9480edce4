"""Namespaces, the application, and what is empty here: allowances, keyrings, images (contract, section 2.4)."""

from __future__ import annotations

from typing import Any

from raydog.emulator.entities import Json
from raydog.emulator.ids import ACCOUNT, new_uuid, template_uuid, ydid
from raydog.emulator.problems import invalid, not_found
from raydog.emulator.requests import as_object
from raydog.emulator.rest.call import Call, PlainText
from raydog.emulator.rest.routes import Route
from raydog.emulator.wire import check_name


def application_details(call: Call) -> Any:
    return {
        "accountId": ydid("account", template_uuid("account")),
        "accountName": f"raydog-emulator-{ACCOUNT.lower()}",
        "id": ydid("app", template_uuid("application")),
        "name": "raydog-emulator",
        "allNamespacesReadable": True,
        "readableNamespaces": list(call.platform.state.namespaces),
        "features": ["PLATFORM"],
    }


def search_namespaces(call: Call) -> Any:
    part, deletable = call.text("namespaceContains"), call.flag("deletable")
    names = call.texts("namespace", "namespaces")
    state = call.platform.state
    used = {one.namespace for one in state.requirements.values()}
    used |= {one.namespace for one in state.pools.values()}

    def encode(item: tuple[str, str]) -> Json:
        return {"id": item[1], "namespace": item[0], "deletable": item[0] not in used}

    def wanted(item: tuple[str, str]) -> bool:
        name = item[0]
        return (
            (part is None or part in name)
            and (not names or name in names)
            and (deletable is None or (name not in used) is deletable)
        )

    return call.page(list(state.namespaces.items()), [wanted], encode, {"namespace": lambda item: item[0]})


def get_namespace(call: Call) -> Any:
    for name, namespace_id in call.platform.state.namespaces.items():
        if namespace_id == call.path["id"]:
            return {"id": namespace_id, "namespace": name}
    raise not_found("namespace", call.path["id"])


def create_namespace(call: Call) -> Any:
    name = check_name(as_object(call.body, "the namespace").get("namespace"), "namespace")
    if name in call.platform.state.namespaces:
        raise invalid(f"namespace {name} already exists")
    return PlainText(call.platform.state.namespace_id(name, lambda: ydid("namespace", new_uuid())))


def delete_namespace(call: Call) -> Any:
    namespaces = call.platform.state.namespaces
    for name, namespace_id in namespaces.items():
        if namespace_id == call.path["id"]:
            del namespaces[name]
            return {}
    raise not_found("namespace", call.path["id"])


def nothing(_call: Call) -> Any:
    """An empty slice: the emulator has none of these."""
    return {"items": [], "nextSliceId": None}


def nothing_exhausted(_call: Call) -> Any:
    return []


ROUTES = (
    Route("GET", "/application", "get_application_details", application_details),
    Route("GET", "/namespaces", "get_namespaces", search_namespaces),
    Route("GET", "/namespaces/{id}", "get_namespace", get_namespace),
    Route("POST", "/namespaces", "create_namespace", create_namespace),
    Route("DELETE", "/namespaces/{id}", "delete_namespace", delete_namespace),
    Route("GET", "/namespaces/policies", "get_namespace_policies", nothing),
    Route("GET", "/allowances", "get_allowances", nothing),
    Route("PUT", "/allowances/requirement", "check_compute_requirement_exhaustion", nothing_exhausted),
    Route("GET", "/keyrings", "get_keyrings", nothing),
    Route("GET", "/images/families", "get_image_families", nothing),
    Route("GET", "/account/applications/{id}/groups", "list_application_groups", nothing),
)
