"""Whether a bug is fixed and all else unchanged: a hunted model beside the reference.

It runs learners' code, so it runs in the worker's process (see `grading`). What fails is
told as a symptom: where it comes from is the hunt.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tiny_transformer.config import ModelConfig
from tiny_transformer.course.answers import borrowed_import
from tiny_transformer.course.content import STUBS
from tiny_transformer.course.cost import reads_ahead
from tiny_transformer.course.graft import where_of
from tiny_transformer.course.hunt import Hunt
from tiny_transformer.course.trace import share_of_largest
from tiny_transformer.course.verdict import Verdict
from tiny_transformer.model.kv_cache import KVCache
from tiny_transformer.model.loss import compute_loss
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.runtime.random_state import forked_rng, generator

_CLOSE = 1e-6
_ROUNDING = 1e-4  # between two ways to compute one thing
_B, _T, _PAST = 3, 5, 4
_BASE = ModelConfig(
    n_layers=2, d_model=16, n_heads=2, context_length=12, vocab_size=23, dropout=0.25
)
CONFIGS: tuple[ModelConfig, ...] = (
    dataclasses.replace(_BASE, backend="explicit"),
    _BASE,
    dataclasses.replace(_BASE, position="rotary", norm="rms_norm", activation="swiglu",
                        n_heads=4, n_kv_heads=2, qk_norm=True, bias=False),
    dataclasses.replace(_BASE, position="rotary", norm="rms_norm", activation="relu2",
                        n_heads=4, n_kv_heads=1, qk_norm=True, backend="explicit"),
    dataclasses.replace(_BASE, position="sinusoidal", scale_embeddings=True, tie_weights=False,
                        token_window=3, activation="gelu_tanh", backend="explicit"),
    dataclasses.replace(_BASE, position="none", residual_init="zero", activation="relu"),
)  # fmt: skip
"""Every setting of the model in one value or another: what is not the bug must stay."""


class _NotYetError(Exception):
    """A promise that does not hold; the text is the symptom."""


class _Models:
    """Both models of a config, with the same weights."""

    def __init__(self, config: ModelConfig, theirs: Any) -> None:
        self.config, self._theirs = config, theirs
        self.mine = theirs.Transformer(config, seed=3)
        self.reference = Transformer(config, seed=3)
        self._are_equal = False

    def with_same_weights(self) -> _Models:
        if self._are_equal:
            return self
        self._are_equal = True
        with torch.no_grad():
            mine = dict(self.mine.named_parameters())
            for name, parameter in self.reference.named_parameters():
                draws = torch.randn(parameter.shape, generator=generator("hunt", name)) * 0.4
                parameter.copy_(draws + (1.0 if "norm" in name and "weight" in name else 0.0))
                mine[name].copy_(parameter)
        return self


def examine_hunt(hunt: Hunt, folder: Path) -> Verdict:
    """Check the files of a hunt that are installed as `my_transformer`."""
    begun = time.perf_counter()
    verdict = _examine(hunt, folder)
    return dataclasses.replace(verdict, seconds=time.perf_counter() - begun)


def _examine(hunt: Hunt, folder: Path) -> Verdict:
    try:
        file, name = borrowed_import(folder / "transformer.py")
        if name:
            text = f"Your {file} imports {name}, which has no bug: mend your own files."
            return Verdict(hunt.name, "not theirs", message=text)
        theirs = importlib.import_module(f"{STUBS}.transformer")
        loss = importlib.import_module(f"{STUBS}.loss")
        parts = importlib.import_module(f"{STUBS}.parts")
    except FileNotFoundError:
        return Verdict(hunt.name, "missing", message=f"There is no transformer.py in {folder}.")
    except (Exception, SystemExit) as error:
        return _raised(hunt, error, folder, "can be imported", 0)
    n_passed, failed = 0, None
    lines = []
    for text, holds in _promises(theirs, loss, parts):
        verdict = _ask(hunt, folder, text, holds, len(lines))
        lines.append(f"{'✓' if verdict is None else '✗'} {text}")
        n_passed += verdict is None
        failed = failed or verdict
        if verdict is not None and verdict.status == "raised":
            break
    if failed is None:
        return Verdict(hunt.name, "passed", n_passed, len(lines))
    return dataclasses.replace(
        failed, n_passed=n_passed, n_tests=len(lines), picture="\n".join(lines)
    )


def _ask(
    hunt: Hunt, folder: Path, text: str, holds: Callable[[], None], n_before: int
) -> Verdict | None:
    try:
        holds()
    except _NotYetError as error:
        return Verdict(hunt.name, "wrong", test=text, message=str(error))
    except (Exception, SystemExit) as error:
        return _raised(hunt, error, folder, text, n_before)
    return None


def _raised(hunt: Hunt, error: BaseException, folder: Path, text: str, n: int) -> Verdict:
    where = where_of(error, folder).strip(" ()")
    message = f"{type(error).__name__}: {error}"
    return Verdict(hunt.name, "raised", n, n + 1, test=text, message=message, where=where)


def _promises(theirs: Any, loss: Any, parts: Any) -> Iterator[tuple[str, Callable[[], None]]]:
    """Yield what must hold, in words, and the function that asks for it."""
    each: tuple[tuple[str, Callable[[_Models], None]], ...] = (
        ("its parameters have the reference's names, shapes and first values", _same_parameters),
        ("evaluating twice gives the same numbers", _repeats),
        ("a prediction does not depend on the other texts of a batch", _goes_alone),
        ("a prediction does not depend on later tokens", _looks_back_only),
        (
            "it keeps what it has read, and predicts with it what it predicts without",
            functools.partial(_caches, parts=parts),
        ),
        ("in evaluation it computes what the reference computes", _evaluates),
        (
            "in training it computes what the reference computes, dropout and gradients included",
            functools.partial(_trains, loss=loss),
        ),
    )
    built: list[_Models] = []  # by the first promise, which looks at the first weights

    def ask_all(ask: Callable[[_Models], None]) -> None:
        if not built:
            built.extend(_Models(config, theirs) for config in CONFIGS)
        for models in built:
            ask(models)

    for text, ask in each:
        yield text, functools.partial(ask_all, ask)


def _ids(config: ModelConfig) -> Tensor:
    size = (_B, config.context_length)
    return torch.randint(0, config.vocab_size, size, generator=generator("hunt", "ids"))


def _of(config: ModelConfig) -> str:
    """Name the settings of a probe that are not the defaults: a bug may show in some alone."""
    default = ModelConfig()
    names = ("position", "norm", "activation", "n_kv_heads", "tie_weights", "token_window")
    values = [(name, getattr(config, name)) for name in (*names, "backend")]
    told = ", ".join(f"{n} {v}" for n, v in values if v != getattr(default, n))
    return f" (seen with {told})" if told else ""


def _same_parameters(models: _Models) -> None:
    got = dict(models.mine.named_parameters())
    wanted = dict(models.reference.named_parameters())
    n_got, n_wanted = (sum(p.numel() for p in each.values()) for each in (got, wanted))
    if n_got != n_wanted:
        raise _NotYetError(
            f"It trains {n_got:,} numbers, and the reference {n_wanted:,}{_of(models.config)}."
        )
    if list(got) != list(wanted):
        odd = sorted(got.keys() ^ wanted.keys())
        told = f"{odd[0]} is in one of them only" if odd else "they come in another order"
        raise _NotYetError(f"The parameters are not the reference's: {told}{_of(models.config)}.")
    for name, parameter in wanted.items():
        if got[name].shape != parameter.shape:
            raise _NotYetError(f"{name} has the shape {tuple(got[name].shape)}.")
    # A right fix may round otherwise.
    odd = [name for name in wanted if share_of_largest(got[name], wanted[name]) > _CLOSE]
    if odd:
        raise _NotYetError(
            f"Before the first step, {len(odd)} of its {len(wanted)} parameters have other values "
            f"than the reference's{_of(models.config)}."
        )


def _looks_back_only(models: _Models) -> None:
    if reads_ahead(models.with_same_weights().mine):
        raise _NotYetError(
            f"What it predicts for a token changes with the tokens after it{_of(models.config)}."
        )


def _repeats(models: _Models) -> None:
    models.with_same_weights().mine.eval()
    ids = _ids(models.config)
    with torch.no_grad(), forked_rng("hunt"):
        if not torch.equal(models.mine(ids), models.mine(ids)):
            raise _NotYetError(
                "The same text, evaluated twice by the same weights, has two losses"
                f"{_of(models.config)}."
            )


def _goes_alone(models: _Models) -> None:
    mine = models.with_same_weights().mine.eval()
    ids = _ids(models.config)
    with torch.no_grad(), forked_rng("hunt"):
        together, alone = mine(ids)[:1], mine(ids[:1])
    if share_of_largest(alone, together) > _ROUNDING:
        raise _NotYetError(
            "What it predicts for a text changes with the other texts in the batch"
            f"{_of(models.config)}."
        )


def _caches(models: _Models, *, parts: Any) -> None:
    if models.mine.can_cache != models.reference.can_cache:
        raise _NotYetError(
            "Nothing is kept while it writes: for every new token the whole text is read again."
        )
    if parts.Parts(attention=object).can_cache():  # a part that lists nothing that it can
        raise _NotYetError("An attention that cannot keep keys and values would be asked to.")
    mine = models.with_same_weights().mine.eval()
    ids = _ids(models.config)[:, : _PAST + _T]
    with torch.no_grad(), forked_rng("hunt"):
        whole = mine(ids)
        cache = KVCache(models.config, _B)
        pieces = [mine(ids[:, :_PAST], cache)]
        pieces += [mine(ids[:, i : i + 1], cache) for i in range(_PAST, _PAST + _T)]
    gap = share_of_largest(torch.cat(pieces, dim=1), whole)
    if gap > _ROUNDING:
        raise _NotYetError(
            "With a cache, token by token, it predicts something else than over the whole text "
            f"at once{_of(models.config)}."
        )


def _evaluates(models: _Models) -> None:
    models.with_same_weights()
    ids = _ids(models.config)
    with torch.no_grad(), forked_rng("hunt"):
        got, wanted = models.mine.eval()(ids), models.reference.eval()(ids)
    _equal(got, wanted, f"In evaluation, its logits are not the reference's{_of(models.config)}")


def _trains(models: _Models, *, loss: Any) -> None:
    models.with_same_weights()
    ids = _ids(models.config)
    results = []
    for model, compute in (
        (models.mine, loss.compute_loss),
        (models.reference, compute_loss),
    ):
        with forked_rng("hunt"):
            value = compute(model.train()(ids[:, :-1]), ids[:, 1:])
        value.backward()
        results.append((value.detach(), {n: p.grad for n, p in model.named_parameters()}))
    (got, ours), (wanted, theirs) = results
    where = _of(models.config)
    what = f"In training, with the same draws of dropout, its %s not the reference's{where}"
    _equal(got, wanted, what % "loss is")
    for name, gradient in theirs.items():
        mine = ours.get(name)
        if (mine is None) != (gradient is None):
            raise _NotYetError(f"{name} has no gradient in one of them{_of(models.config)}.")
        if mine is not None and gradient is not None:
            _equal(mine, gradient, what % f"gradient of {name} is", 1e-4)


def _equal(got: Tensor, wanted: Tensor, what: str, tolerance: float = _CLOSE) -> None:
    if got.shape != wanted.shape:
        raise _NotYetError(f"{what}: another shape.")
    gap = share_of_largest(got, wanted)
    if not gap <= tolerance:
        raise _NotYetError(f"{what}; they differ by {gap:.1e} of the largest.")
