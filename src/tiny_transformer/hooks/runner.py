"""The hooks of one run at work: in the order of the list, and harmless where they only watch."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tiny_transformer.hooks.base import (
    Event,
    ForwardHook,
    Gradient,
    Hook,
    Observer,
    UpdateHook,
)
from tiny_transformer.hooks.faults import blame, files_of
from tiny_transformer.hooks.patterns import layer_of, matches, matching
from tiny_transformer.hooks.probe import check_sites, unchanged, watch
from tiny_transformer.runtime.distributed import full, is_sharded, spread_like
from tiny_transformer.runtime.errors import CheckpointError, ConfigError, HookError, suggest
from tiny_transformer.runtime.random_state import forked_rng, kept_generators

Report = Callable[[str, int, Mapping[str, float]], None]


class Copies(Mapping[str, Tensor]):
    """Tensors by name; each look makes a detached copy."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors

    def __getitem__(self, name: str) -> Tensor:
        return full(self._tensors[name].detach()).clone()

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


class HookRunner:
    """Calls the hooks of a run.

    Args:
        hooks: as `build_hooks` returned them.
        model: what they watch or change.
        seed: the run's.
        first: whether this process is the first of those that train together.
        report: told `(label, step, metrics)` of what observers return.

    Raises:
        ConfigError: a hook names a layer, a site or parameters that the model lacks.
    """

    def __init__(
        self,
        hooks: Sequence[Hook],
        model: nn.Module,
        *,
        seed: int,
        first: bool = True,
        report: Report = lambda label, step, metrics: None,
    ) -> None:
        self.hooks = list(hooks)
        self.report = report
        self._model, self._seed, self._first = model, seed, first
        self._sharded = is_sharded(model)  # then all ranks must compute what one looks at
        self._parameters = dict(model.named_parameters())
        self._device = next(iter(self._parameters.values())).device
        self._n_layers = 1 + max((layer_of(n) or 0 for n in self._parameters), default=0)
        for hook in self.hooks:
            if isinstance(hook, ForwardHook):
                check_sites(hook, model)
            if isinstance(hook, UpdateHook):
                self._check_patterns(hook)

    def _check_patterns(self, hook: UpdateHook) -> None:
        names = list(self._parameters)
        for pattern in hook.patterns():
            if not any(matches(pattern, name) for name in names):
                tops = {name[: name.rfind(".")] for name in names} | set(names)
                raise ConfigError(
                    f"The hook {hook.label}: no parameter matches {pattern!r}. "
                    f"{suggest(pattern, tops)}"
                )

    def _acts(self, hook: Hook) -> bool:
        return self._first or hook.each_rank

    def before_forward(self, step: int, ids: Tensor, targets: Tensor) -> None:
        """Let forward hooks that are due at update `step` watch a pass over its batch."""
        due = [
            h
            for h in self.hooks
            if isinstance(h, ForwardHook)
            and step % h.every == 0
            and (self._acts(h) or self._sharded)
        ]
        if due:
            with self._harmless("forward", step):
                watch(self._model, due, step, ids, targets, self._report)

    def change_gradients(self, step: int) -> dict[str, float]:
        """Pass the gradients through the list of hooks; return learning-rate scales by name.

        Raises:
            HookError: a hook failed, returned what is not a gradient, or changed a weight.
        """
        scales: dict[str, float] = {}
        for hook in self.hooks:
            if isinstance(hook, UpdateHook):
                if hook.from_step <= step <= (hook.until_step or step):
                    self._transform(hook, step, scales)
            elif isinstance(hook, Observer) and step % hook.every == 0:
                gradients = {n: p.grad for n, p in self._parameters.items() if p.grad is not None}
                self._tell(hook, "on_gradients", Event(step), gradients)
        return scales

    def _transform(self, hook: UpdateHook, step: int, scales: dict[str, float]) -> None:
        weights = Copies(self._parameters)
        for name, parameter in self._parameters.items():
            if parameter.grad is None or not matching(hook.parameters, name):
                continue
            gradient = full(parameter.grad)
            look = functools.partial(weights.__getitem__, name)
            at = Gradient(name, layer_of(name), self._n_layers, step, self._seed, look)
            version = gradient._version
            with torch.no_grad(), self._forked("hook", hook.label, step, name), _blame(hook):
                changed = hook.transform(gradient, at)
                scale = hook.learning_rate_scale(at)
            if changed is not gradient or gradient._version != version:
                _check_gradient(hook, name, gradient, changed)
                # A copy: the hook may keep what it returned, or return it for another as well.
                copy = torch.empty_like(gradient).copy_(changed)
                parameter.grad = spread_like(copy, parameter.grad)
            if "weight" in vars(at) and at.weight._version > 0:
                raise HookError(
                    f"The hook {hook.label} changed the weight {name}. Update hooks change "
                    "gradients and learning rates; the optimizer changes the weights."
                )
            if not isinstance(scale, int | float) or not 0 <= scale < math.inf:
                raise HookError(
                    f"The hook {hook.label} returned {scale!r} as the learning-rate scale of "
                    f"{name}; it must be a number of at least 0."
                )
            if scale != 1:
                scales[name] = scales.get(name, 1.0) * scale

    def emit(self, name: str, event: Event) -> None:
        """Tell the observers of an event, for instance `"on_step_end"`."""
        for hook in self.hooks:
            if isinstance(hook, Observer):
                if name == "on_step_end" and event.step % hook.every:
                    continue
                self._tell(hook, name, event)

    def _tell(
        self,
        hook: Observer,
        name: str,
        event: Event,
        gradients: Mapping[str, Tensor] | None = None,
    ) -> None:
        if getattr(type(hook), name) is getattr(Observer, name):
            return  # it does not listen; nothing is copied
        weights, gradients = self._lookable(self._parameters), self._lookable(gradients or {})
        if not self._acts(hook):
            return
        event = dataclasses.replace(
            event, metrics=dict(event.metrics), weights=weights, gradients=gradients
        )
        untouched = unchanged(self._model, hook.label)
        with self._harmless(f"{hook.label} {name}", event.step), untouched, _blame(hook):
            metrics = getattr(hook, name)(event)
        self._report(hook, event.step, metrics)

    def _lookable(self, tensors: Mapping[str, Tensor]) -> Copies:
        """Return copies to look at; where they are sharded, every rank gathers all at once."""
        if self._sharded:
            tensors = {name: full(tensor.detach()) for name, tensor in tensors.items()}
        return Copies(tensors)

    @contextlib.contextmanager
    def _harmless(self, what: str, step: int) -> Iterator[None]:
        """No gradients inside; every generator and each module's mode are put back after it."""
        modes = [(module, module.training) for module in self._model.modules()]
        try:
            with torch.no_grad(), kept_generators(), self._forked("observer", what, step):
                yield
        finally:
            for module, training in modes:
                module.training = training

    def _forked(self, *parts: int | str) -> contextlib.AbstractContextManager[None]:
        return forked_rng(self._seed, *parts, device=self._device)

    def _report(self, hook: Hook, step: int, metrics: Any) -> None:
        if metrics is None:
            return
        if isinstance(metrics, Tensor):
            raise HookError(
                f"The hook {hook.label} returned a tensor. Observers watch and never change what "
                "the model computes: return a dictionary of numbers, or nothing."
            )
        try:
            numbers = {str(name): float(value) for name, value in metrics.items()}
        except (AttributeError, TypeError, ValueError):
            raise HookError(
                f"The hook {hook.label} returned {metrics!r}; observers return a dictionary of "
                "names and numbers, or nothing."
            ) from None
        if numbers:
            self.report(hook.label, step, numbers)

    def state(self) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
        """Return the hooks' state: tensors by `<index>/<key>`, and the rest as JSON values.

        Raises:
            HookError: a hook failed, or has state that cannot be kept as it is.
        """
        tensors: dict[str, Tensor] = {}
        rest: list[dict[str, Any]] = []
        for index, hook in enumerate(self.hooks):
            with _blame(hook):
                state = hook.state_dict()
            _check_state(hook, state)
            own = {key: v for key, v in state.items() if isinstance(v, Tensor)}
            # Copies: the file that they go to has no place for tensors that share memory.
            tensors |= {f"{index}/{key}": v.detach().clone() for key, v in own.items()}
            rest.append(
                {
                    "label": hook.label,
                    "state": {key: v for key, v in state.items() if key not in own},
                    "off_cpu": [key for key, v in own.items() if v.device.type != "cpu"],
                }
            )
        return tensors, rest

    def load_state(self, tensors: Mapping[str, Tensor], rest: Sequence[Mapping[str, Any]]) -> None:
        """Give each hook back what `state` returned, tensors on the device where they were.

        Raises:
            CheckpointError: the checkpoint is of other hooks.
            HookError: a hook failed.
        """
        saved, own = [entry["label"] for entry in rest], [hook.label for hook in self.hooks]
        if saved != own:
            raise CheckpointError(
                f"The checkpoint has the state of the hooks {saved}; the config has {own}."
            )
        for index, (hook, entry) in enumerate(zip(self.hooks, rest, strict=True)):
            state = copy.deepcopy(dict(entry["state"]))
            for name, tensor in tensors.items():
                owner, _, key = name.partition("/")
                if owner == str(index):
                    device = self._device if key in entry["off_cpu"] else tensor.device
                    state[key] = tensor.to(device, copy=True)
            with _blame(hook):
                hook.load_state_dict(state)

    def close(self) -> None:
        """Close every hook, the last first, also where one of them fails.

        Raises:
            HookError: of the first that failed, unless another error is on its way already.
        """
        failures: list[HookError] = []
        while self.hooks:
            hook = self.hooks.pop()
            try:
                with _blame(hook):
                    hook.close()
            except HookError as error:
                failures.append(error)
        if failures and sys.exc_info()[0] is None:
            raise failures[0]


def _blame(hook: Hook) -> contextlib.AbstractContextManager[None]:
    return blame(hook.label, *files_of(type(hook)))


def _check_gradient(hook: Hook, name: str, gradient: Tensor, changed: Any) -> None:
    if not isinstance(changed, Tensor):
        raise HookError(
            f"The hook {hook.label} returned {type(changed).__name__} for {name}; transform "
            "must return the gradient, a tensor."
        )
    wanted = (tuple(gradient.shape), gradient.dtype, gradient.device)
    if (tuple(changed.shape), changed.dtype, changed.device) != wanted:
        raise HookError(
            f"The hook {hook.label} returned a gradient of {tuple(changed.shape)}, "
            f"{changed.dtype} on {changed.device} for {name}; expected {wanted[0]}, "
            f"{wanted[1]} on {wanted[2]}."
        )
    if not bool(torch.isfinite(changed).all()):
        raise HookError(f"The hook {hook.label} returned a gradient for {name} that is not finite.")


def _check_state(hook: Hook, state: Any) -> None:
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise HookError(
            f"The hook {hook.label} has a state that is no dictionary with names: {state!r:.80}."
        )
    for key, value in state.items():
        if not isinstance(value, Tensor) and not _fits_json(value):
            raise HookError(
                f"The hook {hook.label} keeps {key!r} in its state, a {type(value).__name__} "
                "that would not come back as it is. A state holds tensors, and numbers, texts, "
                "None, lists and dictionaries of these with texts as keys."
            )


def _fits_json(value: Any) -> bool:
    """Return whether JSON gives a value back as it was: no tuples, no numbers as keys."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and _fits_json(inner) for key, inner in value.items())
    if isinstance(value, list):
        return all(map(_fits_json, value))
    return value is None or isinstance(value, bool | int | float | str)
