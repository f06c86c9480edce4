"""The ``raydog`` command. A sub-command's module is imported when it is used, so that ``--help`` is quick."""

from __future__ import annotations

from importlib import import_module

import click

from raydog import __version__

_COMMANDS = {
    "cluster": ("raydog.cli.cluster:cluster", "A builder's cluster from its saved state: show, shut down."),
    "demo": ("raydog.cli.demo:demo", "The main job, for real, on this machine: up, submit, grow, shrink, down."),
    "status": ("raydog.cli.status:status", "A cluster as YellowDog and Ray see it."),
    "tunnel": ("raydog.cli.tunnel:tunnel", "A cluster's client port, dashboard and metrics on this machine."),
    "emulator": ("raydog.cli.emulator:emulator", "A YellowDog on this machine: start, stop, status, logs, faults."),
}
"""Name to where the command is and its line in the help."""


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _, attribute = _COMMANDS[cmd_name][0].partition(":")
        command = getattr(import_module(module), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{_COMMANDS[cmd_name][0]} is not a click command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, _COMMANDS[name][1]) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


@click.group(cls=_LazyGroup)
@click.version_option(__version__, prog_name="raydog")
def main() -> None:
    """Elastic Ray clusters on the YellowDog Platform."""
