"""Options that several commands of ``raydog emulator`` share."""

from __future__ import annotations

from pathlib import Path

import click

from raydog.emulator.record import StateDir, default_state_dir

state_option = click.option(
    "--state-dir",
    "state",
    type=click.Path(file_okay=False, path_type=Path),
    callback=lambda _context, _parameter, value: StateDir(value.absolute() if value else default_state_dir()),
    help="Its folder (default: $RAYDOG_EMULATOR_DIR, or raydog/emulator in the user's state folder).",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
