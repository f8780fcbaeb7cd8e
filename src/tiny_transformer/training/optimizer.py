"""AdamW for everything, or Muon for the blocks' matrices and AdamW for the rest."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tiny_transformer.config import OptimizerConfig
from tiny_transformer.runtime.distributed import Ranks, spread_like
from tiny_transformer.runtime.errors import CheckpointError
from tiny_transformer.training.distributed import orthogonalize_share
from tiny_transformer.training.muon import Muon
from tiny_transformer.training.uncompiled import AdamW


class Optimizer:
    """PyTorch's optimizers over a model, with one learning-rate scale and named state.

    Args:
        model: its parameters are split by shape and name: matrices decay, vectors do
            not; with Muon the two-dimensional parameters of `blocks` go to it.
        config: the settings.
        ranks: the processes that update the model together.

    AdamW: Loshchilov and Hutter 2019, "Decoupled Weight Decay Regularization". Muon:
    `training.muon`.
    """

    def __init__(
        self, model: nn.Module, config: OptimizerConfig, ranks: Ranks | None = None
    ) -> None:
        self._names: dict[Tensor, str] = {
            parameter: name for name, parameter in model.named_parameters()
        }
        muon, matrices, vectors = [], [], []
        for parameter, name in self._names.items():
            if config.name == "muon" and parameter.ndim == 2 and name.startswith("blocks."):
                muon.append(parameter)
            elif parameter.ndim >= 2:
                matrices.append(parameter)
            else:
                vectors.append(parameter)
        groups = [
            {"params": matrices, "weight_decay": config.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        self._optimizers: list[torch.optim.Optimizer] = [
            AdamW(
                [group for group in groups if group["params"]],
                lr=config.learning_rate,
                betas=(config.beta1, config.beta2),
                eps=config.eps,
                fused=True,
            )
        ]
        if muon:
            self._optimizers.append(
                Muon(
                    muon,
                    lr=config.muon_learning_rate,
                    momentum=config.muon_momentum,
                    weight_decay=config.weight_decay,
                    orthogonal=functools.partial(orthogonalize_share, ranks=ranks or Ranks()),
                )
            )
        self.learning_rate = config.learning_rate
        self._peaks = [[group["lr"] for group in o.param_groups] for o in self._optimizers]

    def step(self, scale: float = 1.0, by_name: Mapping[str, float] | None = None) -> None:
        """Update every parameter from its gradient, at `scale` times the learning rates.

        Args:
            scale: for all parameters.
            by_name: further factors, for the parameters that it names; with 0 a parameter
                and its state stay as they are, bit for bit.
        """
        for optimizer, peaks in zip(self._optimizers, self._peaks, strict=True):
            groups = optimizer.param_groups
            for group, peak in zip(groups, peaks, strict=True):
                group["lr"] = peak * scale
            if by_name:
                optimizer.param_groups = self._by_factor(groups, by_name)
            try:
                optimizer.step()
            finally:
                optimizer.param_groups = groups

    def _by_factor(
        self, groups: list[dict[str, Any]], by_name: Mapping[str, float]
    ) -> list[dict[str, Any]]:
        """Return the groups, each cut into those of equal factors; those of 0 left out."""
        cut = []
        for group in groups:
            parts: dict[float, list[Tensor]] = {}
            for parameter in group["params"]:
                parts.setdefault(by_name.get(self._names[parameter], 1.0), []).append(parameter)
            cut += [
                {**group, "params": parameters, "lr": group["lr"] * factor}
                for factor, parameters in parts.items()
                if factor != 0
            ]
        return cut

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=True)

    def state_tensors(self) -> dict[str, Tensor]:
        """Return all state as `{"<parameter>/<key>": tensor}`; empty before the first step."""
        return {
            f"{self._names[parameter]}/{key}": value
            for optimizer in self._optimizers
            for parameter, state in optimizer.state.items()
            for key, value in state.items()
        }

    def blank_state(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Return zeros in the place of the state tensors of these names, sharded as they will be.

        Names that this optimizer does not keep are left out, to be told by
        `load_state_tensors`.
        """
        kept = {
            f"{self._names[parameter]}/{key}": (parameter, key)
            for optimizer in self._optimizers
            for group in optimizer.param_groups
            for parameter in group["params"]
            for key in _STATE_KEYS[type(optimizer)]
        }
        return {
            name: torch.zeros(()) if kept[name][1] == "step" else torch.zeros_like(kept[name][0])
            for name in names
            if name in kept
        }

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Set the state to what `state_tensors` returned.

        Raises:
            CheckpointError: the tensors belong to other parameters, other shapes or another
                optimizer.
        """
        by_name: dict[str, dict[str, Tensor]] = {}
        for full_name, value in tensors.items():
            name, _, key = full_name.rpartition("/")
            by_name.setdefault(name, {})[key] = value
        unknown = by_name.keys() - set(self._names.values())
        if unknown:
            raise CheckpointError(
                f"The optimizer state is for parameters that this model does not have: "
                f"{', '.join(sorted(unknown)[:3])}."
            )
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    name = self._names[parameter]
                    state = by_name.get(name)
                    if state is None:
                        continue  # it has never had a gradient
                    _check_state(name, state, parameter, _STATE_KEYS[type(optimizer)])
                    # A copy on the parameter's device, AdamW's count of steps too: its fused
                    # form looks for it there, and updates all of them in place.
                    optimizer.state[parameter] = {
                        key: _like(value, parameter) for key, value in state.items()
                    }


_STATE_KEYS: dict[type[torch.optim.Optimizer], set[str]] = {
    AdamW: {"step", "exp_avg", "exp_avg_sq"},
    Muon: {"momentum_buffer"},
}


def _like(value: Tensor, parameter: Tensor) -> Tensor:
    """Return a copy where the parameter is, sharded as it is; a count of steps is not."""
    copy = value.to(parameter.device, copy=True)
    return spread_like(copy, parameter) if value.ndim else copy


def _check_state(name: str, state: dict[str, Tensor], parameter: Tensor, keys: set[str]) -> None:
    if state.keys() != keys:
        raise CheckpointError(
            f"The optimizer state of {name} has {', '.join(sorted(state))}; this optimizer "
            f"keeps {', '.join(sorted(keys))}. Was the run trained with another one?"
        )
    for key, value in state.items():
        shape = () if key == "step" else tuple(parameter.shape)
        if tuple(value.shape) != shape:
            raise CheckpointError(
                f"The optimizer state {name}/{key} has shape {tuple(value.shape)}; expected "
                f"{shape}."
            )
