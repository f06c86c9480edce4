"""User data: the script that an instance runs as root when it boots, before its agent takes tasks."""

from __future__ import annotations

import re
import shlex

_SHELLS = re.compile(r"#!\s*(/usr)?/bin/(env\s+(-S\s+)?)?(bash|sh|dash)\b")

EMPTY_SCRIPT = "#!/bin/bash\n"
"""User data that does nothing."""

_AUTHORIZE = """\
# RayDog: let the private key of the cluster's YAML log in (provider.authorize_ssh_key: false leaves this out).
raydog_authorize() {{
    entry=$(getent passwd {user}) || {{ echo "RayDog: no user" {user} "to authorise the SSH key for" >&2; return 0; }}
    home=$(echo "$entry" | cut -d: -f6)
    group=$(echo "$entry" | cut -d: -f4)
    mkdir -p "$home/.ssh"
    touch "$home/.ssh/authorized_keys"
    grep -qxF {key} "$home/.ssh/authorized_keys" || echo {key} >> "$home/.ssh/authorized_keys"
    chmod 700 "$home/.ssh"
    chmod 600 "$home/.ssh/authorized_keys"
    chown {user}:"$group" "$home/.ssh" "$home/.ssh/authorized_keys"
}}
"""


def combine(user_data: str | None, extra: str | None) -> str | None:
    """``userdata`` and ``extra_userdata`` in one text, a line break between them; None if there is neither."""
    parts = [part for part in (user_data, extra) if part]
    return "\n".join(parts) if parts else None


def authorize_key_script(user: str, public_key: str) -> str:
    """POSIX shell that defines ``raydog_authorize``, which lets ``public_key`` log in as ``user``.

    Calling it again changes nothing. It needs root, and says so and does nothing if there is no such user.
    """
    return _AUTHORIZE.format(user=shlex.quote(user), key=shlex.quote(public_key.strip()))


def can_authorize_key(user_data: str | None) -> bool:
    """Whether user data can be extended: it is a shell script (not cloud-init YAML, not Python), or there is none."""
    return user_data is None or _SHELLS.match(user_data) is not None


def with_authorized_key(user_data: str | None, user: str, public_key: str) -> str | None:
    """User data that also lets ``public_key`` log in as ``user``; other formats than shell come back as they are.

    So does None: a template's own user data, which may install the agent, would be replaced by whatever is sent.
    To have a key authorised where there is no user data at all, begin with `EMPTY_SCRIPT`.

    The key is authorised at the script's end, since the script may make the user, and also when it ends early:
    a node whose set-up failed is the one that people need to log in to.
    """
    if user_data is None or not can_authorize_key(user_data):
        return user_data
    script = authorize_key_script(user, public_key)
    shebang, _, rest = user_data.partition("\n")
    return f"{shebang}\n{script}trap raydog_authorize EXIT\n{rest.rstrip()}\nraydog_authorize\n"
