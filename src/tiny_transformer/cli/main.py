"""`tiny`: finds the command and hands it the rest of the line.

Only argparse is imported here; each command imports what it needs when it runs.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from tiny_transformer.runtime.errors import TinyError, suggest

COMMANDS = {
    "doctor": "check this machine: Python, PyTorch, device, basic operations",
    "data": "list, prepare and describe corpora",
    "train": "train a model as a config says",
    "resume": "continue a run where it stopped",
    "eval": "loss, perplexity and bits per character of a run",
    "generate": "continue a prompt with a trained model",
    "interactive": "type prompts to a trained model",
}


def _parser() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS))
    lines = "\n".join(f"  {name:<{width}}  {text}" for name, text in COMMANDS.items())
    return argparse.ArgumentParser(
        prog="tiny",
        usage="tiny [-h] [--version] COMMAND ...",
        description="Train a small transformer, and talk to it.",
        epilog=f"commands:\n{lines}\n\n'tiny COMMAND --help' tells more. Begin with: "
        "tiny train --config tiny",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=True,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: the words after `tiny`; None takes the process's.

    Returns:
        The exit status: 0 done, 2 the user's mistake, 3 diverged, 130 interrupted.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = _parser()
    parser.add_argument("--version", action="store_true", help="print the version and end")
    parser.add_argument("command", nargs="?", help=argparse.SUPPRESS)
    options = parser.parse_args(words[:1])
    if options.version:
        from importlib.metadata import version

        print(f"tiny_transformer {version('tiny-transformer')}")
        return 0
    if options.command is None:
        parser.print_help()
        return 0
    if options.command not in COMMANDS:
        return _complain(
            f"{options.command!r} is not a command. {suggest(options.command, COMMANDS)}", 2
        )
    try:
        command = importlib.import_module(f"tiny_transformer.cli.{options.command}")
        return command.main(words[1:])
    except TinyError as error:
        return _complain(str(error), error.exit_status)
    except KeyboardInterrupt:
        return _complain("Interrupted.", 130)
    except BrokenPipeError:  # the reader of our output has gone, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _complain(message: str, status: int) -> int:
    print(f"tiny: {message}", file=sys.stderr)
    return status


def entry_point() -> None:
    """Run `tiny` and end the process with its exit status."""
    sys.exit(main())
