"""The kinds of evidence, each written to a file: `SHOWS[kind](folder, buggy, right)`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure
from tools.hunt_evidence.training import Side, Trained
from torch import Tensor

from tiny_transformer.config import SamplingConfig
from tiny_transformer.evaluation.attention_maps import attention_weights
from tiny_transformer.evaluation.evaluator import compute_val_loss, evaluation_batches
from tiny_transformer.model.kv_cache import KVCache
from tiny_transformer.model.loss import compute_loss
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.runtime import files
from tiny_transformer.runtime.random_state import forked_rng, generator
from tiny_transformer.sampling.generator import generate_tokens
from tiny_transformer.viz.attention import plot_attention
from tiny_transformer.viz.plots import plot_losses, save_figure

TEXT = "First, let me see the house."
Show = Callable[[Path, Side, Side], None]


def show_losses(folder: Path, buggy: Side, right: Side) -> None:
    """Draw both loss curves."""
    curves = {side.name: side.whole.curves for side in (right, buggy)}
    plot_losses(curves, folder / "losses.png")


def show_attention(folder: Path, buggy: Side, right: Side) -> None:
    """Draw where the heads of the first layers look."""
    weights = attention_weights(buggy.whole.model, buggy.whole.encode(TEXT))[:2, :2]
    plot_attention(weights.numpy(), list(TEXT), folder / "attention.png")


def show_samples(folder: Path, buggy: Side, right: Side) -> None:
    """Write what the model writes."""
    run = buggy.whole
    text = f"validation loss {run.loss:.3f}; a text of this model:\n\n{run.write()}\n"
    files.write_text(folder / "sample.txt", text)


def show_cache(folder: Path, buggy: Side, right: Side) -> None:
    """Score a text token by token, and write one, with the cache and without."""
    run = buggy.whole
    model = run.model.eval()
    ids = torch.tensor([run.encode(TEXT)])
    with torch.no_grad():
        whole = -model(ids[:, :-1]).log_softmax(-1)[0]
        cache = KVCache(run.trainer.config.model, 1)
        steps = [model(ids[:, i : i + 1], cache)[0] for i in range(ids.shape[1] - 1)]
        cached = -torch.cat(steps).log_softmax(-1)
    lines = [f"how surprised the model is by each character of {TEXT!r}, in nats", ""]
    lines.append("character   whole text at once   one at a time, with the cache")
    for place, token in enumerate(ids[0, 1:].tolist()):
        a, b = float(whole[place, token]), float(cached[place, token])
        lines.append(f"{run.decode(token):<9}{a:>21.3f}{b:>33.3f}")
    targets = ids[0, 1:, None]
    means = [float(table.gather(1, targets).mean()) for table in (whole, cached)]
    lines.append(f"{'mean':<9}{means[0]:>21.3f}{means[1]:>33.3f}")
    lines.append(f"\na text, with the cache:\n\n{run.write(temperature=0.8)}")
    model.can_cache = False
    lines.append(f"\nthe same seed, without the cache:\n\n{run.write(temperature=0.8)}")
    model.can_cache = True
    _write(folder / "with-and-without-cache.txt", lines)


def show_repeats(folder: Path, buggy: Side, right: Side) -> None:
    """Evaluate, and ask for the next character, more than once with the same weights."""
    run = buggy.whole
    trainer, model = run.trainer, run.model.eval()
    lines = ["the same weights, evaluated four times on the same text:", ""]
    for seed in range(4):
        with forked_rng("repeat", seed):
            found = compute_val_loss(
                model,
                trainer.data.validation[:20_000],
                context_length=trainer.config.model.context_length,
                tokenizer=trainer.data.tokenizer,
            )
        lines.append(f"  validation loss {found.loss:.6f}")
    lines += ["", f"and asked four times for what comes after {TEXT[:9]!r}:", ""]
    for seed in range(4):
        with forked_rng("repeat", seed):
            lines.append(f"  {_likeliest(run, TEXT[:9])}")
    _write(folder / "again-and-again.txt", lines)


def show_depth(folder: Path, buggy: Side, right: Side) -> None:
    """Train models of several depths, and write their losses."""
    lines = ["validation loss after half as many steps, by the number of layers", ""]
    lines.append(f"{'layers':>6}  {'others':>7}  {'this model':>10}")
    steps = buggy.settings["training.max_steps"] // 2
    for n in buggy.depths:
        settings = {"model.n_layers": n, "training.max_steps": steps, "training.eval_every": 0}
        losses = [side.trained(f"depth-{n}", **settings).loss for side in (right, buggy)]
        lines.append(f"{n:>6}  {losses[0]:>7.3f}  {losses[1]:>10.3f}")
    _write(folder / "depths.txt", lines)


def show_counts(folder: Path, buggy: Side, right: Side) -> None:
    """Count what is trained, in models of several widths and depths."""
    lines = ["numbers that the optimizer trains, for 99 characters and 64 positions", ""]
    lines.append(f"{'width':>5}  {'layers':>6}  {'others':>9}  {'this model':>10}")
    for width, n in ((16, 2), (32, 2), (48, 2), (64, 2), (48, 1), (48, 4), (48, 8)):
        sizes = {"model.d_model": width, "model.n_layers": n}
        models = (side.fresh(**sizes) for side in (right, buggy))
        others, this = (sum(p.numel() for p in model.parameters()) for model in models)
        lines.append(f"{width:>5}  {n:>6}  {others:>9,}  {this:>10,}")
    _write(folder / "counts.txt", lines)


def show_time(folder: Path, buggy: Side, right: Side) -> None:
    """Measure what each letter of a long text takes."""
    places = (1, 8, 16, 32, 64, 128, 192, 255)
    settings = {"model.context_length": 256, "model.d_model": 128, "model.n_layers": 4}
    times, texts = [], []
    for side in (right, buggy):
        found, text = _times(side.fresh(**settings), max(places))
        times.append(found)
        texts.append(text)
    same = "the same letter by letter" if texts[0] == texts[1] else "different"
    lines = ["milliseconds for the n-th letter of a text, 4 layers of width 128, one thread"]
    lines += ["(the least of five texts, and of three letters there)", ""]
    lines.append(f"{'n':>4}  {'others':>7}  {'this model':>10}")
    for n in places:
        others, this = (min(found[max(0, n - 2) : n + 1]) * 1000 for found in times)
        lines.append(f"{n:>4}  {others:>7.2f}  {this:>10.2f}")
    lines += ["", f"the two texts, of the same weights and the same seed: {same}"]
    _write(folder / "time.txt", lines)


def show_next(folder: Path, buggy: Side, right: Side) -> None:
    """Write what the models think comes next."""
    lines = ["what comes next, and how sure the models are of it", ""]
    for text in ("ROMEO", "ROMEO:", "the q", "I hav", "you ar", "of th", "and", "my lor", "\nAnd"):
        lines.append(f"after {text!r}")
        for side in (right, buggy):
            lines.append(f"  {side.name:<15}{_likeliest(side.whole, text)}")
    _write(folder / "next.txt", lines)


def show_company(folder: Path, buggy: Side, right: Side) -> None:
    """Score a line alone, and beside other lines in a batch."""
    others = (
        "What shall we do, my lords? ",
        "ANTONY:\nI have not seen it,\n",
        "zzzzzzzzzzzzzz" * 2,
    )
    beside: dict[str, Sequence[str]] = {
        "alone": (),
        "beside itself, three times": (TEXT,) * 3,
        **{f"beside {other!r}": (other,) for other in others},
        "beside all of these": others,
    }
    lines = [f"mean loss on the line {TEXT!r}, in nats", ""]
    width = max(map(len, beside))
    lines.append(f"{'':<{width}}  {'others':>8}  {'this model':>10}")
    for name, company in beside.items():
        found = [_loss_of_first(side.whole, (TEXT, *company)) for side in (right, buggy)]
        lines.append(f"{name:<{width}}  {found[0]:>8.4f}  {found[1]:>10.4f}")
    _write(folder / "company.txt", lines)


def show_positions(folder: Path, buggy: Side, right: Side) -> None:
    """Draw the validation loss by the place in the window."""
    figure = Figure(figsize=(8.0, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for side in (right, buggy):
        losses = _by_position(side.whole)
        axes.plot(range(len(losses)), losses, marker=".", label=side.name)
    axes.set_xlabel("place in the window")
    axes.set_ylabel("validation loss there (nats a token)")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    save_figure(figure, folder / "loss-by-place.png")


def show_start(folder: Path, buggy: Side, right: Side) -> None:
    """Measure vectors and gradients before the first step, at several depths."""
    lines = ["before the first step, by the number of layers: the size of the vectors that the"]
    lines += [
        "last block leaves (root mean square), and the norm of the first gradients",
        "",
    ]
    lines.append(f"{'':>6}  {'others':>18}  {'this model':>18}")
    lines.append(f"{'layers':>6}" + f"  {'vectors':>7}  {'gradients':>9}" * 2)
    for n in (1, 2, 4, 8, 16):
        found = [_at_the_start(side.fresh(**{"model.n_layers": n})) for side in (right, buggy)]
        told = "  ".join(f"{size:>7.3f}  {norm:>9.3f}" for size, norm in found)
        lines.append(f"{n:>6}  {told}")
    _write(folder / "at-the-start.txt", lines)


SHOWS: dict[str, Show] = {
    "losses": show_losses,
    "attention": show_attention,
    "samples": show_samples,
    "cache": show_cache,
    "repeats": show_repeats,
    "depth": show_depth,
    "counts": show_counts,
    "time": show_time,
    "next": show_next,
    "company": show_company,
    "positions": show_positions,
    "start": show_start,
}


def _write(path: Path, lines: Sequence[str]) -> None:
    files.write_text(path, "\n".join(lines) + "\n")


def _likeliest(run: Trained, text: str) -> str:
    """Return the four characters that a model thinks most likely after a text."""
    with torch.no_grad():
        chances = run.model.eval()(torch.tensor([run.encode(text)]))[0, -1].softmax(-1)
    best = chances.topk(4)
    pairs = zip(best.values.tolist(), best.indices.tolist(), strict=True)
    return "   ".join(f"{run.decode(i)} {p:.1%}" for p, i in pairs)


def _loss_of_first(run: Trained, texts: Sequence[str]) -> float:
    """Return the mean loss on the first of some texts of one length that share a batch."""
    ids = torch.tensor([run.encode(text) for text in texts])
    with torch.no_grad():
        logits = run.model.eval()(ids[:, :-1])
    return float(compute_loss(logits[:1], ids[:1, 1:]))


def _by_position(run: Trained) -> list[float]:
    """Return the mean validation loss at each place of a window."""
    context = run.trainer.config.model.context_length
    total, n_windows = torch.zeros(context), 0
    with torch.no_grad():
        for x, y in evaluation_batches(run.trainer.data.validation, context, 32):
            if x.shape[1] == context:
                chances = run.model.eval()(x).log_softmax(-1)  # (B, T, V)
                total -= chances.gather(-1, y[..., None])[..., 0].sum(0)
                n_windows += len(x)
    return (total / n_windows).tolist()


def _times(model: Transformer, n: int) -> tuple[list[float], list[int]]:
    """Return the least seconds of five times for each of n letters, and the letters."""
    prompt = torch.randint(0, 99, (1,), generator=generator("time")).tolist()
    best = [float("inf")] * n
    letters: list[int] = []
    for _ in range(5):
        letters, begun = [], time.perf_counter()
        sampling = SamplingConfig(max_new_tokens=n)
        for place, ids in enumerate(generate_tokens(model, prompt, sampling)):
            now = time.perf_counter()
            best[place], begun = min(best[place], now - begun), now
            letters.append(int(ids[0]))
    return best, letters


def _at_the_start(model: Transformer) -> tuple[float, float]:
    """Return the size of the last vectors, and the norm of the first gradients."""
    config = model.config
    size = (16, config.context_length + 1)
    ids = torch.randint(0, config.vocab_size, size, generator=generator("at the start"))
    with torch.no_grad():
        vectors = model.residual_stream(ids[:, :-1])
    compute_loss(model(ids[:, :-1]), ids[:, 1:]).backward()
    gradients: list[Tensor] = [p.grad for p in model.parameters() if p.grad is not None]
    return float(vectors.square().mean().sqrt()), float(torch.nn.utils.get_total_norm(gradients))
