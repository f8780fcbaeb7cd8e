"""Whatever stands in a config file, a person gets a config or an explanation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiny_transformer.config.loading import config_from_dict, load_config
from tiny_transformer.runtime.errors import ConfigError

SECTION_NAMES = ["data", "model", "optimizer", "schedule", "training", "sampling"]
SETTING_NAMES = ["n_layers", "d_model", "dropout", "bias", "corpus", "top_p", "name", "stop_at"]
leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=3)
    | st.dates()
)
nested = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(SETTING_NAMES) | st.text(max_size=3), inner, max_size=4)
        | st.dictionaries(st.integers() | st.none() | st.dates(), inner, max_size=2)
    ),
    max_leaves=8,
)


@pytest.mark.requirement("config.refused")
@settings(max_examples=120)
@given(tree=st.dictionaries(st.sampled_from([*SECTION_NAMES, "run_name", "x"]), nested, max_size=4))
def test_any_tree_of_values_gives_a_config_or_a_config_error(tree: dict[str, Any]) -> None:
    try:
        config = config_from_dict(tree)
    except ConfigError as error:
        assert str(error)
    else:
        assert config_from_dict(config.to_dict()) == config


@pytest.mark.requirement("config.refused")
@settings(max_examples=120)
@given(text=st.text(alphabet="ab01:{}[]-!&*#'\"|>%@` \n\t.=_~?,x", max_size=30))
def test_any_text_gives_a_config_or_a_config_error(text: str, tmp_path: Path) -> None:
    for suffix in (".yaml", ".json"):
        path = tmp_path / f"fuzz{suffix}"
        path.write_text(text)
        try:
            load_config(path)
        except ConfigError as error:
            assert str(path) in str(error) or "run_name" in str(error)
