"""``python -m raydog.observability node|head``: print a script, to be kept as a file."""

from __future__ import annotations

import sys

from raydog.observability import head_part, node_script

_SCRIPTS = {"node": node_script, "head": head_part}


def main(arguments: list[str]) -> int:
    """Print the script that is asked for; 2 for anything else."""
    if len(arguments) != 1 or arguments[0] not in _SCRIPTS:
        print("usage: python -m raydog.observability node|head", file=sys.stderr)
        return 2
    sys.stdout.write(_SCRIPTS[arguments[0]]())
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
