"""`tiny generate`: continue a prompt with a trained model."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from tiny_transformer.cli.options import Device, FlatRun, parse
from tiny_transformer.cli.own_parts import build_with_parts
from tiny_transformer.cli.quantizing import build_quantized, check_quantize
from tiny_transformer.config import SamplingConfig
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.runtime.device import resolve_device
from tiny_transformer.runtime.errors import ConfigError
from tiny_transformer.sampling.beam import beam_search
from tiny_transformer.sampling.contrastive import contrastive_search
from tiny_transformer.sampling.sampler import (
    encode_prompt,
    forbidden_ids,
    sample_text,
    stream_text,
    text_of,
)
from tiny_transformer.sampling.speculative import Statistics, speculative_tokens
from tiny_transformer.text.tokenizer import Tokenizer
from tiny_transformer.training.checkpoint import open_checkpoint


@dataclass(frozen=True)
class Generate:
    """Continue a prompt. The same seed gives the same text."""

    run: FlatRun
    prompt: str | None = None
    """Text to continue; None is a line break."""
    speaker: str | None = None
    """Continue as this character of a play, to the end of the speech."""
    prompts: str | None = None
    """Continue every line of this file, and write JSON lines."""
    max_new_tokens: int | None = None
    """Tokens to generate; None is 500, 200 with --compare and 60 with --explain."""
    temperature: float = 1.0
    """Divides the logits; 0 always takes the likeliest token."""
    top_k: int | None = None
    """Keep only the k likeliest tokens."""
    top_p: float | None = None
    """Keep the smallest set of tokens whose probabilities sum to at least p."""
    min_p: float | None = None
    """Keep only tokens at least p times as likely as the likeliest."""
    repetition_penalty: float = 1.0
    """Divides the logits of tokens that occurred, in the prompt or since; 1 is off."""
    presence_penalty: float = 0.0
    """Subtracted from the logits of tokens that were generated."""
    frequency_penalty: float = 0.0
    """Subtracted from the logits of generated tokens, once for each time."""
    stop: tuple[str, ...] = ()
    """Texts at which to end; they are not written."""
    num_beams: int = 1
    """Beam search with so many beams instead of sampling; 1 is off."""
    length_penalty: float = 1.0
    """Beam search divides a log-probability by the length to this power."""
    contrastive_alpha: float | None = None
    """Contrastive search instead of sampling, with this weight and the --top-k likeliest (4)."""
    draft: str | None = None
    """Another run, whose smaller model drafts what this one checks (speculative decoding)."""
    num_draft_tokens: int = 4
    """Tokens drafted at once."""
    seed: int = 0
    """Seed of the draws."""
    num_samples: int = 1
    """How many continuations."""
    compare: bool = False
    """Set strategies side by side: how varied, how fast, and a text of each."""
    explain: bool = False
    """Show each token's probability and what else was likely."""
    attention_figure: str | None = None
    """Draw where each head looks while it reads the text, to this .png, .pdf or .svg file."""
    errors: Literal["strict", "replace"] = "strict"
    """Refuse a prompt's unknown characters, or read them as unknown."""
    crop_prompt: bool = False
    """Keep the end of a prompt that is longer than the context."""
    parts: str | None = None
    """Parts of the model's own, from a folder or Python file, which is run (RUN/parts)."""
    quantize: str | None = None
    """int8 rounds the weights, and the draft's, to 8 bits; the file of the run stays as it is."""
    device: Device = "auto"
    """auto takes CUDA, then MPS, then CPU."""

    def sampling(self) -> SamplingConfig:
        """Return the settings of the text.

        Raises:
            ConfigError: a setting makes no sense, or two contradict each other.
        """
        _check_together(self)
        names = {field.name for field in dataclasses.fields(SamplingConfig)}
        same = {name: getattr(self, name) for name in names if hasattr(self, name)}
        prompt = "\n" if self.prompt is None else self.prompt
        stop = self.stop
        if self.speaker is not None:
            prompt, stop = f"{self.speaker.rstrip(':')}:\n", stop or ("\n\n",)
        length = self.max_new_tokens
        if length is None:
            length = 200 if self.compare else 60 if self.explain else 500
        return SamplingConfig(**same | {"prompt": prompt, "stop": stop, "max_new_tokens": length})


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    options = parse(Generate, arguments, "generate")
    config = options.sampling()
    check_quantize(options.quantize)
    run, checkpoint = open_checkpoint(options.run.run, options.run.runs_dir)
    device = resolve_device(options.device)
    model = build_with_parts(run, checkpoint, options.parts, device, options.quantize)
    tokenizer, how = checkpoint.tokenizer, {"errors": options.errors, "crop": options.crop_prompt}
    if options.prompts is not None:
        from tiny_transformer.cli.generate_many import continue_file

        return continue_file(options.prompts, model, tokenizer, config, **how)
    if options.compare:
        from tiny_transformer.cli.generate_compare import compare

        return compare(model, tokenizer, config, n_samples=options.num_samples, **how)
    if options.explain or options.attention_figure is not None:
        from tiny_transformer.cli.generate_explain import explain

        return explain(
            model,
            tokenizer,
            config,
            explained=options.explain,
            figure=options.attention_figure,
            **how,
        )
    if options.num_beams > 1:
        texts = _beams(options, model, tokenizer, config)
    elif options.num_samples > 1:
        texts = sample_text(model, tokenizer, config, n_samples=options.num_samples, **how)
    else:
        return _stream(config.prompt, _pieces(options, model, tokenizer, config))
    if len(texts) == 1:
        return _stream(config.prompt, iter(texts))
    for index, text in enumerate(texts, start=1):
        print(f"--- sample {index} of {len(texts)} ---\n{config.prompt}{text}")
    return 0


def _stream(prompt: str, pieces: Iterator[str]) -> int:
    first = next(pieces, "")  # a refused prompt prints nothing
    sys.stdout.write(prompt + first)
    for piece in pieces:
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")
    return 0


def _ids(options: Generate, tokenizer: Tokenizer, model: Transformer, prompt: str) -> list[int]:
    return encode_prompt(
        prompt,
        tokenizer,
        model.config.context_length,
        errors=options.errors,
        crop=options.crop_prompt,
    )


def _pieces(
    options: Generate, model: Transformer, tokenizer: Tokenizer, config: SamplingConfig
) -> Iterator[str]:
    """Return the pieces of one continuation, by the strategy that was chosen."""
    if options.contrastive_alpha is None and options.draft is None:
        return stream_text(
            model, tokenizer, config, errors=options.errors, crop=options.crop_prompt
        )
    ids, forbidden = _ids(options, tokenizer, model, config.prompt), forbidden_ids(model, tokenizer)
    if options.contrastive_alpha is not None:
        found = contrastive_search(
            model,
            ids,
            max_new_tokens=config.max_new_tokens,
            k=options.top_k or 4,
            alpha=options.contrastive_alpha,
            forbidden=forbidden,
            end_ids=tokenizer.end_ids,
        )
        return text_of(found, tokenizer, config.stop)
    assert options.draft is not None
    checkpoint = open_checkpoint(options.draft, options.run.runs_dir)[1]
    if checkpoint.tokenizer != tokenizer:
        raise ConfigError(
            f"The draft {options.draft} was trained with another vocabulary: its ids stand for "
            "other tokens. Train it with this model's: --data.tokenizer "
            f"{options.run.run}."
        )
    device = model.lm_head.weight.device
    draft = build_quantized(checkpoint, device, options.quantize, told=False)
    statistics = Statistics()
    found = speculative_tokens(
        model,
        draft,
        ids,
        config,
        n_draft=options.num_draft_tokens,
        forbidden=forbidden,
        statistics=statistics,
    )
    return _and_then(text_of(found, tokenizer, config.stop), lambda: _tell(statistics))


def _and_then(pieces: Iterator[str], tell: Callable[[], None]) -> Iterator[str]:
    yield from pieces
    tell()


def _tell(statistics: Statistics) -> None:
    sys.stdout.flush()
    print(
        f"\naccepted {statistics.accepted} of {statistics.proposed} drafted tokens "
        f"({statistics.acceptance_rate:.0%}) in {statistics.passes} passes of the model",
        file=sys.stderr,
    )


def _beams(
    options: Generate, model: Transformer, tokenizer: Tokenizer, config: SamplingConfig
) -> list[str]:
    """Return the best texts that beam search finds, as many as samples are asked for."""
    found = beam_search(
        model,
        _ids(options, tokenizer, model, config.prompt),
        max_new_tokens=config.max_new_tokens,
        num_beams=options.num_beams,
        length_penalty=options.length_penalty,
        forbidden=forbidden_ids(model, tokenizer),
        end_ids=tokenizer.end_ids,
    )
    best = found[: options.num_samples]
    return ["".join(text_of(iter(one.ids), tokenizer, config.stop)) for one in best]


def _check_together(options: Generate) -> None:
    """Raise `ConfigError` for settings of which one would silently be ignored."""
    if options.num_samples < 1:
        raise ConfigError(f"--num-samples is {options.num_samples}; it must be at least 1.")
    if options.num_beams < 1:
        raise ConfigError(f"--num-beams is {options.num_beams}; it must be at least 1.")
    defaults = {field.name: field.default for field in dataclasses.fields(Generate)}
    given = {name for name, default in defaults.items() if getattr(options, name) != default}
    cut = {"temperature", "top_p", "min_p"}
    penalties = {"repetition_penalty", "presence_penalty", "frequency_penalty"}
    strategies = {"num_beams", "contrastive_alpha", "draft"}
    clashes = {
        "speaker": {"prompt", "prompts"},
        "prompts": {"prompt", "compare", "explain", "attention_figure", "num_samples"} | strategies,
        "compare": {"explain", "attention_figure"} | strategies,
        "explain": {"num_samples"} | strategies,
        "attention_figure": {"num_samples"} | strategies,
        "num_beams": cut | penalties | {"top_k", "contrastive_alpha", "draft", "seed"},
        "contrastive_alpha": cut | penalties | {"draft", "num_samples", "seed"},
        "draft": {"num_samples"},
    }
    for name, others in clashes.items():
        for other in sorted(others & given):
            if name in given:
                raise ConfigError(
                    f"--{_flag(name)} and --{_flag(other)} contradict each other: "
                    "one of them would do nothing. Leave one out."
                )
    if options.num_beams > 1 and options.num_samples > options.num_beams:
        raise ConfigError(
            f"--num-samples is {options.num_samples} and --num-beams is {options.num_beams}: beam "
            "search finds as many texts as it has beams."
        )


def _flag(name: str) -> str:
    return name.replace("_", "-")
