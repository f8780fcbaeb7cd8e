"""Errors that a person can act on."""

from __future__ import annotations

import pytest

from tiny_transformer.runtime import errors
from tiny_transformer.runtime.errors import DivergedError, TinyError, suggest

ALL = [
    kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, TinyError)
]


@pytest.mark.parametrize("kind", ALL)
def test_every_error_is_a_users_mistake_except_divergence(kind: type[TinyError]) -> None:
    assert kind.exit_status == (3 if kind is DivergedError else 2)
    assert str(kind("what to do")) == "what to do"


def test_there_is_an_error_for_each_kind_of_mistake() -> None:
    assert {kind.__name__ for kind in ALL} >= {
        "ConfigError", "DataError", "VocabularyError", "PromptError", "CheckpointError",
        "RunError", "StorageError", "DivergedError",
    }  # fmt: skip


def test_the_nearest_valid_name_is_suggested() -> None:
    assert suggest("n_layer", ["n_heads", "n_layers", "d_model"]) == "Did you mean 'n_layers'?"


def test_without_a_near_name_all_names_are_listed_in_order() -> None:
    assert suggest("zzz", iter(["beta", "alpha"])) == "Valid names: alpha, beta."
