"""What went wrong, in one message and an exit code: 2 for what the user can put right, 130 for Ctrl-C."""

from __future__ import annotations

import errno
from typing import IO, Any

import click

from emomc.errors import EmomcError

BAD_INPUT = 2
INTERRUPTED = 130


class Fault(click.ClickException):
    """Ends the command with a message on standard error."""

    def __init__(self, message: str, exit_code: int = BAD_INPUT, title: str = "Error") -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self._title = title

    def show(self, file: IO[Any] | None = None) -> None:
        """Title in red, then the message."""
        color = "yellow" if self.exit_code == INTERRUPTED else "red"
        click.echo(click.style(f"{self._title}: ", fg=color, bold=True) + self.message, file=file, err=True)


class ClearErrors(click.Group):
    """A group whose commands end without a traceback when the cause lies outside the program."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except EmomcError as error:
            raise Fault(str(error)) from None
        except KeyboardInterrupt:
            raise Fault("stopped by Ctrl-C.", INTERRUPTED, "Interrupted") from None
        except BrokenPipeError:
            raise  # the reader of a pipe has gone; click ends quietly
        except OSError as error:
            if error.errno is None:
                raise
            raise Fault(_cause(error)) from None


def _cause(error: OSError) -> str:
    place = f"{error.filename}: " if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{place}the disk is full. What was measured is kept; free space, then repeat the command to continue."
    return f"{place}{error.strerror}."
