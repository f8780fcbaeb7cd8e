"""How fast `tiny serve` answers, beside the sampler alone: one client, and several at once.

    python benchmarks/serving.py RUN
    python benchmarks/serving.py RUN --clients 8 --tokens 256 --rounds 3

Starts the server as a process of its own on a free port, and measures with the official client
how long the first piece of a stream takes and how many tokens come in a second, all clients
together. `one request` asks for as many texts as there are clients in a single request. Rounds
take turns, and the median is printed, as a table.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import openai

PROMPT = "ROMEO:\n"


def without_server(run: str, tokens: int) -> Callable[[], tuple[float, float]]:
    """Return what writes a text in this process, as `tiny generate` does."""
    from tiny_transformer import SamplingConfig, open_checkpoint, stream_text

    checkpoint = open_checkpoint(run, "runs")[1]
    model = checkpoint.build_model()

    def measure() -> tuple[float, float]:
        start = time.perf_counter()
        pieces = stream_text(
            model, checkpoint.tokenizer, SamplingConfig(prompt=PROMPT, max_new_tokens=tokens)
        )
        next(pieces)
        first = time.perf_counter() - start
        for _ in pieces:
            pass
        return first, tokens / (time.perf_counter() - start)

    return measure


def stream_one(client: openai.OpenAI, model: str, tokens: int, seed: int) -> float:
    """Read one stream to its end; return the seconds to its first piece."""
    start, first = time.perf_counter(), 0.0
    stream = client.completions.create(
        model=model, prompt=PROMPT, max_tokens=tokens, seed=seed, stream=True
    )
    for chunk in stream:
        first = first or time.perf_counter() - start
        assert chunk.choices
    return first


def clients(
    client: openai.OpenAI, model: str, number: int, tokens: int
) -> Callable[[], tuple[float, float]]:
    """Return what lets several clients stream at once: the median first piece, tokens/s of all."""

    def measure() -> tuple[float, float]:
        start = time.perf_counter()
        with ThreadPoolExecutor(number) as threads:
            firsts = list(
                threads.map(lambda seed: stream_one(client, model, tokens, seed), range(number))
            )
        return statistics.median(firsts), number * tokens / (time.perf_counter() - start)

    return measure


def one_request(
    client: openai.OpenAI, model: str, number: int, tokens: int, stream: bool
) -> Callable[[], tuple[float, float]]:
    """Return what asks for several texts in one request."""

    def measure() -> tuple[float, float]:
        start, first = time.perf_counter(), 0.0
        answer = client.completions.create(
            model=model, prompt=PROMPT, max_tokens=tokens, n=number, stream=stream
        )
        if isinstance(answer, openai.Stream):
            for _ in answer:
                first = first or time.perf_counter() - start
        total = time.perf_counter() - start
        return first or total, number * tokens / total

    return measure


def main() -> int:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("run")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--max-concurrent", type=int, default=2)
    options = parser.parse_args()
    words = [sys.executable, "-m", "tiny_transformer", "serve", options.run, "--port", "0"]
    words += ["--max-concurrent", str(options.max_concurrent), "--timeout", "600"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        lines: list[str] = []
        while not (lines and lines[-1].startswith("Ready")):
            line = server.stdout.readline()
            if not line:
                return 2  # it has said why
            lines.append(line)
        try:
            url = re.search(r"http://\S+/v1", "".join(lines))
            assert url is not None
            client = openai.OpenAI(base_url=url.group(), api_key="none", timeout=600)
            model = client.models.list().data[0].id
            number, tokens = options.clients, options.tokens
            subjects = {
                "no server, one text": without_server(options.run, tokens),
                "one client, stream": clients(client, model, 1, tokens),
                "one client, whole answer": one_request(client, model, 1, tokens, stream=False),
                f"{number} clients, streams": clients(client, model, number, tokens),
                f"one request, n={number}, stream": one_request(
                    client, model, number, tokens, stream=True
                ),
            }
            results: dict[str, list[tuple[float, float]]] = {name: [] for name in subjects}
            for measure in subjects.values():
                measure()  # the first is slower
            for _ in range(options.rounds):
                for name, measure in subjects.items():
                    results[name].append(measure())
        finally:
            server.terminate()
    print(
        f"| {tokens} tokens a text, --max-concurrent {options.max_concurrent} | first piece | all |"
    )
    print("|---|---|---|")
    for name, found in results.items():
        first = statistics.median(one[0] for one in found)
        rates = [one[1] for one in found]
        least, most = min(rates), max(rates)
        print(
            f"| {name} | {first * 1000:,.0f} ms | {statistics.median(rates):,.0f} tokens/s "
            f"({least:,.0f} to {most:,.0f}) |"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
