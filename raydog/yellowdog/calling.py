"""Whatever a call to the platform raises, as one of our errors that names the call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar
from urllib.parse import urlsplit

import requests
from yellowdog_client.model.exceptions import (
    BaseCustomException,
    InternalServerException,
    NotAuthorisedException,
)

from raydog.errors import (
    CredentialsError,
    DuplicateError,
    NotFoundError,
    PlatformError,
    PlatformUnavailableError,
    RayDogError,
)

T = TypeVar("T")
REFUSALS = (requests.HTTPError, BaseCustomException)
"""What the SDK raises when the platform answers with an error: which one depends on the answer (contract, 1.5)."""


def is_duplicate(error: BaseException) -> bool:
    """Whether the platform refused an add because the name is taken (contract, 3.8)."""
    text = str(error).lower()
    return "already exists" in text or "must be unique" in text


def is_unknown(error: BaseException) -> bool:
    """Whether the platform does not know the thing asked for."""
    return isinstance(error, requests.HTTPError) and error.response is not None and error.response.status_code == 404


def even_if_late(add: Callable[[], T]) -> T:
    """Make a call that adds something, and once more if its answer did not come in time: the SDK leaves that to us.

    What is added has a name of its own, so a second copy of what was done after all is refused as a duplicate.
    """
    try:
        return add()
    except requests.ReadTimeout:
        return add()


def unless_over(call: Callable[[], object], is_over: Callable[[], bool]) -> None:
    """Make a call that ends something; that it is over already, or unknown, is success.

    How the platform refuses to end what is over is not documented, so its state decides and not the refusal.
    """
    try:
        call()
    except REFUSALS as refusal:
        if is_unknown(refusal):
            return
        try:
            over = is_over()
        except REFUSALS as error:
            over = is_unknown(error)
        if not over:
            raise


@contextmanager
def calling(what: str) -> Iterator[None]:
    """Turn whatever the SDK raises into one of our errors, naming the call."""
    try:
        yield
    except RayDogError:
        raise
    except requests.HTTPError as error:
        raise _from_status(what, error) from error
    except requests.RequestException as error:
        raise PlatformUnavailableError(
            f"YellowDog did not answer ({what}): {_why(error)}. Is YD_API_URL right, and the network up?"
        ) from error
    except NotAuthorisedException as error:
        raise CredentialsError(f"YellowDog refused the application key ({what}): {error}") from error
    except InternalServerException as error:
        raise PlatformUnavailableError(f"YellowDog failed ({what}): {error}", 500) from error
    except BaseCustomException as error:
        if is_duplicate(error):
            raise DuplicateError(f"YellowDog has one of that name already ({what}): {error}", 400) from error
        raise PlatformError(f"YellowDog refused to {what}: {error}", 400) from error
    except Exception as error:  # for an answer that is not as documented the SDK raises anything at all
        reason = f"{type(error).__name__} {_brief(error)}".rstrip()
        raise PlatformError(f"YellowDog's answer could not be read ({what}): {reason}") from error


def _from_status(what: str, error: requests.HTTPError) -> Exception:
    status = error.response.status_code if error.response is not None else None
    if status == 401:
        return CredentialsError(
            f"YellowDog does not know this application key ({what}): check YD_API_KEY_ID, YD_API_KEY_SECRET and "
            "that YD_API_URL is the platform they belong to"
        )
    if status == 403:
        return PlatformError(f"the application key may not {what}: {_brief(error)}", status)
    if status == 404:
        return NotFoundError(f"YellowDog does not know it ({what})", status)
    if status is not None and (status == 429 or status >= 500):
        return PlatformUnavailableError(f"YellowDog answered {status} ({what})", status)
    return PlatformError(f"YellowDog refused to {what}: {_brief(error)}", status)


def _why(error: requests.RequestException) -> str:
    """The server and what happened, out of the layers that urllib3 and requests put around it."""
    request = error.request
    server = str(urlsplit(request.url or "").netloc) if request is not None else ""
    cause: object = error
    while isinstance(cause, BaseException):
        inner = getattr(cause, "reason", None) or next(
            (arg for arg in cause.args if isinstance(arg, BaseException)), None
        )
        if inner is None:
            break
        cause = inner
    text = cause.strerror if isinstance(cause, OSError) and cause.strerror else " ".join(str(cause).split())
    text = text.rpartition("] ")[2]  # "[Errno 111] Connection refused"
    return f"{server}: {text[:200]}" if server else text[:200]


def _brief(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
