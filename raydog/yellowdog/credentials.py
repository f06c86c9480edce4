"""Where the platform is and who we are there: from the environment, or from a ``.env`` file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dotenv import dotenv_values, find_dotenv

from raydog.errors import CredentialsError

DEFAULT_API_URL = "https://api.yellowdog.ai"
VARIABLES = ("YD_API_URL", "YD_API_KEY_ID", "YD_API_KEY_SECRET")


@dataclass(frozen=True)
class Credentials:
    """The platform's address and an application key. The secret never shows in ``repr``."""

    api_url: str
    key_id: str
    key_secret: str = field(repr=False)

    def __post_init__(self) -> None:
        """Raises `CredentialsError` for a key that no request could carry: what refuses it later quotes the secret."""
        for what, value in (("id", self.key_id), ("secret", self.key_secret)):
            if not all("!" <= character <= "~" for character in value):
                raise CredentialsError(
                    f"the {what} of the YellowDog application key has a character that no key has: perhaps a space or "
                    "a line break from copying"
                )

    def as_environment(self) -> dict[str, str]:
        """The three ``YD_API_*`` variables."""
        return dict(zip(VARIABLES, (self.api_url, self.key_id, self.key_secret), strict=True))


def load_credentials(environ: Mapping[str, str] | None = None, directory: Path | None = None) -> Credentials:
    """Read ``YD_API_URL``, ``YD_API_KEY_ID``, ``YD_API_KEY_SECRET``.

    ``environ`` (the process's by default) wins over a ``.env`` file, which is searched from ``directory`` (the
    working directory by default) upwards, as yellowdog-ray does. Raises `CredentialsError` if the key is missing or
    the file cannot be read.
    """
    environ = os.environ if environ is None else environ
    values: dict[str, str] = {}
    if not all(environ.get(name) for name in VARIABLES):
        values = _from_dotenv(directory)
    values.update({name: environ[name] for name in VARIABLES if environ.get(name)})
    missing = [name for name in VARIABLES[1:] if not values.get(name)]
    if missing:
        raise CredentialsError(
            f"{' and '.join(missing)} not set: give the YellowDog application key in the environment or in a "
            '.env file, or start a local platform with: eval "$(raydog emulator start)"'
        )
    url = values.get("YD_API_URL", DEFAULT_API_URL).rstrip("/")
    if not url.startswith(("https://", "http://")):
        raise CredentialsError(f"YD_API_URL is {url!r}: it must start with https:// or http://")
    return Credentials(url, values["YD_API_KEY_ID"], values["YD_API_KEY_SECRET"])


def _from_dotenv(directory: Path | None) -> dict[str, str]:
    file: Path | None = None
    try:
        file = _find_dotenv(directory)
        return {} if file is None else {name: value for name, value in dotenv_values(file).items() if value}
    except OSError as error:
        raise CredentialsError(f"{file or '.env'} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CredentialsError(f"{file or '.env'} is no text in UTF-8") from error


def _find_dotenv(directory: Path | None) -> Path | None:
    if directory is None:
        found = find_dotenv(usecwd=True)
        return Path(found) if found else None
    for folder in (directory, *directory.parents):
        if (folder / ".env").is_file():
            return folder / ".env"
    return None
