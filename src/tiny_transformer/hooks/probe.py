"""One forward pass that is watched: what each forward hook asked to see, as copies."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from tiny_transformer.hooks.base import ForwardHook, Hook, Probe, Site
from tiny_transformer.hooks.faults import blame, files_of
from tiny_transformer.hooks.patterns import layer_of
from tiny_transformer.runtime.errors import ConfigError, HookError, suggest

_LAST_PROJECTION = "mlp.down_proj"
ATTENTION_WEIGHTS, MLP_HIDDEN = "attention_weights", "mlp_hidden"


def kind_of(name: str) -> str:
    """Return what a module is called inside its block: `blocks.2.mlp.up_proj` is `mlp.up_proj`."""
    layer = layer_of(name)
    if layer is None:
        return name
    return name.removeprefix(f"blocks.{layer}").removeprefix(".") or "block"


def _places(model: nn.Module) -> dict[str, dict[str, nn.Module]]:
    """Return `{kind: {module name: module}}`, the two derived kinds included."""
    places: dict[str, dict[str, nn.Module]] = {}
    for name, module in model.named_modules():
        if name and name != "blocks":
            places.setdefault(kind_of(name), {})[name] = module
    attention = places.get("attention", {})
    if attention and all(hasattr(m, "forward_with_weights") for m in attention.values()):
        places[ATTENTION_WEIGHTS] = attention
    if _LAST_PROJECTION in places:
        places[MLP_HIDDEN] = places[_LAST_PROJECTION]
    return places


def check_sites(hook: ForwardHook, model: nn.Module) -> None:
    """Raise `ConfigError` if a hook asks for a site or a layer that the model lacks."""
    places = _places(model)
    for site in hook.sites:
        if site not in places:
            raise ConfigError(
                f"The hook {hook.label}: this model has no site {site!r}. {suggest(site, places)}"
            )
    n_layers = len(places.get("block", {}))
    for layer in hook.layers or ():
        if not 0 <= layer < n_layers:
            raise ConfigError(
                f"The hook {hook.label}: there is no layer {layer}; the model has layers 0 to "
                f"{n_layers - 1}."
            )


def watch(
    model: Any,
    hooks: Sequence[ForwardHook],
    step: int,
    ids: Tensor,
    targets: Tensor,
    report: Callable[[Hook, int, Any], None],
) -> None:
    """Run one forward pass in evaluation mode, and show each hook what it asked for.

    Args:
        model: the transformer; it stays in evaluation mode, and no torch hook stays on it.
        hooks: those that are due.
        step: the update that follows, from 1.
        ids: `(B, T)`.
        targets: `(B, T)`.
        report: told `(hook, step, metrics)` when the pass is over.
    """
    found: list[dict[str, Any]] = [{} for _ in hooks]
    handles: list[Any] = []
    looking = False  # a look may run modules of its own, which are not part of the pass

    def listen(index: int, hook: ForwardHook, site: Site, module: nn.Module) -> None:
        def see(module: Any, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
            nonlocal looking
            if looking:
                return
            looking = True
            if site.kind == ATTENTION_WEIGHTS:
                output = module.forward_with_weights(*inputs, **named)[1]
            elif site.kind == MLP_HIDDEN:
                output = inputs[0]
            found[index].update(_show(hook, site, output, probe, model))
            looking = False

        handles.append(module.register_forward_hook(see, with_kwargs=True))

    probe = Probe(step, ids, targets, lambda x: model.lm_head(model.final_norm(x)).float())
    places = _places(model)
    try:
        for index, hook in enumerate(hooks):
            for kind in hook.sites:
                for name, module in places[kind].items():
                    layer = layer_of(name)
                    if hook.layers is None or layer is None or layer in hook.layers:
                        derived = kind in (ATTENTION_WEIGHTS, MLP_HIDDEN)
                        shown = f"blocks.{layer}.{kind}" if derived else name
                        listen(index, hook, Site(shown, kind, layer), module)
        model.eval()
        model(ids)
    finally:
        for handle in handles:
            handle.remove()
    for hook, metrics in zip(hooks, found, strict=True):
        report(hook, step, metrics)


def _show(
    hook: ForwardHook, site: Site, output: Any, probe: Probe, model: nn.Module
) -> dict[str, Any]:
    """Let a hook look at a copy; return its metrics with the site's name before theirs."""
    if not isinstance(output, Tensor):
        raise HookError(
            f"The hook {hook.label} cannot look at {site.name}: what it returns is "
            f"{type(output).__name__}, not a tensor."
        )
    copy = output.detach().clone()
    version = copy._version
    with unchanged(model, hook.label), blame(hook.label, *files_of(type(hook))):
        metrics = hook.observe(site, copy, probe)
    if copy._version != version:
        raise HookError(
            f"The hook {hook.label} changed the output of {site.name}. Forward hooks watch and "
            "never change it; an update hook changes gradients."
        )
    if metrics is None:
        return {}
    if not hasattr(metrics, "items"):
        raise HookError(
            f"The hook {hook.label} returned {type(metrics).__name__} for {site.name}. Forward "
            "hooks never change an output: return a dictionary of numbers, or nothing."
        )
    return {f"{site.name}/{name}": value for name, value in metrics.items()}


@contextlib.contextmanager
def unchanged(model: nn.Module, label: str) -> Iterator[None]:
    """Raise `HookError` if a weight or buffer of the model is written to inside the block."""
    tensors = dict(itertools.chain(model.named_parameters(), model.named_buffers()))
    before = {name: tensor._version for name, tensor in tensors.items()}
    yield
    for name, tensor in tensors.items():
        if tensor._version != before[name]:
            raise HookError(
                f"The hook {label} changed {name}. Observers watch and never change it."
            )
