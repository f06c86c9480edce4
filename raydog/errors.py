"""Every error that RayDog raises on purpose.

::

    RayDogError (click.ClickException: one clean line under Ray's and our command line, exit status 1)
    ├── ConfigError (ValueError)            a YAML, an argument or a file is wrong
    │   └── MissingFileError (FileNotFoundError)
    ├── CredentialsError                    no or refused YellowDog or SSH credentials
    ├── PlatformError                       the platform refused a call or did not answer
    │   ├── NotFoundError                   the platform does not know the thing asked for
    │   ├── DuplicateError                  the name is taken
    │   └── PlatformUnavailableError        no answer, 429 or 5xx: worth trying again
    ├── ProvisioningError(category)         a node or cluster could not be made
    │   └── ProvisioningTimeoutError (TimeoutError)
    ├── TeardownError                       something is left that costs money
    └── StateError                          an operation does not fit the state the thing is in

A message says what was wanted, what was seen last, and what to do.
"""

from __future__ import annotations

from collections.abc import Sequence

import click


class RayDogError(click.ClickException):
    """Base of all. Under a click command it prints as ``Error: <message>`` and exits with 1."""

    _more = ""

    def also(self, text: str) -> None:
        """Say something behind the message, such as what could not be cleaned up after this error."""
        self._more += f"\n{text}"

    def format_message(self) -> str:
        return f"{self.message}{self._more}"

    def __str__(self) -> str:
        return self.format_message()


class ConfigError(RayDogError, ValueError):
    """One or more faults in a YAML, argument or file, reported together.

    ``faults`` holds each as ``path: what is wrong and what to write instead``.
    """

    def __init__(self, message: str, faults: Sequence[str] = ()) -> None:
        self.faults = tuple(faults)
        super().__init__(message)


class MissingFileError(ConfigError, FileNotFoundError):
    """A file that was named does not exist or cannot be read."""


class CredentialsError(RayDogError):
    """YellowDog or SSH credentials are missing or refused."""


class PlatformError(RayDogError):
    """The platform refused a call. ``status`` is the HTTP status, where there was one."""

    def __init__(self, message: str, status: int | None = None) -> None:
        self.status = status
        super().__init__(message)


class NotFoundError(PlatformError):
    """The platform does not know the thing asked for."""


class DuplicateError(PlatformError):
    """The name of a thing to be added is taken."""


class PlatformUnavailableError(PlatformError):
    """The platform did not answer, or answered 429 or 5xx. Trying again later may help."""


class ProvisioningError(RayDogError):
    """A node or cluster could not be made. ``category`` has at most 20 characters (Ray's limit)."""

    def __init__(self, message: str, category: str = "Provisioning") -> None:
        self.category = category[:20]
        super().__init__(message)


class ProvisioningTimeoutError(ProvisioningError, TimeoutError):
    """A node or cluster was not ready in time."""

    def __init__(self, message: str, category: str = "Timeout") -> None:
        super().__init__(message, category)


class TeardownError(RayDogError):
    """Something is left after a teardown. ``left`` names each thing."""

    def __init__(self, message: str, left: Sequence[str] = ()) -> None:
        self.left = tuple(left)
        super().__init__(message)


class StateError(RayDogError):
    """An operation does not fit the state the thing is in."""
