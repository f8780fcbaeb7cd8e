"""From settings to hooks: names are looked up, a researcher's own file is loaded.

hooks:
  - {name: activation_stats, every: 50, layers: [0, 3]}
  - {name: freeze, parameters: [embeddings], enabled: false}
  - {name: "my_hooks.py:MyHook", strength: 0.5}
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from tiny_transformer.config.loading import parse_overrides, validate
from tiny_transformer.hooks import forward_hooks, observers, update_hooks
from tiny_transformer.hooks.base import EVENTS, ForwardHook, Hook, Observer, UpdateHook
from tiny_transformer.hooks.faults import blame, files_of
from tiny_transformer.runtime.errors import ConfigError, TinyError, suggest

HOOKS: dict[str, type[Hook]] = {
    "activation_stats": forward_hooks.ActivationStats,
    "attention_entropy": forward_hooks.AttentionEntropy,
    "dead_units": forward_hooks.DeadUnits,
    "logit_lens": forward_hooks.LogitLens,
    "gradient_norms": observers.GradientNorms,
    "weight_norms": observers.WeightNorms,
    "sample_writer": observers.SampleWriter,
    "identity": update_hooks.Identity,
    "scale": update_hooks.Scale,
    "noise": update_hooks.Noise,
    "sign": update_hooks.Sign,
    "project": update_hooks.Project,
    "freeze": update_hooks.Freeze,
    "layer_learning_rate": update_hooks.LayerLearningRate,
}
"""The hooks that ship, by the name that a config gives."""

_BASES = "UpdateHook, ForwardHook and Observer"
_BEFORE_SETTING = re.compile(r"\s+(?=\w+=)")  # a value may have spaces: prompts=[a, b]


def build_hooks(settings: Sequence[Mapping[str, Any]]) -> list[Hook]:
    """Build the hooks of a config, in its order; those with `enabled: false` are left out.

    Args:
        settings: for each hook its `name`, `enabled` (true unless given) and its own settings.

    Returns:
        The hooks, each with a `label`: its name, or `name#2` for the second of a name.

    Raises:
        ConfigError: a name, a setting or a value is wrong; also of a hook that is off.
        HookError: a researcher's own file cannot be run.
    """
    hooks: list[Hook] = []
    try:
        for entry in settings:
            given = dict(entry)
            name, enabled = given.pop("name"), given.pop("enabled", True)
            if not isinstance(enabled, bool):
                raise ConfigError(f"The hook {name}: enabled is {enabled!r}; give true or false.")
            hook = _build(_find(name), name, given)
            twins = sum(other.label.partition("#")[0] == name for other in hooks)
            object.__setattr__(hook, "label", f"{name}#{twins + 1}" if twins else name)
            if enabled:
                hooks.append(hook)
            else:
                with blame(name, *files_of(type(hook))):
                    hook.close()
    except TinyError:
        for hook in hooks:
            with contextlib.suppress(Exception):  # the error above is the one to tell
                hook.close()
        raise
    return hooks


def describe_hooks(settings: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the hook list as a run logs it: the settings, and the hash of a file of one's own."""
    described = []
    for entry in settings:
        record = {"enabled": True, **entry}
        file, colon, _ = str(entry["name"]).rpartition(":")
        if colon:
            record["sha256"] = hashlib.sha256(Path(file).read_bytes()).hexdigest()
        described.append(record)
    return described


def switch_hooks(
    settings: Iterable[Mapping[str, Any]], on: Iterable[str], off: Iterable[str]
) -> tuple[dict[str, Any], ...]:
    """Return hook settings with some switched on, or added, and some switched off.

    Args:
        settings: of the config.
        on: `name` or `name setting=value ...`, values as in YAML; one that the config has
            already is switched on and given the settings, else it is added at the end.
        off: names.

    Raises:
        ConfigError: a hook to switch off is not in the list, or a setting cannot be read.
    """
    switched = [dict(entry) for entry in settings]
    for text in on:
        name, *pairs = _BEFORE_SETTING.split(text.strip())
        given = {"enabled": True, **parse_overrides(pairs)}
        found = next((entry for entry in switched if entry["name"] == name), None)
        if found is None:
            switched.append({"name": name, **given})
        else:
            found.update(given)
    for name in off:
        found = [entry for entry in switched if entry["name"] == name]
        if not found:
            names = [entry["name"] for entry in switched]
            near = suggest(name, names) if names else "The config has no hooks."
            raise ConfigError(f"There is no hook {name!r} to switch off. {near}")
        for entry in found:
            entry["enabled"] = False
    return tuple(switched)


def _find(name: str) -> type[Hook]:
    file, colon, class_name = name.rpartition(":")
    if colon:
        return _load(Path(file), class_name)
    if name not in HOOKS:
        raise ConfigError(
            f"{name!r} is not a hook. {suggest(name, HOOKS)} Your own is named by its file and "
            "class: my_hooks.py:MyHook."
        )
    return HOOKS[name]


def _load(path: Path, class_name: str) -> type[Hook]:
    """Run a researcher's file and return the class."""
    name = f"{path}:{class_name}"
    if path.suffix != ".py":
        raise ConfigError(f"The hook {name}: {str(path)!r} is no Python file, which ends in .py.")
    if not path.is_file():
        raise ConfigError(
            f"The hook {name}: there is no file {str(path)!r}. Paths count from the current "
            f"folder, {Path.cwd()}."
        )
    with blame(name, str(path)):
        source = path.read_bytes()
        module = ModuleType(f"tiny_transformer_hooks_{hashlib.sha256(source).hexdigest()[:16]}")
        module.__file__ = str(path)
        sys.modules[module.__name__] = module  # dataclasses look their module up
        # Not by an import, which might run an older, compiled form of the file.
        exec(compile(source, str(path), "exec"), vars(module))
    found = {
        name: kind
        for name, kind in vars(module).items()
        if inspect.isclass(kind) and kind.__module__ == module.__name__
    }
    hooks = {name: kind for name, kind in found.items() if issubclass(kind, Hook)}
    if class_name not in found:
        near = suggest(class_name, hooks) if hooks else f"It has no class made from {_BASES}."
        raise ConfigError(f"The hook {name}: {str(path)!r} has no class {class_name!r}. {near}")
    _check_kind(found[class_name], name)
    return hooks[class_name]


def _check_kind(kind: type, name: str) -> None:
    """Raise `ConfigError` if a class is no hook, or would never be called."""
    if issubclass(kind, UpdateHook) == issubclass(kind, Observer):  # neither, or both
        raise ConfigError(f"The hook {name}: {kind.__name__} must be made from one of {_BASES}.")
    for method in dir(kind) if issubclass(kind, Observer) else ():
        if method.startswith("on_") and method not in EVENTS:
            raise ConfigError(
                f"The hook {name}: {method!r} is not an event. {suggest(method, EVENTS)}"
            )
    if issubclass(kind, ForwardHook) and kind.observe is ForwardHook.observe:
        raise ConfigError(f"The hook {name}: {kind.__name__} has no method 'observe'.")


def _build(kind: type[Hook], name: str, given: dict[str, Any]) -> Hook:
    """Make the hook; what `__init__` does not take of the common settings is set after it."""
    own, where = _own_settings(kind), f"The hook {name}"
    valid = {*own, *kind.common_settings}
    for key in sorted(given.keys() - valid):
        raise ConfigError(f"{where} has no setting {key!r}. {suggest(key, valid)}")
    for key, needed in own.items():
        if needed and key not in given:
            raise ConfigError(f"{where} needs a value for {key!r}.")
    taken = {key: value for key, value in given.items() if key in own}
    with blame(name, *files_of(kind)):
        hook = validate(kind, taken, where=where) if _is_dataclass(kind) else kind(**taken)
    for key in kind.common_settings:
        value = given[key] if key in given.keys() - taken.keys() else getattr(hook, key)
        object.__setattr__(hook, key, _common(key, value, where))  # the class may be frozen
    return hook


def _is_dataclass(kind: type) -> bool:
    """Return whether the class's `__init__` was made by `dataclass`."""
    maker = next(base for base in kind.__mro__ if "__init__" in vars(base))
    return "__dataclass_params__" in vars(maker)


def _own_settings(kind: type[Hook]) -> dict[str, bool]:
    """Return the names that `__init__` takes, and whether each must be given."""
    if kind.__init__ is object.__init__:
        return {}
    parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return {p.name: p.default is p.empty for p in named}


def _common(key: str, value: Any, where: str) -> Any:
    """Check a setting that every hook of a kind has."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if key in ("every", "from_step", "until_step"):
        if key == "until_step" and value is None:
            return value
        if not whole or value < 1:
            raise ConfigError(f"{where}: {key} is {value!r}; it must be a whole number from 1.")
        return value
    if key == "layers" and value is None:
        return value
    kind, said = (int, "indices of blocks") if key == "layers" else (str, "names")
    if not isinstance(value, list | tuple) or not all(type(inner) is kind for inner in value):
        raise ConfigError(f"{where}: {key} is {value!r}; it must be a list of {said}.")
    if not value:
        raise ConfigError(f"{where}: {key} is empty; it must be a list of {said}.")
    return tuple(value)
