"""`tiny serve`: a run's model behind HTTP, for OpenAI's clients."""

from __future__ import annotations

import importlib.util
import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tiny_transformer.cli.options import Device, FlatRun, parse
from tiny_transformer.cli.own_parts import tell_own_parts
from tiny_transformer.runtime.device import resolve_device
from tiny_transformer.serving.errors import INSTALL, ServeError
from tiny_transformer.serving.settings import Settings
from tiny_transformer.training.checkpoint import Checkpoint, open_checkpoint

API_KEY = "TINY_TRANSFORMER_API_KEY"


@dataclass(frozen=True)
class Serve:
    """Answer HTTP requests for completions, as the openai client sends them."""

    run: FlatRun
    host: str = "127.0.0.1"
    """Where to listen; the default is for programs of this machine alone."""
    port: int = 8000
    """0 takes one that is free, and prints it."""
    max_concurrent: int = Settings.max_concurrent
    """Requests that are computed at once."""
    max_waiting: int = Settings.max_waiting
    """Requests that may wait; more are told to come again (429)."""
    max_tokens: int = Settings.max_tokens
    """Most new tokens of one text."""
    max_batch: int = Settings.max_batch
    """Most texts of one request: its prompts times its n."""
    timeout: float = Settings.timeout
    """Seconds that a request may wait and compute."""
    api_key: str | None = None
    """Ask for this key; None takes the variable TINY_TRANSFORMER_API_KEY, if it is set."""
    allow_origin: tuple[str, ...] = ()
    """Web pages that may use the model, such as http://localhost:5173; none may by default."""
    errors: Literal["strict", "replace"] = "strict"
    """Refuse a prompt's unknown characters, or read them as unknown."""
    crop_prompt: bool = False
    """Keep the end of a prompt that is longer than the context."""
    device: Device = "auto"
    """auto takes CUDA, then MPS, then CPU."""


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    options = parse(Serve, arguments, "serve")
    missing = [name for name in ("starlette", "uvicorn") if importlib.util.find_spec(name) is None]
    if missing:
        raise ServeError(
            f"Serving needs {' and '.join(missing)}, which this Python does not have. Install what "
            f"it takes: {INSTALL}"
        )
    from tiny_transformer.serving.app import create_app
    from tiny_transformer.serving.server import LOOPBACK, bind, serve, url_of

    key = os.environ.get(API_KEY) if options.api_key is None else options.api_key
    on_loopback = _is_loopback(options.host)
    if not on_loopback and key is None:
        raise ServeError(
            f"--host {options.host} lets other machines use the model. Give a key that they have "
            f"to know, with --api-key or the variable {API_KEY}; or leave --host out to serve this "
            "machine alone."
        )
    run, checkpoint = open_checkpoint(options.run.run, options.run.runs_dir)
    tell_own_parts(run, checkpoint)
    settings = Settings(
        model_id=run.run_id,
        fingerprint=f"{run.run_id}-step-{checkpoint.step:08d}",
        created=int(checkpoint.path.stat().st_mtime),
        max_concurrent=options.max_concurrent,
        max_waiting=options.max_waiting,
        max_tokens=options.max_tokens,
        max_batch=options.max_batch,
        timeout=options.timeout,
        errors=options.errors,
        crop_prompt=options.crop_prompt,
        api_key=key,
        hosts=(*LOOPBACK, _in_url(options.host)) if on_loopback else (),
        allow_origins=options.allow_origin,
    )
    model = checkpoint.build_model(device=resolve_device(options.device))
    app = create_app(model, checkpoint.tokenizer, settings)
    listener = bind(options.host, options.port)
    text = _announcement(url_of(listener), settings, checkpoint)
    serve(app, listener, lambda: print(text, flush=True))
    print("Stopped.", flush=True)
    return 130


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _announcement(url: str, settings: Settings, checkpoint: Checkpoint) -> str:
    """Return what is printed once requests are answered."""
    name, with_key = settings.model_id, settings.api_key is not None
    what = f"{name} (step {checkpoint.step:,}, context {checkpoint.config.model.context_length})"
    header = f' \\\n    -H "Authorization: Bearer ${API_KEY}"' if with_key else ""
    key = f'os.environ["{API_KEY}"]' if with_key else '"none"'
    return f"""\
Serving {what} at {url}/v1

  curl {url}/v1/completions -H 'Content-Type: application/json'{header} \\
    -d '{{"model": "{name}", "prompt": "ROMEO:", "max_tokens": 100}}'

  {"import os; " if with_key else ""}from openai import OpenAI
  client = OpenAI(base_url="{url}/v1", api_key={key})
  answer = client.completions.create(model="{name}", prompt="ROMEO:", max_tokens=100)
  print(answer.choices[0].text)

Ready. Ctrl-C ends it."""
