"""`tiny generate --explain`: each token with its probability, and where the heads look."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.text import Text

from tiny_transformer.config import SamplingConfig
from tiny_transformer.evaluation.attention_maps import attention_weights
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.sampling.generator import generate_steps
from tiny_transformer.sampling.sampler import StoppableText, encode_prompt, forbidden_ids
from tiny_transformer.text.tokenizer import Tokenizer
from tiny_transformer.viz.attention import plot_attention
from tiny_transformer.viz.plots import plot_format

_ALTERNATIVES = 5
# From unlikely to likely, on backgrounds that black letters can be read on.
_COLOURS = ((0.05, "#ff9d9d"), (0.2, "#ffc78f"), (0.5, "#fff0a0"), (0.8, "#d3f0a8"))
_LIKELY = "#a9e0a9"


def explain(
    model: Transformer,
    tokenizer: Tokenizer,
    config: SamplingConfig,
    *,
    explained: bool,
    figure: str | None,
    errors: str,
    crop: bool,
) -> int:
    """Print the text, coloured by probability, and a line for each token.

    The probabilities are the model's own, at temperature 1 and with nothing cut.

    Args:
        model: a trained model.
        tokenizer: its tokenizer.
        config: how the text is drawn.
        explained: whether to print a line for each token.
        figure: file for a picture of the attention over the text's last window; None draws
            none.
        errors: as `encode_prompt` takes it.
        crop: as `encode_prompt` takes it.
    """
    if figure is not None:
        plot_format(figure)  # said before anything is generated
    limit = model.config.context_length
    ids = encode_prompt(config.prompt, tokenizer, limit, errors=errors, crop=crop)
    text, coloured, lines = StoppableText(config.stop), Text(config.prompt), []
    stream = tokenizer.stream(continues=True)
    for step in generate_steps(model, [ids], config, forbidden=forbidden_ids(model, tokenizer)):
        chosen = int(step.ids)
        ids.append(chosen)
        log_probabilities = step.log_probabilities()[0]
        probability = log_probabilities[chosen].exp().item()
        ended = chosen in tokenizer.end_ids
        piece = "" if ended else stream.add(chosen)  # a character takes its last token's colour
        coloured.append(piece, style=f"black on {_colour(probability)}")
        best = log_probabilities.exp().topk(min(_ALTERNATIVES + 1, len(log_probabilities)))
        others = [
            f"{_shown(tokenizer, other)} {p:.3f}"
            for p, other in zip(best.values.tolist(), best.indices.tolist(), strict=True)
            if other != chosen
        ]
        own = f"{_shown(tokenizer, chosen):>8} {probability:.3f}"
        lines.append(Text.assemble((own, _colour(probability)), "   ", "  ".join(others[:5])))
        text.add(piece)
        if text.stopped or ended:
            break
    coloured.append(stream.end())
    console = Console(
        width=None if sys.stdout.isatty() else 160, highlight=False, markup=False, emoji=False
    )
    console.print(coloured)
    if explained:
        console.print("\n   token and its probability, then what else was likely", style="dim")
        for line in lines:
            console.print(line)
    if figure is not None:
        window = ids[-limit:]
        tokens = [tokenizer.decode([token]) for token in window]
        path = plot_attention(attention_weights(model, window).numpy(), tokens, figure)
        console.print(f"attention over the last {len(window)} tokens: {path}")
    return 0


def _colour(probability: float) -> str:
    return next((colour for most, colour in _COLOURS if probability < most), _LIKELY)


def _shown(tokenizer: Tokenizer, token: int) -> str:
    return tokenizer.label(token) if token < tokenizer.vocab_size else f"<unused {token}>"
