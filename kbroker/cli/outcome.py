"""How a command ends: its exit code, and for a failure one line on stderr that says what to do."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Callable

import click

from kbroker.errors import BrokerUnavailable, ConfigError, KbrokerError
from kbroker.wording import printable

OK = 0
FAILED = 1
USAGE = 2
NOT_READY = 3
NO_BROKER = 4
TOO_FAR_BEHIND = 5
HUNG_UP = 129
INTERRUPTED = 130
BROKEN_PIPE = 141
TERMINATED = 143

EXIT_CODES = {
    OK: "all well",
    FAILED: "the broker refused, or something failed",
    USAGE: "wrong usage: an unknown command or option, a value that cannot be, a wrong setting for `serve`",
    NOT_READY: "`status`: a process is not ready, or something is out of service",
    NO_BROKER: "no broker answered",
    TOO_FAR_BEHIND: "`group lag --max-lag`: a group is further behind",
    HUNG_UP: "`consume`: the terminal has gone (SIGHUP)",
    INTERRUPTED: "interrupted (Ctrl-C)",
    BROKEN_PIPE: "whoever read the output has gone",
    TERMINATED: "`consume`: ended by SIGTERM",
}


TRACEBACK_VARIABLE = "KBROKER_TRACEBACK"


def complain(message: str) -> None:
    """One line on stderr."""
    text = printable(" ".join(message.split()))  # in a pipe too: it is for people, and may be kept in a log
    with contextlib.suppress(OSError):  # nobody reads stderr: the exit code must do
        print(f"kbroker: {text}", file=sys.stderr, flush=True)


def _silence_stdout() -> None:
    # What is still buffered must not fail again, with a traceback, when Python ends.
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def outcome(command: Callable[[], object]) -> int:
    """Run a command; the exit code that tells how it went. Says in one line what failed; never raises."""
    try:
        command()
        sys.stdout.flush()
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except click.UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # a group alone; click has this class since 8.2
            click.echo(error.format_message(), err=True)
            return error.exit_code
        where = f" (see {error.ctx.command_path} --help)" if error.ctx else ""
        complain(error.format_message().rstrip(".") + where)
        return USAGE
    except click.ClickException as error:
        complain(error.format_message())
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        _silence_stdout()
        return BROKEN_PIPE
    except BrokerUnavailable as error:
        complain(str(error))
        return NO_BROKER
    except ConfigError as error:
        complain(str(error))
        return USAGE
    except KbrokerError as error:
        complain(str(error) or type(error).__name__)
        return FAILED
    except OSError as error:
        complain(f"{error.filename}: {error.strerror}" if error.filename else str(error))
        return FAILED
    except UnicodeEncodeError as error:
        if error.reason != "surrogates not allowed":
            return _fault(error)
        complain(f"{error.object[:80]!r} is not valid UTF-8, which names must be")
        return USAGE
    except Exception as error:
        return _fault(error)
    return OK


def _fault(error: Exception) -> int:
    if TRACEBACK_VARIABLE in os.environ:
        print(printable(traceback.format_exc(), keep_lines=True), file=sys.stderr)
    complain(
        f"a fault of kbroker's own: {type(error).__name__}: {error} ({TRACEBACK_VARIABLE}=1 shows where; please "
        "report it)"
    )
    return FAILED
