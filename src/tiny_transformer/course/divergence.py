"""Where somebody's parts first part from the reference: the same weights, the same batch.

Both models are tiny, with axes of unequal sizes, so that each axis can be named and no two
can be swapped unseen. Every stage asks more than the one before: the same parameters; the
same numbers in evaluation, with dropout configured and therefore off; with a cache; in
training without dropout; the same gradients; and dropout where the reference has it.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from tiny_transformer.config import ModelConfig
from tiny_transformer.course.comparison import ROUNDING, Comparison, Divergence, is_wrong
from tiny_transformer.course.dropped import compare_dropout
from tiny_transformer.course.first_tensor import tell_first
from tiny_transformer.course.gradients import first_gradient, gradients_of
from tiny_transformer.course.graft import WHOLE
from tiny_transformer.course.naming import Axes
from tiny_transformer.course.probes import (
    SIZES,
    CodeError,
    code_may_raise,
    give_weights,
    probe_config,
    probe_ids,
    source_files,
)
from tiny_transformer.course.trace import CLOSE, close, inputs_watched, share_of_largest, traced
from tiny_transformer.model.kv_cache import KVCache
from tiny_transformer.model.parts import Parts
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.runtime.random_state import forked_rng
from tiny_transformer.training.whole_model import build_model
from tiny_transformer.training.written_parts import WrittenParts

_WHEN = {
    "evaluation": "in evaluation",
    "cache": "when past tokens come from a cache",
    "training": "in training mode, without dropout",
}
_IN_FLOAT64 = 1e-6  # tables of positions are float32, as they are in the reference


def compare_each(parts: WrittenParts, config: ModelConfig) -> Iterator[Comparison]:
    """Compare each part that is theirs alone among the reference's, then all together.

    Args:
        parts: as `workspace_parts` gives them.
        config: of the model that they are for.

    Yields:
        One comparison a part; and, where several are right alone, one of them together.
    """
    right = []
    for part in parts.taken:
        alone = _among_the_reference(parts, config, [part])
        comparison = compare(alone, config, (part,))
        if comparison.same:
            right.append(part)
        yield comparison
    if len(right) > 1:
        together = _among_the_reference(parts, config, right)
        yield compare(together, config, tuple(right))


def _among_the_reference(parts: WrittenParts, config: ModelConfig, names: Sequence[str]) -> Parts:
    """Return the parts of those names, with the reference's for all others."""
    chosen = {name: getattr(parts, name) for name in names}
    whole = chosen.pop(WHOLE, None)
    base = Parts.for_config(config, **chosen)
    return base if whole is None else WrittenParts(**vars(base), model=whole)


def compare(parts: Parts, config: ModelConfig, names: Sequence[str]) -> Comparison:
    """Compare a model of `parts` with the reference.

    Args:
        parts: classes, of which those of `names` are not the reference's.
        config: of the model that they are for; a tiny one of its kind is built.
        names: parts to look at.
    """
    return _Pair(parts, config, tuple(names)).compare()


class _Pair:
    """The reference and a model of theirs, with the same weights."""

    def __init__(self, parts: Parts, config: ModelConfig, names: tuple[str, ...]) -> None:
        self.parts, self.names = parts, names
        self.config = probe_config(config)
        self.files = source_files(parts, names)
        self.axes = Axes.of(self.config, SIZES["B"], SIZES["T"])
        self.ids = probe_ids(self.config)

    def compare(self) -> Comparison:
        try:
            divergence, rounding = self._stages()
        except CodeError as error:
            divergence, rounding = Divergence("building", str(error)), math.inf
        return Comparison(self.names, divergence, rounding)

    def _stages(self) -> tuple[Divergence | None, float]:
        with code_may_raise("is built", self.files):
            mine = build_model(self.config, self.parts)
        reference = Transformer(dataclasses.replace(self.config, backend="explicit"))
        found = self._parameters(mine, reference)
        if found is None:
            give_weights(mine, reference)
            found = self._forward(mine, reference, "evaluation")
        if is_wrong(found):
            return found, math.inf
        if mine.can_cache and reference.can_cache:
            found = self._forward(mine, reference, "cache")
        rounding = self._rounding(mine)
        if not is_wrong(found):
            without = dataclasses.replace(self.config, dropout=0.0)
            mine = build_model(without, self.parts)
            reference = Transformer(dataclasses.replace(without, backend="explicit"))
            give_weights(mine, reference)
            found = self._forward(mine, reference, "training")
            found = found if is_wrong(found) else self._gradients(mine, reference)
        return found if is_wrong(found) else self._dropout(), rounding

    # Each stage

    def _parameters(self, mine: nn.Module, reference: nn.Module) -> Divergence | None:
        got = {name: tuple(p.shape) for name, p in mine.named_parameters()}
        wanted = {name: tuple(p.shape) for name, p in reference.named_parameters()}
        if got == wanted:
            return None
        missing = [name for name in wanted if name not in got]
        surplus = [name for name in got if name not in wanted]
        other = [name for name in wanted if name in got and got[name] != wanted[name]]
        details = [
            *(f"missing: {name} {self.axes.shape(wanted[name])}" for name in missing[:4]),
            *(f"too many: {name} {self.axes.shape(got[name])}" for name in surplus[:4]),
            *(
                f"other shape: {name} is {self.axes.shape(got[name])} and should be "
                f"{self.axes.shape(wanted[name])}"
                for name in other[:4]
            ),
            "Names and shapes must agree, or weights cannot be loaded across.",
        ]
        return Divergence("parameters", "Its parameters are not the reference's.", tuple(details))

    def _forward(self, mine: Transformer, reference: Transformer, stage: str) -> Divergence | None:
        """Run both on one batch; where the logits differ, look at every operation."""
        mine.train(stage == "training")
        reference.train(stage == "training")
        what = {"cache": "runs with a cache", "training": "trains"}.get(stage, "is evaluated")
        wanted = self._logits(reference, stage)
        with code_may_raise(what, self.files), inputs_watched(mine) as written:
            got = self._logits(mine, stage)
        same = got.shape == wanted.shape and got.dtype == wanted.dtype
        if same and close(got, wanted):
            return self._written(written[0], stage) if written else None
        return self._in_float64(mine, reference, stage, same=same) or self._first(
            mine, reference, stage, CLOSE
        )

    def _logits(self, model: Transformer, stage: str, seed: int = 0) -> Tensor:
        T, past = SIZES["T"], SIZES["past"]
        with torch.no_grad(), forked_rng("compare", seed):
            if stage == "cache":
                cache = KVCache(self.config, SIZES["B"], dtype=model.lm_head.weight.dtype)
                model(self.ids[:, :past], cache)
                return model(self.ids[:, past : past + T], cache)
            return model(self.ids[:, :T])

    def _in_float64(
        self, mine: Transformer, reference: Transformer, stage: str, *, same: bool
    ) -> Divergence | None:
        """Look closely, where what rounding does and what is wrong cannot be mistaken.

        Returns:
            None where their code does not run in float64.
        """
        mine, reference = copy.deepcopy(mine).double(), copy.deepcopy(reference).double()
        try:
            got, wanted = self._logits(mine, stage), self._logits(reference, stage)
        except (Exception, SystemExit):
            return None
        if got.dtype != torch.float64:
            return None
        if same and close(got, wanted, _IN_FLOAT64):
            return ROUNDING
        return self._first(mine, reference, stage, _IN_FLOAT64)

    def _first(
        self, mine: Transformer, reference: Transformer, stage: str, tolerance: float
    ) -> Divergence:
        """Trace both models, and name the first tensor that differs."""
        with traced(reference) as wanted:
            self._logits(reference, stage)
        with traced(mine, self.files) as got:
            self._logits(mine, stage)
        axes = self.axes.of_stage(stage)
        details = tell_first(got.records, wanted.records, axes, tolerance)
        if not torch.equal(self._logits(mine, stage), self._logits(mine, stage, seed=1)):
            draws = "evaluation" if stage == "cache" else stage
            details.append(
                f"it draws random numbers in {draws}, where the reference does not: is dropout on, "
                "whatever self.training says?"
            )
        return Divergence(
            stage, f"Its numbers are not the reference's {_WHEN[stage]}.", tuple(details)
        )

    def _gradients(self, mine: Transformer, reference: Transformer) -> Divergence | None:
        """Compare gradients, from the loss backwards; in float64 where they differ."""
        T = SIZES["T"]
        x, y = self.ids[:, :T], self.ids[:, 1 : T + 1]
        wanted = gradients_of(reference, x, y)
        with code_may_raise("is trained (the backward pass)", self.files):
            got = gradients_of(mine, x, y)
        found = first_gradient(got, wanted, 10 * CLOSE, self.axes)
        if found is None:
            return None
        mine, reference = copy.deepcopy(mine).double(), copy.deepcopy(reference).double()
        try:
            got, wanted = gradients_of(mine, x, y), gradients_of(reference, x, y)
        except (Exception, SystemExit):
            return found
        return first_gradient(got, wanted, _IN_FLOAT64, self.axes)

    def _dropout(self) -> Divergence | None:
        mine, reference = build_model(self.config, self.parts), Transformer(self.config)
        give_weights(mine, reference)
        return compare_dropout(mine, reference, self.names, self.config, self.files)

    # What they share

    def _rounding(self, mine: Transformer) -> float:
        """Return how far the logits are from those of the reference with the same backend."""
        reference = Transformer(self.config).eval()
        give_weights(mine, reference)
        with torch.no_grad():
            ids = self.ids[:, : SIZES["T"]]
            got, wanted = mine.eval()(ids), reference(ids)
        return 0.0 if torch.equal(got, wanted) else share_of_largest(got, wanted)

    def _written(self, path: str, stage: str) -> Divergence:
        return Divergence(
            stage,
            f"{path or 'the model'} changes its input in place.",
            (
                "A caller keeps that tensor for the residual and for the backward pass. Operations "
                "whose name ends in an underscore, += and assignments to slices write into it.",
            ),
        )
