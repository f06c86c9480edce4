"""Answers that refuse a call, in the shapes of the platform (contract, section 1.5)."""

from __future__ import annotations

from collections.abc import Sequence


class Problem(Exception):  # noqa: N818 - the wire calls it an error, HTTP a problem
    """A refusal: HTTP ``status`` and the application error body (``errorType``, ``message``, ``detail``)."""

    def __init__(self, status: int, error_type: str, message: str, detail: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.error_type = error_type
        self.message = message
        self.detail = list(detail)

    def body(self) -> dict[str, object]:
        """The JSON body. ``detail`` is never null: the SDK would not recognise the error."""
        return {"errorType": self.error_type, "message": self.message, "detail": self.detail}


def invalid(message: str, *detail: str) -> Problem:
    """The request is wrong, and stays wrong when repeated."""
    return Problem(400, "InvalidRequestException", message, detail)


def not_found(kind: str, key: str) -> Problem:
    """Nothing of that id or name. Not one of the SDK's four types: callers look for HTTP 404."""
    return Problem(404, "NotFoundException", f"{kind} {key} does not exist")


def bad_transition(message: str) -> Problem:
    """An illegal work requirement transition: HTTP 403, as the live platform answers."""
    return Problem(403, "InvalidWorkRequirementStatusException", message)


def not_implemented(operation: str, method: str, path: str) -> Problem:
    """The call exists on the platform but not here. Never a 5xx: the SDK would repeat it for a minute."""
    return invalid(
        f"The RayDog emulator does not implement {operation} ({method} {path}); "
        "it has the calls that RayDog needs (docs/emulator-contract.md)"
    )
