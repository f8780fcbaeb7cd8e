"""docs/export.md has a row for each choice and a column for each format, all of today."""

from __future__ import annotations

import re

import pytest
import torch
from tests.interop.helpers import GPT2, config_of

from tiny_transformer.interop.formats import FORMATS
from tools import export_table

pytestmark = pytest.mark.requirement("export.table")
PAGE = export_table.PAGE.read_text(encoding="utf-8")


def section(name: str) -> str:
    match = re.search(rf"<!-- {name}: .*? -->\n\n(.*?)\n\n<!-- end {name} -->", PAGE, re.DOTALL)
    assert match is not None, f"the page has no section {name}"
    return match[1]


def test_the_table_has_every_choice_every_format_and_every_reason() -> None:
    header, _, *rows = (
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in section("parity").splitlines()
    )
    assert header == ["architecture", *FORMATS]
    architectures = export_table.architectures()
    assert [row[0] for row in rows] == list(architectures)
    for name, *cells in rows:
        for format_name, cell in zip(FORMATS, cells, strict=True):
            refused = export_table.refusal(architectures[name], format_name)
            if refused:
                assert cell == refused
            else:
                assert float(cell) <= FORMATS[format_name].tolerance


@pytest.mark.requirement("quantize.export")
def test_the_table_of_int8_has_every_format_and_what_refuses_it() -> None:
    header, _, *rows = (
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in section("int8").splitlines()
    )
    assert header == ["architecture", *FORMATS]
    assert [row[0] for row in rows] == list(export_table.QUANTIZED)
    architectures = export_table.quantized_architectures()
    for name, *cells in rows:
        for format_name, cell in zip(FORMATS, cells, strict=True):
            refused = export_table.refusal(architectures[name], format_name)
            if refused:
                assert cell == refused
            elif FORMATS[format_name].quantize is None:
                assert cell == "no: int8"
            else:
                assert float(cell) <= FORMATS[format_name].tolerance


def test_the_forms_are_those_of_the_code() -> None:
    assert section("forms") == export_table.forms_table()


def test_every_format_is_explained() -> None:
    for name in FORMATS:
        assert f"| `{name}` |" in PAGE


def test_a_cell_is_measured() -> None:
    config = config_of(**GPT2)
    assert export_table.measure(config, "safetensors") == "0"
    threads = torch.get_num_threads()
    assert 0 < float(export_table.measure(config, "huggingface")) < 1e-5
    assert torch.get_num_threads() == threads
    assert export_table.measure(config, "safetensors", "int8") == "0"
    assert export_table.measure(config, "huggingface", "int8") == "no: int8"
    windowed = config_of(**GPT2, token_window=2)
    assert export_table.measure(windowed, "huggingface") == "no: token_window"


def test_a_section_is_replaced_and_the_rest_kept() -> None:
    mark = "<!-- x: python tools/export_table.py -->"
    page = f"a\n{mark}\nold\n<!-- end x -->\nb"
    assert export_table.replace_section(page, "x", "new") == (
        f"a\n{mark}\n\nnew\n\n<!-- end x -->\nb"
    )
