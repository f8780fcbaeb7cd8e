"""The checks of `tiny doctor` that compute: is every basic operation right, and how fast?

Notable: as in `doctor_checks`, a check imports what it needs when it runs.
"""

from __future__ import annotations

import math
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tiny_transformer.cli.doctor_checks import Outcome, expect

if TYPE_CHECKING:
    import torch

_SLOW = 5e9  # float32 operations a second; one core of an old laptop does more
_GEMM_SIZE, _GEMM_SECONDS = 512, 0.4
_OFF = {"float32": 1e-3, "bfloat16": 2e-2}  # of a product's size; rounding is far below


def check_matmul() -> Outcome:
    """A matrix product agrees with NumPy's in float64."""
    import numpy as np
    import torch

    from tiny_transformer.runtime.device import resolve_device
    from tiny_transformer.runtime.random_state import generator

    a = torch.randn(64, 96, generator=generator("doctor", "a"))
    b = torch.randn(96, 32, generator=generator("doctor", "b"))
    device = resolve_device("auto")
    product = (a.to(device) @ b.to(device)).cpu().double().numpy()
    wrong = float(np.abs(product - a.double().numpy() @ b.double().numpy()).max())
    finding = f"differs from NumPy's by at most {wrong:.1e} on {device}"
    return expect(wrong < 1e-3, finding, finding)  # NaN is not below


def check_precision() -> Outcome:
    """A matrix product in the precision that `auto` takes is as right as that precision is."""
    import torch

    from tiny_transformer.runtime.device import autocast, resolve_device, resolve_precision
    from tiny_transformer.runtime.random_state import generator

    device = resolve_device("auto")
    precision = resolve_precision("auto", device)
    a = torch.randn(64, 96, generator=generator("doctor", "a"))
    b = torch.randn(96, 32, generator=generator("doctor", "b"))
    with autocast(device, precision):
        product = (a.to(device) @ b.to(device)).cpu().double()
    exact = a.double() @ b.double()
    wrong = ((product - exact).norm() / exact.norm()).item()
    why = "has bfloat16 products" if precision == "bfloat16" else "has no bfloat16 products"
    finding = f"{precision}, as {device} {why}; one is off by {wrong:.0e} of its size"
    return expect(wrong < _OFF[precision], finding, finding)


def check_softmax() -> Outcome:
    """The rows of a softmax sum to one, also with huge and with masked scores."""
    import torch

    scores = torch.tensor([[0.0, 1.0, 2.0], [1e4, -1e4, 0.0], [3.0, -math.inf, -math.inf]])
    wrong = (torch.softmax(scores, dim=-1).sum(dim=-1) - 1).abs().max().item()
    finding = f"rows sum to one within {wrong:.1e}"
    return expect(wrong < 1e-6, finding, finding)


def check_autograd() -> Outcome:
    """The gradient of a sum of cubes is three times the squares."""
    import torch

    x = torch.tensor([-2.0, 0.5, 3.0], requires_grad=True)
    (gradient,) = torch.autograd.grad((x**3).sum(), x)
    wrong = (gradient - 3 * x.detach() ** 2).abs().max().item()
    finding = f"differs from the formula by {wrong:.1e}"
    return expect(wrong < 1e-5, finding, finding)


def check_training_step() -> Outcome:
    """One training step of a tiny Transformer lowers its loss on the same batch."""
    import torch

    from tiny_transformer.config import ModelConfig
    from tiny_transformer.model.loss import compute_loss
    from tiny_transformer.model.transformer import Transformer
    from tiny_transformer.runtime.device import resolve_device
    from tiny_transformer.runtime.random_state import generator

    device = resolve_device("auto")
    config = ModelConfig(n_layers=1, d_model=32, n_heads=2, context_length=16, dropout=0.0)
    model = Transformer(config).to(device)
    ids = torch.randint(config.vocab_size, (4, 17), generator=generator("doctor")).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    before = compute_loss(model(ids[:, :-1]), ids[:, 1:])
    before.backward()
    optimizer.step()
    after = compute_loss(model(ids[:, :-1]), ids[:, 1:])
    finding = f"loss {before.item():.3f} before and {after.item():.3f} after, on {device}"
    return expect(after.item() < before.item(), finding, finding)


def check_attention() -> Outcome:
    """The fused attention computes what the explicit one does."""
    import torch

    from tiny_transformer.model.attention import explicit_attention, fused_attention
    from tiny_transformer.runtime.device import resolve_device
    from tiny_transformer.runtime.random_state import generator

    device = resolve_device("auto")
    q, k, v = torch.randn(3, 2, 2, 24, 16, generator=generator("doctor")).to(device).unbind()
    wrong = (fused_attention(q, k, v) - explicit_attention(q, k, v)[0]).abs().max().item()
    finding = f"fused and explicit differ by at most {wrong:.1e} on {device}"
    return expect(wrong < 1e-4, finding, finding)


def check_round_trip() -> Outcome:
    """Weights that are saved and loaded come back bit for bit."""
    import torch
    from safetensors.torch import load, save

    from tiny_transformer.runtime import files
    from tiny_transformer.runtime.random_state import generator

    weight = torch.randn(64, 64, generator=generator("doctor"))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        files.write_bytes(path, save({"weight": weight}))
        same = torch.equal(load(path.read_bytes())["weight"], weight)
        return expect(
            same,
            f"identical after a round trip through {folder}",
            "the weights that came back differ",
        )


def check_generator() -> Outcome:
    """Equal seeds draw equal numbers, and the global generator is left as it was."""
    import torch

    from tiny_transformer.runtime.random_state import forked_rng, generator

    before = torch.get_rng_state()
    first, second = (torch.rand(8, generator=generator(1, "doctor")) for _ in range(2))
    with forked_rng(1, "doctor"):
        third = torch.rand(8)
    if not torch.equal(first, second) or not torch.equal(first, third):
        return Outcome("FAIL", "equal seeds draw different numbers")
    kept = torch.equal(before, torch.get_rng_state())
    return expect(kept, "equal seeds draw equal numbers", "the global generator has moved on")


def check_speed() -> Outcome:
    """How fast matrices are multiplied, in float32 and in bfloat16."""
    import torch

    from tiny_transformer.runtime.device import resolve_device

    device = resolve_device("auto")
    single = gemm_flops(device, torch.float32)
    half = gemm_flops(device, torch.bfloat16)
    finding = f"float32 {single / 1e9:,.0f} GFLOP/s, bfloat16 {half / 1e9:,.0f} GFLOP/s on {device}"
    return Outcome("OK" if single >= _SLOW else "WARN", finding)


def gemm_flops(device: torch.device, dtype: torch.dtype, seconds: float = _GEMM_SECONDS) -> float:
    """Return floating-point operations a second of square matrix products.

    Args:
        device: where to multiply.
        dtype: of the matrices.
        seconds: how long to measure, after one product to warm up.
    """
    import torch

    a = torch.ones(_GEMM_SIZE, _GEMM_SIZE, dtype=dtype, device=device)
    (a @ a)[0, 0].item()
    products, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds or products == 0:
        (a @ a)[0, 0].item()  # waits for the accelerator
        products += 1
    return products * 2 * _GEMM_SIZE**3 / elapsed
