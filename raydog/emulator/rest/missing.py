"""Calls that the platform has and the emulator has not: each answers with an error that names it.

`docs/emulator-contract.md` lists them; a test compares. RayDog needs none of them.
"""

from __future__ import annotations

from raydog.emulator.rest.routes import Route

_POOLS, _CONFIGURED = "/workerPools", "/workerPools/configured"
_COMPUTE, _TEMPLATES = "/compute/requirements", "/compute/templates"
_IMAGES, _ACCOUNT = "/images", "/account"

MISSING: dict[str, tuple[tuple[str, str, str], ...]] = {
    "Node actions": (
        ("POST", _POOLS + "/{id}/actions", "add_node_actions"),
        ("GET", _POOLS + "/nodes/{id}/actions", "get_node_actions"),
    ),
    "Configured worker pools": (
        ("POST", _CONFIGURED, "add_configured_worker_pool"),
        ("GET", _CONFIGURED + "/{id}/token", "get_configured_worker_pool_token"),
        ("POST", _CONFIGURED + "/{id}/token/refresh", "refresh_configured_worker_pool_token"),
        ("POST", _CONFIGURED + "/{id}/token/regenerate", "regenerate_configured_worker_pool_token"),
    ),
    "Compute requirements without a worker pool": (
        ("POST", _COMPUTE, "add_compute_requirement"),
        ("PUT", _COMPUTE, "update_compute_requirement"),
        ("PUT", _COMPUTE + "/{id}/instances/deprovision", "deprovision_instances"),
        ("PUT", _COMPUTE + "/{id}/autoShutdown", "update_compute_requirement_auto_shutdown"),
        ("POST", _TEMPLATES + "/provision", "provision_compute_requirement_template"),
        ("PUT", _TEMPLATES + "/test", "test_compute_requirement_template"),
        ("GET", _TEMPLATES + "/provision/report/{id}", "get_best_compute_source_report"),
    ),
    "Changing templates (they are given at the start)": (
        ("POST", _TEMPLATES + "/requirements", "add_compute_requirement_template"),
        ("PUT", _TEMPLATES + "/requirements", "update_compute_requirement_template"),
        ("DELETE", _TEMPLATES + "/requirements/{id}", "delete_compute_requirement_template"),
        ("POST", _TEMPLATES + "/sources", "add_compute_source_template"),
        ("PUT", _TEMPLATES + "/sources", "update_compute_source_template"),
        ("DELETE", _TEMPLATES + "/sources/{id}", "delete_compute_source_template"),
        ("GET", "/compute/attributes/user", "get_user_attributes"),
    ),
    "Namespace policies": (
        ("GET", "/namespaces/{namespace}/policy", "get_namespace_policy"),
        ("PUT", "/namespaces/{namespace}/policy", "save_namespace_policy"),
        ("DELETE", "/namespaces/{namespace}/policy", "delete_namespace_policy"),
        ("GET", _POOLS + "/namespaces/{namespace}/autoscalingCapacity", "get_autoscaling_capacity"),
    ),
    "Images (there are none)": (
        ("POST", _IMAGES + "/families", "add_image_family"),
        ("PUT", _IMAGES + "/families", "update_image_family"),
        ("GET", _IMAGES + "/families/{id}", "get_image_family_by_id"),
        ("DELETE", _IMAGES + "/families/{id}", "delete_image_family"),
        ("POST", _IMAGES + "/families/{id}/groups", "add_image_group"),
        ("GET", _IMAGES + "/families/{id}/groups/latest", "get_latest_image_group_by_family_id"),
        ("PUT", _IMAGES + "/groups", "update_image_group"),
        ("GET", _IMAGES + "/groups/{id}", "get_image_group_by_id"),
        ("DELETE", _IMAGES + "/groups/{id}", "delete_image_group"),
        ("POST", _IMAGES + "/groups/{id}/images", "add_image"),
        ("PUT", _IMAGES + "/images", "update_image"),
        ("GET", _IMAGES + "/images/{id}", "get_image_by_id"),
        ("DELETE", _IMAGES + "/images/{id}", "delete_image"),
        ("GET", _IMAGES + "/namespaces/{namespace}/families/{name}", "get_image_family_by_name"),
        (
            "GET",
            _IMAGES + "/namespaces/{namespace}/families/{name}/groups/latest",
            "get_latest_image_group_by_family_name",
        ),
        ("GET", _IMAGES + "/namespaces/{namespace}/families/{name}/groups/{group}", "get_image_group_by_name"),
    ),
    "Allowances and keyrings (there are none)": (
        ("POST", "/allowances", "add_allowance"),
        ("GET", "/allowances/{id}", "get_allowance_by_id"),
        ("DELETE", "/allowances/{id}", "delete_allowance_by_id"),
        ("POST", "/allowances/{id}/boost/{hours}", "boost_allowance_by_id"),
        ("POST", "/keyrings", "create_keyring"),
        ("GET", "/keyrings/{id}", "get_keyring"),
        ("PUT", "/keyrings/{id}", "update_keyring"),
        ("DELETE", "/keyrings/{name}", "delete_keyring"),
        ("PUT", "/keyrings/{name}/access/applications/{id}", "grant_application_access_to_keyring"),
        ("PUT", "/keyrings/{name}/credentials", "put_credential"),
        ("DELETE", "/keyrings/{name}/credentials/{credential}", "delete_credential"),
    ),
    "Users, groups, roles, applications": (
        ("GET", _ACCOUNT + "/users", "search_users"),
        ("GET", _ACCOUNT + "/users/{id}", "get_user"),
        ("GET", _ACCOUNT + "/users/{id}/groups", "list_user_groups"),
        ("GET", _ACCOUNT + "/applications", "search_applications"),
        ("POST", _ACCOUNT + "/applications", "add_application"),
        ("GET", _ACCOUNT + "/applications/{id}", "get_application"),
        ("PUT", _ACCOUNT + "/applications/{id}", "update_application"),
        ("DELETE", _ACCOUNT + "/applications/{id}", "delete_application"),
        ("POST", _ACCOUNT + "/applications/{id}/key", "regenerate_application_api_key"),
        ("GET", _ACCOUNT + "/permissions", "list_permissions"),
        ("GET", _ACCOUNT + "/roles", "search_roles"),
        ("GET", _ACCOUNT + "/roles/{id}", "get_role"),
        ("GET", _ACCOUNT + "/roles/{id}/groups", "list_role_groups"),
        ("GET", _ACCOUNT + "/groups", "search_groups"),
        ("POST", _ACCOUNT + "/groups", "add_group"),
        ("GET", _ACCOUNT + "/groups/{id}", "get_group"),
        ("PUT", _ACCOUNT + "/groups/{id}", "update_group"),
        ("DELETE", _ACCOUNT + "/groups/{id}", "delete_group"),
        ("GET", _ACCOUNT + "/groups/{id}/{members}", "list_group_members"),
        ("PUT", _ACCOUNT + "/groups/{id}/{members}/{member}", "add_to_group"),
        ("DELETE", _ACCOUNT + "/groups/{id}/{members}/{member}", "remove_from_group"),
    ),
    "Cloud information": (("GET", "/cloudInfo/{kind}", "get_cloud_info"),),
}
"""What they are about, and method, path and the SDK method's name of each."""

ROUTES = tuple(Route(*call) for calls in MISSING.values() for call in calls)
