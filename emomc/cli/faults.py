"""How commands end that cannot do what was asked: one message, and an exit code."""

from __future__ import annotations

import errno
import io
import sys
from typing import IO, Any

import click

from emomc.errors import EmomcError


class Fault(click.ClickException):
    """Something that the user can put right."""

    exit_code = 2
    title = "Error"
    color = "red"

    def show(self, file: IO[Any] | None = None) -> None:
        """Title in colour, then the message, on standard error."""
        click.echo(click.style(f"{self.title}: ", fg=self.color, bold=True) + self.message, file=file, err=True)


class Interrupted(Fault):
    """Ctrl-C."""

    exit_code = 130
    title = "Interrupted"
    color = "yellow"


class Different(Fault):
    """A check that did not hold."""

    exit_code = 1
    title = "Different"


class ClearErrors(click.Group):
    """A group whose commands end without a traceback when the cause lies outside the program."""

    def main(self, *args: Any, **given: Any) -> Any:
        """As of any group, on streams that print a question mark for what their encoding lacks, such as a µ."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")
        return super().main(*args, **given)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except EmomcError as error:
            raise Fault(str(error)) from None
        except KeyboardInterrupt:
            raise Interrupted("stopped by Ctrl-C.") from None
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
