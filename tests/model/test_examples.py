"""`python -m tiny_transformer.model.PART` shows the part at work."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
import warnings

import pytest
import torch

import tiny_transformer.model.examples
from tiny_transformer.model.examples import CONFIG
from tiny_transformer.model.positional import sinusoidal_table
from tiny_transformer.viz.parameters import count_parameters

PARTS = {
    "attention": "MultiHeadAttention",
    "layer_norm": "RMSNorm",
    "mlp": "MLP",
    "positional": "sinusoidal_table",
    "embeddings": "Embeddings",
    "transformer_block": "TransformerBlock",
    "transformer": "Transformer",
    "loss": "compute_loss",
}


def run(part: str, capsys: pytest.CaptureFixture[str]) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # it is imported already
        runpy.run_module(f"tiny_transformer.model.{part}", run_name="__main__")
    return capsys.readouterr().out


def rows(text: str, title: str) -> torch.Tensor:
    """Read a printed table back."""
    _, *lines = text.split(f"{title}\n")[1].split("\n\n")[0].splitlines()
    numbers = [[float(n) for n in re.findall(r"-?\d+\.\d+", line)] for line in lines]
    return torch.tensor([row for row in numbers if row])


@pytest.mark.requirement("model.examples")
@pytest.mark.parametrize(("part", "name"), PARTS.items())
def test_a_part_that_is_run_prints_an_example(
    part: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = torch.get_rng_state()
    text = run(part, capsys)
    assert f"{name}: " in text or f"{name}(" in text
    assert text.count("\n") > 5
    assert torch.equal(torch.get_rng_state(), before)
    assert run(part, capsys) == text


@pytest.mark.requirement("model.examples")
def test_the_command_prints_shapes_and_causal_weights() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tiny_transformer.model.attention"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    assert re.search(r"q_proj +Linear +72 +\(1, 5, 8\) -> \(1, 5, 8\)", done.stdout)
    for head in range(2):
        weights = rows(done.stdout, f"weights of head {head}")
        assert weights.shape == (5, 5)
        assert torch.equal(weights, weights.tril())
        assert (weights.sum(1) - 1).abs().max() < 0.026  # each of five is rounded to 0.01


def test_the_tables_show_what_was_computed(capsys: pytest.CaptureFixture[str]) -> None:
    text = run("positional", capsys)
    shown, exact = rows(text, "sines and cosines"), sinusoidal_table(5, 8)
    assert (shown - exact).abs().max() <= 0.00501
    products = rows(text, "q q^T")
    assert len({products[i, i + 1].item() for i in range(4)}) == 1
    normalised = rows(run("layer_norm", capsys), "out")
    assert torch.equal(normalised[:, 0], torch.zeros(3))
    assert torch.equal(normalised[:, 1], torch.ones(3))
    total = f"{count_parameters(CONFIG).total:,}"
    assert re.search(rf"^Transformer +{total} ", run("transformer", capsys), re.MULTILINE)
    assert "(3.06 + 1.52 + 2.36 + 3.05) / 4 = 2.50" in run("loss", capsys)


def test_every_example_is_a_part_of_its_own() -> None:
    assert set(tiny_transformer.model.examples._EXAMPLES) == set(PARTS)
