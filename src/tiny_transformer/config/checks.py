"""Range checks that name the setting, the value and the remedy."""

from __future__ import annotations

import math

from tiny_transformer.runtime.errors import ConfigError


def check(condition: bool, message: str) -> None:
    """Raise `ConfigError(message)` unless `condition` holds."""
    if not condition:
        raise ConfigError(message)


def check_at_least(section: str, name: str, value: int, least: int) -> None:
    """Raise `ConfigError` if `value` is below `least`."""
    check(value >= least, f"{section}.{name} is {value}; it must be at least {least}.")


def check_finite(section: str, name: str, value: float) -> None:
    """Raise `ConfigError` if `value` is infinite or not a number."""
    check(math.isfinite(value), f"{section}.{name} is {value}; it must be a finite number.")
