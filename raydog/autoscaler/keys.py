"""The SSH private key that a YAML names: whether ssh would use it, and its public half."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class PrivateKey:
    """What could be learnt about a key without logging in anywhere.

    ``fault`` says why it cannot be used. ``public_key`` is one line for ``authorized_keys`` without a comment,
    or None where it cannot be known. ``encrypted`` keys need a passphrase.
    """

    fault: str | None = None
    public_key: str | None = None
    encrypted: bool = False


def inspect_private_key(path: Path) -> PrivateKey:
    """Look at a private key file that exists. Raises nothing; the key itself goes nowhere."""
    if path.is_dir():
        return PrivateKey(f"'{path}' is a folder, not a private key")
    try:
        data = path.read_bytes()
        status = path.stat()
    except OSError as error:
        return PrivateKey(f"'{path}' cannot be read ({error.strerror})")
    if path.suffix == ".pub" or data.startswith((b"ssh-", b"ecdsa-", b"sk-")):
        return PrivateKey(f"'{path}' is a public key; name the private one")
    if b"PRIVATE KEY" not in data:
        return PrivateKey(f"'{path}' is not an SSH private key")
    if _readable_by_others(status):
        mode = stat.S_IMODE(status.st_mode)
        return PrivateKey(f"'{path}' has mode {mode:04o}, so ssh refuses to use it; run: chmod 600 {path}")
    import paramiko  # noqa: PLC0415 - a head reads its configuration too, and has no SSH client installed

    try:
        key = paramiko.PKey.from_path(path)
    except (paramiko.PasswordRequiredException, TypeError):  # the latter is cryptography's word for it
        return PrivateKey(public_key=_public_file(path), encrypted=True)
    except (paramiko.SSHException, ValueError, IndexError, OSError):
        # A kind that paramiko does not know may still be one that ssh does: the `.pub` file can help.
        return PrivateKey(public_key=_public_file(path))
    return PrivateKey(public_key=f"{key.get_name()} {key.get_base64()}")


def _readable_by_others(status: os.stat_result) -> bool:
    """OpenSSH's own rule (``sshkey_perm_ok`` in its authfile.c): only the owner's own keys are looked at."""
    return hasattr(os, "getuid") and status.st_uid == os.getuid() and bool(status.st_mode & 0o077)


def _public_file(path: Path) -> str | None:
    try:
        words = path.with_name(f"{path.name}.pub").read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError):
        return None
    return " ".join(words[:2]) if len(words) >= 2 and words[0].startswith(("ssh-", "ecdsa-", "sk-")) else None
