"""Every shape that a signature of the model states is true, and a wrong one is caught."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

CHECKED = """
import jaxtyping
hook = jaxtyping.install_import_hook("tiny_transformer.model", "beartype.beartype")
import torch
torch.set_num_threads(1)
from jaxtyping import TypeCheckError
from tests.model.architectures import CHOICES, tiny_config, tiny_model, token_ids
from tiny_transformer.model.kv_cache import KVCache
from tiny_transformer.model.layer_norm import explicit_layer_norm
from tiny_transformer.model.attention import explicit_attention, fused_attention
from tiny_transformer.model.loss import compute_loss

for backend in ("fused", "explicit"):
    for name, choice in CHOICES.items():
        config = tiny_config(**(choice | {"backend": backend, "dropout": 0.25}))
        low = [torch.bfloat16] if name in ("default", "qwen3") else []
        for dtype in (torch.float32, *low):
            model = tiny_model(config, dtype=dtype)
            compute_loss(model(token_ids()), token_ids(seed=4)).backward()
            model.eval()
            with torch.no_grad():
                cache = KVCache(config, 2, dtype=dtype)
                for piece in token_ids().split((5, 1, 10), dim=1):
                    model(piece, cache)
                model(token_ids(), last_only=True)
                x = torch.zeros(2, 7, 32, dtype=dtype)
                model.blocks[0].attention.forward_with_weights(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            tiny_model(config)(token_ids())

model, t = tiny_model(tiny_config()), torch.zeros
wrong = {
    "block": lambda: model.blocks[0](t(7, 32)),
    "attention": lambda: model.blocks[0].attention(t(1, 2, 7, 32)),
    "mlp": lambda: model.blocks[0].mlp(t(2, 32)),
    "model": lambda: model(t(2, 7)),
    "norm": lambda: explicit_layer_norm(t(2, 8), t(1), None, 1e-5),
    "embeddings": lambda: model.embeddings(t(7, dtype=torch.int64)),
    "heads": lambda: explicit_attention(t(1, 4, 3, 8), t(1, 2, 3, 8), t(1, 2, 3, 8)),
    "head width": lambda: fused_attention(t(1, 4, 3, 8), t(1, 4, 3, 8), t(1, 4, 5, 8)),
    "loss": lambda: compute_loss(t(2, 3, 7), t(2, 4, dtype=torch.int64)),
}
for name, call in wrong.items():
    try:
        call()
    except TypeCheckError:
        continue
    raise SystemExit(f"a wrong shape passed: {name}")
print("all shapes hold")
"""


@pytest.mark.slow
def test_every_stated_shape_is_true_and_a_wrong_one_is_caught() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CHECKED], cwd=ROOT, capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip() == "all shapes hold"
