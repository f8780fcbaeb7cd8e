"""Config files: YAML and JSON in and out, presets, dotted overrides, validation."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

from tiny_transformer.config.run import Config
from tiny_transformer.runtime import files
from tiny_transformer.runtime.errors import ConfigError, suggest

T = TypeVar("T")


def presets_folder() -> Path:
    """Return the folder of the shipped presets (`configs/` of a checkout points to it)."""
    return Path(__file__).parent / "presets"


def preset_names() -> list[str]:
    """Return the names of the shipped presets."""
    return sorted(path.stem for path in presets_folder().glob("*.yaml"))


def load_config(
    source: str | Path | None = None, overrides: Mapping[str, Any] | None = None
) -> Config:
    """Read a config from a preset or a file and apply dotted overrides.

    Args:
        source: a preset's name (`"tiny"`), the path of a YAML or JSON file, or None for
            the defaults. What a file leaves out keeps its default.
        overrides: for instance `{"model.n_layers": 6, "training.seed": 1}`.

    Returns:
        The validated config.

    Raises:
        ConfigError: the file is missing or malformed, a name is unknown (the nearest
            valid one is given), or a value is unusable.
    """
    settings = {} if source is None else read_settings(_locate(source))
    for dotted, value in (overrides or {}).items():
        _override(settings, dotted, value)
    return config_from_dict(settings, where=str(source) if source else "the config")


def config_from_dict(settings: Mapping[str, Any], *, where: str = "the config") -> Config:
    """Build a `Config` from nested dictionaries; raise `ConfigError` as `load_config` does."""
    return validate(Config, settings, where=where)


def validate(kind: type[T], settings: Mapping[str, Any], *, where: str) -> T:
    """Build a settings dataclass of type `kind`, explaining every problem by its dotted name."""
    booleans = list(_misplaced_booleans(kind, settings))
    if booleans:
        raise ConfigError(f"{where}: " + " ".join(booleans))
    try:
        return TypeAdapter(kind).validate_python(dict(settings))
    except ValidationError as error:
        problems = [_describe(kind, problem) for problem in error.errors()]
        raise ConfigError(f"{where}: " + " ".join(problems)) from None


def _describe(kind: type, problem: Mapping[str, Any]) -> str:
    path = [str(part) for part in problem["loc"]]
    dotted = ".".join(path)
    if problem["type"] == "unexpected_keyword_argument":
        return f"{dotted!r} is not a setting. {suggest(path[-1], _names_beside(kind, path))}"
    expected = problem["msg"][0].lower() + problem["msg"][1:]
    if problem["type"] == "dataclass_type":
        expected = "it is a section, so give names and values below it"
    return f"{dotted or 'the whole'} is {_shown(problem['input'])}: {expected}."


def _shown(value: Any, limit: int = 200) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python refuses to print integers of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= limit else text[:limit] + "..."


def _misplaced_booleans(kind: type, settings: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield a complaint for each `true` or `yes` where a number belongs: pydantic takes it as 1."""
    for name, hint in get_type_hints(kind).items():
        value = settings.get(name)
        if isinstance(value, Mapping) and isinstance(hint, type) and dataclasses.is_dataclass(hint):
            yield from _misplaced_booleans(hint, value, f"{prefix}{name}.")
        elif isinstance(value, bool) and hint in (int, float, int | None, float | None):
            yield f"{prefix}{name} is {value}: input should be a number."


def _names_beside(kind: type, path: list[str]) -> list[str]:
    """Return the setting names in the section that `path` points into."""
    for part in path[:-1]:
        default = next(f for f in dataclasses.fields(kind) if f.name == part).default_factory
        kind = default if isinstance(default, type) else kind
    return [f.name for f in dataclasses.fields(kind)]


def _override(settings: dict[str, Any], dotted: str, value: Any) -> None:
    *sections, name = dotted.replace("-", "_").split(".")
    for section in sections:
        if settings.get(section) is None:  # missing, or a heading with nothing below it
            settings[section] = {}
        inner = settings[section]
        if not isinstance(inner, dict):
            raise ConfigError(f"{dotted!r} is not a setting: {section!r} has no parts.")
        settings = inner
    settings[name] = value


def parse_overrides(pairs: Iterable[str]) -> dict[str, Any]:
    """Turn `["model.n_layers=6"]` into `{"model.n_layers": 6}`; values are read as YAML."""
    overrides: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise ConfigError(
                f"{pair!r} is not an override; write name=value, as in model.n_layers=6."
            )
        overrides[name] = _parse_yaml(value, f"The value of the override {pair!r}")
    return overrides


def _parse_yaml(text: str, what: str) -> Any:
    try:
        return yaml.safe_load(text)
    except RecursionError:
        raise ConfigError(f"{what} is not usable YAML: it is nested too deeply.") from None
    # A tag that does not fit its value escapes PyYAML as one of the plain errors.
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise ConfigError(f"{what} is not valid YAML: {error}") from None


def _parse_json(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        raise ConfigError(f"{what} is not usable JSON: it is nested too deeply.") from None
    except ValueError as error:
        raise ConfigError(f"{what} is not valid JSON: {error}") from None


def _locate(source: str | Path) -> Path:
    path = Path(source)
    try:
        if path.is_file():
            return path
    except OSError as error:
        raise ConfigError(f"The config {path} cannot be read: {error.strerror}.") from None
    if str(source) in preset_names():
        return presets_folder() / f"{source}.yaml"
    if path.is_dir():
        raise ConfigError(f"The config {path} is a folder; give a YAML or JSON file.")
    raise ConfigError(
        f"There is no config file {str(source)!r}, and no preset of that name. "
        f"{suggest(path.stem, preset_names())}"
    )


def read_settings(path: Path, data: bytes | None = None) -> dict[str, Any]:
    """Read a YAML or JSON file of settings as nested dictionaries.

    Args:
        path: the file.
        data: its content, where that has been read already.
    """
    try:
        text = (path.read_bytes() if data is None else data).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"The config {path} is not UTF-8 text: {error.reason} at byte {error.start}."
        ) from None
    except OSError as error:
        raise ConfigError(f"The config {path} cannot be read: {error.strerror}.") from None
    parse = _parse_json if path.suffix == ".json" else _parse_yaml
    loaded = parse(text, f"The config {path}")
    if loaded is None:
        return {}
    if not isinstance(loaded, dict) or not all(isinstance(key, str) for key in loaded):
        raise ConfigError(
            f"The config {path} holds a {type(loaded).__name__}; expected sections such as "
            "'model:' and 'training:' with settings below them."
        )
    return loaded


def dump_config(config: Config, *, as_json: bool = False) -> str:
    """Return the config as YAML (or JSON) text that `load_config` reads back to an equal one."""
    settings = config.to_dict()
    if as_json:
        return json.dumps(settings, indent=2) + "\n"
    text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
    if "\x85" in text:  # PyYAML reads a bare "next line" character back as a space
        text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=False)
    return text


def save_config(config: Config, path: Path) -> None:
    """Write the config to `path`: JSON if it ends in `.json`, else YAML."""
    files.write_text(path, dump_config(config, as_json=path.suffix == ".json"))
