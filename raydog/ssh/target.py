"""Where to log in and as whom."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paramiko import PasswordRequiredException, PKey, SSHException
from paramiko.pkey import UnknownKeyType

from raydog.errors import CredentialsError


@dataclass(frozen=True)
class SshTarget:
    """An SSH server and the credentials for it. Secrets are not in its ``repr``.

    Without a ``private_key`` and a ``password`` the user's agent and the keys in ``~/.ssh`` are tried.
    ``proxy_command`` is a shell command whose standard input and output are the connection, as OpenSSH's
    ``ProxyCommand``: ``%h``, ``%p``, ``%r`` stand for host, port, user and ``%%`` for a percent sign.
    ``connect_timeout`` (seconds) is the limit of each step of one login: connection, banner, authentication.
    """

    host: str
    user: str
    private_key: Path | None = None
    port: int = 22
    proxy_command: str | None = None
    connect_timeout: float = 10.0
    private_key_password: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return f"{self.user}@{self.host}" + ("" if self.port == 22 else f":{self.port}")


def load_private_key(target: SshTarget) -> PKey | None:
    """The key in ``target.private_key`` (OpenSSH or PEM; RSA, ECDSA, Ed25519), or None if it names none.

    Raises `CredentialsError` with the remedy if the file is missing, unreadable, encrypted or no key.
    """
    path = target.private_key
    if path is None:
        return None
    # Bytes are what cryptography takes, whatever paramiko's annotation says.
    passphrase: Any = target.private_key_password.encode() if target.private_key_password else None
    wanted = f"SSH private key {path} for {target}"
    try:
        return _load(path, passphrase)
    except FileNotFoundError as error:
        raise CredentialsError(
            f"{wanted}: there is no such file. Set 'ssh_private_key' to the key that the nodes accept."
        ) from error
    except OSError as error:
        raise CredentialsError(
            f"{wanted} cannot be read: {error.strerror}. It must be a file that this user may read (chmod 600 {path})."
        ) from error
    except UnknownKeyType as error:
        raise CredentialsError(f"{wanted} is of a type that is not supported; use Ed25519 or RSA.") from error
    except (PasswordRequiredException, SSHException, ValueError, TypeError) as error:
        # cryptography tells "encrypted" by the text of its error; and a wrong passphrase looks like damage.
        encrypted = any(word in str(error) for word in ("encrypted", "password-protected")) or isinstance(
            error, PasswordRequiredException
        )
        if encrypted or (passphrase and "PRIVATE KEY-----" in _first_line(path)):
            raise CredentialsError(
                f"{wanted} is encrypted"
                + (", and the passphrase given does not open it." if passphrase else ".")
                + f" Use a key without a passphrase (ssh-keygen -p -N '' -f {path})."
            ) from error
        raise CredentialsError(
            f"{wanted} is not a private key ({error or type(error).__name__}). Name the private file, "
            f"not the one that ends in .pub."
        ) from error


def _load(path: Path, passphrase: Any) -> PKey:
    try:
        return PKey.from_path(path, passphrase)
    except TypeError:
        if not passphrase:
            raise
    return PKey.from_path(path)  # it takes amiss a passphrase that is not needed


def _first_line(path: Path) -> str:
    with path.open(errors="replace") as file:
        return file.readline()
