"""What ``ray down`` runs on the head before it ends the cluster: nothing."""

from __future__ import annotations

from typing import Any

from ray.autoscaler.command_runner import CommandRunnerInterface


class NoCommands(CommandRunnerInterface):  # type: ignore[misc]
    """Takes the ``ray stop`` that ``ray down`` wants to run on the head first, and does not.

    Ending the cluster ends Ray with it; and the login would wait minutes for a head that does not answer, which is
    among those that people want to be rid of.
    """

    def run(self, *_arguments: Any, **_options: Any) -> str:
        """Run no command; it has printed nothing."""
        return ""

    def run_rsync_up(self, source: str, target: str, options: dict[str, Any] | None = None) -> None:
        """Send no files."""

    def run_rsync_down(self, source: str, target: str, options: dict[str, Any] | None = None) -> None:
        """Fetch no files."""

    def remote_shell_command_str(self) -> str:
        """There is no shell."""
        return ""
