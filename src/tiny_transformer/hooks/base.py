"""What a hook is: an observer, which watches, or an update hook, which changes updates.

Notable: an observer cannot change the run. It is handed detached copies, without
gradients and with a generator of its own, and what it tries to change is an error that
names it. Steps are counted as in the log: update 1 is the first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from jaxtyping import Float, Int
from torch import Tensor

Metrics = Mapping[str, float]


class Hook:
    """One hook of a run.

    Its settings are the arguments of its `__init__` (most simply: make it a dataclass),
    and those named in `common_settings`, which every hook of its kind has.

    Attributes:
        label: how it is called in the log and in messages; set when it is built.
        each_rank: whether it runs on each of several processes, or on the first alone. What
            it returns is logged from the first either way.
    """

    __pydantic_config__ = {"extra": "forbid", "arbitrary_types_allowed": True}  # noqa: RUF012
    common_settings: ClassVar[tuple[str, ...]] = ()
    each_rank: ClassVar[bool] = False
    label: str = ""

    def state_dict(self) -> dict[str, Any]:
        """Return what must survive a stop: tensors, and values that JSON can hold."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned when the checkpoint was saved."""

    def close(self) -> None:
        """Let go of what the hook holds open; called once, also after an exception."""


@dataclass(frozen=True)
class Gradient:
    """Whose gradient an update hook is given.

    Attributes:
        name: the parameter's, for instance `blocks.0.mlp.up_proj.weight`.
        layer: index of its block; None outside the blocks.
        n_layers: number of blocks.
        step: the update that is being made, from 1.
        seed: the run's.
        copy_weight: returns a copy of the parameter, as it is before the update.
    """

    name: str
    layer: int | None
    n_layers: int
    step: int
    seed: int
    copy_weight: Callable[[], Tensor] = field(repr=False)

    @cached_property
    def weight(self) -> Tensor:
        """The parameter before the update: a copy, made when it is first looked at."""
        return self.copy_weight()


class UpdateHook(Hook):
    """Changes gradients after clipping, or the size of the optimizer's update.

    With several processes it runs on each, on the gradient of the whole batch, and must do
    the same there: what it draws must come from PyTorch's generator or from `at.seed`.

    Common settings:
        parameters: patterns of the parameters that it acts on, as in `fnmatch`; a pattern
            may match a whole name (`*.bias`) or a leading part of it (`blocks.0`).
        from_step: first update that it acts on.
        until_step: last update that it acts on; None is the end of the run.
    """

    common_settings = ("parameters", "from_step", "until_step")
    each_rank = True
    parameters: tuple[str, ...] = ("*",)
    from_step: int = 1
    until_step: int | None = None

    def transform(self, gradient: Float[Tensor, "*shape"], at: Gradient) -> Float[Tensor, "*shape"]:
        """Return the gradient that goes on to the next hook, and at last to the optimizer.

        Args:
            gradient: of one parameter, after clipping and the hooks before this one. It may
                be changed in place; what is kept for later must be a copy.
            at: whose, and when.
        """
        return gradient

    def learning_rate_scale(self, at: Gradient) -> float:
        """Return what the parameter's learning rate is multiplied by in this update.

        With 0 the parameter is frozen: its weights and its optimizer state stay as they
        are, bit for bit, and weight decay does not act either.
        """
        return 1.0

    def patterns(self) -> tuple[str, ...]:
        """Return all patterns that must match a parameter of the model."""
        return self.parameters


@dataclass(frozen=True)
class Event:
    """What an observer is told; what does not belong to an event is empty.

    Attributes:
        step: updates made.
        metrics: of the step or the evaluation: `loss`, `lr`, `val_loss` and so on.
        text: the sample text, with its prompt.
        path: the checkpoint's folder.
        folder: the run's folder.
        weights: parameters by name; each look makes a copy.
        gradients: after clipping, by name; each look makes a copy.
        generate: `generate(prompt, max_new_tokens=..., temperature=..., top_k=..., top_p=...,
            seed=...)` returns the text that the model writes after the prompt.
    """

    step: int
    metrics: Metrics = field(default_factory=dict)
    text: str = ""
    path: Path | None = None
    folder: Path | None = None
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    gradients: Mapping[str, Tensor] = field(default_factory=dict)
    generate: Callable[..., str] | None = None


class Observer(Hook):
    """Watches a run and never changes it. What a method returns is logged as metrics.

    Common settings:
        every: steps from one look to the next (`on_gradients` and `on_step_end`).
    """

    common_settings = ("every",)
    every: int = 50

    def on_start(self, event: Event) -> Metrics | None:
        """The run begins, or goes on."""

    def on_gradients(self, event: Event) -> Metrics | None:
        """The gradients are there: clipped, and changed by the hooks before this one."""

    def on_step_end(self, event: Event) -> Metrics | None:
        """An update was made."""

    def on_evaluation_end(self, event: Event) -> Metrics | None:
        """The validation loss is known."""

    def on_sample(self, event: Event) -> Metrics | None:
        """A sample text was written."""

    def on_checkpoint(self, event: Event) -> Metrics | None:
        """A checkpoint is safe on the disk."""

    def on_end(self, event: Event) -> Metrics | None:
        """The run reached its last step."""


EVENTS = tuple(name for name in vars(Observer) if name.startswith("on_"))


@dataclass(frozen=True)
class Site:
    """Where in the model a forward hook looks.

    Attributes:
        name: the module's path, for instance `blocks.0.attention`.
        kind: `embeddings`, `block`, `attention`, `mlp`, ..., `attention_weights`,
            `mlp_hidden`: one of those that the hook asked for.
        layer: index of the block; None outside the blocks.
    """

    name: str
    kind: str
    layer: int | None


@dataclass(frozen=True)
class Probe:
    """The forward pass that is being watched.

    Attributes:
        step: the update that follows it, from 1.
        ids: the step's first micro-batch.
        targets: the next tokens.
        unembed: final norm and output projection: the residual stream to float32 logits.
    """

    step: int
    ids: Int[Tensor, "B T"]
    targets: Int[Tensor, "B T"]
    unembed: Callable[[Float[Tensor, "B T C"]], Float[Tensor, "B T V"]]


class ForwardHook(Observer):
    """Watches activations, in a forward pass that is made for it.

    With several processes the pass takes the share of the batch that the process has.

    The pass takes the step's batch, in evaluation mode, without gradients, before the
    update: what training computes is not touched, not even by a hook with a fault.

    Common settings:
        every: steps from one look to the next.
        layers: blocks to look at; None is all of them.
        sites: what to look at: `embeddings`, `final_norm`, `lm_head`; inside each block
            `block` (its output, the residual stream), or a module of it such as
            `attention`, `mlp`, `norm1`, `mlp.up_proj`; `attention_weights` (B, H, T, T)
            and `mlp_hidden` (B, T, F), the input of the MLP's last projection.
    """

    common_settings = ("every", "layers", "sites")
    layers: tuple[int, ...] | None = None
    sites: tuple[str, ...] = ("block",)

    def observe(self, site: Site, output: Tensor, probe: Probe) -> Metrics | None:
        """Look at one output, a detached copy, and return what is to be logged.

        The site's name is put before the names of the metrics: `mean` is logged as
        `blocks.0/mean`.

        Args:
            site: whose output.
            output: of the module; `(B, T, C)` for most.
            probe: the forward pass that it belongs to.
        """
        raise NotImplementedError
