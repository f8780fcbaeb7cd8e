"""`tiny`: finds the command and hands it the rest of the line.

Only argparse is imported here; each command imports what it needs when it runs.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import sys
from collections.abc import Sequence

from tiny_transformer.runtime.errors import TinyError, suggest
from tiny_transformer.runtime.launch import has_speaker, several

COMMANDS = {
    "doctor": "check this machine: Python, PyTorch, device, basic operations",
    "data": "list, prepare and describe corpora",
    "train": "train a model as a config says",
    "resume": "continue a run where it stopped",
    "eval": "loss, perplexity and bits per byte of a run",
    "generate": "continue a prompt with a trained model",
    "runs": "list, show, compare, plot and verify runs",
    "interactive": "type prompts to a trained model",
    "convert": "put a checkpoint into one file, or spread it over several",
    "export": "write a run's model in another program's format",
    "import": "make a run of a GPT-2 or Llama-style model from a Hugging Face folder",
    "serve": "answer HTTP requests of OpenAI's clients with a run's model",
    "course": "write every part of a transformer yourself, and have it checked",
    "bench": "measure speed and memory, beside other projects",
}

_JOINT = ("train", "resume")  # may run on several ranks
_MODULES = {"import": "import_model"}  # a keyword cannot name a module


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
        The exit status: 0 done, 2 the user's mistake, 3 diverged, 130 interrupted; and 1 where
        `tiny course` has checked an answer that does not pass.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        status = _run(words)
        if sys.stdout is not None:
            sys.stdout.flush()  # so that a reader who has gone is noticed here
        return status
    except TinyError as error:
        return error.exit_status if error.told else _complain(str(error), error.exit_status)
    except KeyboardInterrupt:
        return _complain("Interrupted.", 130)
    except BrokenPipeError:  # the reader of our output has gone, as with `| head`
        _drop_output()
        return 0
    except OSError as error:  # above all, output that goes to a full disk
        _drop_output()
        what = error.filename or "The output"
        return _complain(f"{what} could not be read or written: {error.strerror or error}.", 2)


def _run(words: list[str]) -> int:
    parser = _parser()
    parser.add_argument("--version", action="store_true", help="print the version and end")
    parser.add_argument("command", nargs="?", help=argparse.SUPPRESS)
    try:
        options = parser.parse_args(words[:1])
        if options.version:
            from importlib.metadata import version

            print(f"tiny_transformer {version('tiny-transformer')}")
            return 0
        if options.command is None:
            parser.print_help()
            return 0
        if options.command not in COMMANDS:
            near = suggest(options.command, COMMANDS)
            return _complain(f"{options.command!r} is not a command. {near}", 2)
        if several() and options.command not in _JOINT:
            return _complain(
                f"'tiny {options.command}' was started as {os.environ['WORLD_SIZE']} processes. "
                f"Only tiny {' and tiny '.join(_JOINT)} run so; start it without torchrun.",
                2,
            )
        module = _MODULES.get(options.command, options.command)
        command = importlib.import_module(f"tiny_transformer.cli.{module}")
        return command.main(words[1:])
    except SystemExit as end:  # argparse and tyro end so, after help and after a wrong flag
        if not isinstance(end.code, int):
            raise
        return end.code


def _drop_output() -> None:
    """Send what is still to be written nowhere: Python would complain about it at the end."""
    with contextlib.suppress(OSError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(message: str, status: int) -> int:
    if not has_speaker():
        print(f"tiny: {message}", file=sys.stderr)
    return status


def entry_point() -> None:
    """Run `tiny` and end the process with its exit status."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a prompt may hold what cannot be shown
    sys.exit(main())
