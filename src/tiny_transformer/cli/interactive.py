"""`tiny interactive`: type prompts to a trained model and watch it write."""

from __future__ import annotations

import dataclasses
import io
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tiny_transformer.cli.options import Device, FlatRun, parse
from tiny_transformer.cli.own_parts import tell_own_parts
from tiny_transformer.cli.quantizing import build_quantized, check_quantize
from tiny_transformer.config import SamplingConfig
from tiny_transformer.config.loading import validate
from tiny_transformer.runtime.device import resolve_device
from tiny_transformer.runtime.errors import ConfigError, PromptError, TinyError, suggest
from tiny_transformer.sampling.sampler import stream_text
from tiny_transformer.training.checkpoint import Checkpoint, open_checkpoint

HELP = """\
Type a prompt and press Enter; the model continues it. Ctrl-C stops a text, Ctrl-D ends.
  /set NAME VALUE   change a setting: max_new_tokens, temperature, top_k, top_p, min_p, seed,
                    repetition_penalty, presence_penalty, frequency_penalty
                    (VALUE none switches top_k, top_p or min_p off)
  /show             show the settings
  /errors MODE      strict refuses unknown characters, replace reads them as unknown
  /crop on|off      keep the end of a prompt that is longer than the context
  /help             show this
  /quit             end
A prompt that begins with a slash is written with two: //. \\n in a prompt is a line break.
"""
_COMMAND_OF = {
    "--errors replace": "/errors replace",
    "--crop-prompt": "/crop on",
    "--prompt $'\\n'": "type \\n",
}
_SETTABLE = (
    *("max_new_tokens", "temperature", "top_k", "top_p", "min_p", "seed"),
    *("repetition_penalty", "presence_penalty", "frequency_penalty"),
)


@dataclass(frozen=True)
class Interactive:
    """Type prompts to a trained model; /help in it lists its commands."""

    run: FlatRun
    quantize: str | None = None
    """int8 rounds the weights to 8 bits; the file of the run stays as it is."""
    device: Device = "auto"
    """auto takes CUDA, then MPS, then CPU."""


class Session:
    """The state of a conversation: a model and the settings in force.

    Args:
        checkpoint: the model and its vocabulary.
        write: takes each piece of output.
        device: where the model computes.
        quantize: the name of a quantisation, or None.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        write: Callable[[str], object],
        device: str = "auto",
        quantize: str | None = None,
    ) -> None:
        self.model = build_quantized(checkpoint, resolve_device(device), quantize)
        self.tokenizer = checkpoint.tokenizer
        self.sampling = dataclasses.replace(checkpoint.config.sampling, max_new_tokens=300)
        self.errors = "strict"
        self.crop = False
        self._write = write

    def handle(self, line: str) -> bool:
        """Obey a command or continue a prompt; return whether to go on."""
        try:
            if line.startswith("/") and not line.startswith("//"):
                return self._command(line[1:].split())
            self._continue(line.removeprefix("/").replace("\\n", "\n"))
        except PromptError as error:
            self._write(f"{_in_commands(str(error))}\n")
        except TinyError as error:
            self._write(f"{error}\n")
        return True

    def _continue(self, prompt: str) -> None:
        config = dataclasses.replace(self.sampling, prompt=prompt)
        pieces = stream_text(self.model, self.tokenizer, config, errors=self.errors, crop=self.crop)
        try:
            first = next(pieces, "")
            self._write(prompt + first)
            for piece in pieces:
                self._write(piece)
        except KeyboardInterrupt:
            self._write(" [stopped]")
        self._write("\n")

    def _command(self, words: list[str]) -> bool:
        match words:
            case ["quit" | "exit"]:
                return False
            case ["help"]:
                self._write(HELP)
            case ["show"]:
                self._show()
            case ["set", name, value]:
                self._set(name.replace("-", "_"), value)
                self._show()
            case ["errors", ("strict" | "replace") as mode]:
                self.errors = mode
            case ["crop", ("on" | "off") as mode]:
                self.crop = mode == "on"
            case _:
                raise ConfigError(f"/{' '.join(words)} is not a command here; /help lists them.")
        return True

    def _set(self, name: str, value: str) -> None:
        if name not in _SETTABLE:
            raise ConfigError(f"{name!r} is not a setting here. {suggest(name, _SETTABLE)}")
        parsed: Any = None if value.lower() in ("none", "off") else value
        settings = dataclasses.asdict(self.sampling) | {name: parsed}
        self.sampling = validate(SamplingConfig, settings, where="/set")

    def _show(self) -> None:
        settings = ", ".join(f"{name} {getattr(self.sampling, name)}" for name in _SETTABLE)
        self._write(f"{settings}, errors {self.errors}, crop {'on' if self.crop else 'off'}\n")


def _in_commands(message: str) -> str:
    """Name the way out of a refused prompt as it is typed here."""
    for flag, command in _COMMAND_OF.items():
        message = message.replace(flag, command)
    return message


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    options = parse(Interactive, arguments, "interactive")
    check_quantize(options.quantize)
    run, checkpoint = open_checkpoint(options.run.run, options.run.runs_dir)
    tell_own_parts(run, checkpoint)
    session = Session(checkpoint, _write, options.device, options.quantize)
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # bytes that are not UTF-8 are unknown characters
    if sys.stdin.isatty():
        import readline  # noqa: F401 - line editing and history for input()

        _write(f"{checkpoint.path}, step {checkpoint.step}. /help lists the commands.\n")
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "")
        except EOFError:
            return 0
        except KeyboardInterrupt:
            _write("\n")
            continue
        if not session.handle(line):
            return 0
