"""How transformers names and stores the weights of each form: one table, read both ways.

Export writes the tensors that `layout` lists, and import asks a file for the same ones.

Notable: GPT-2 keeps its matrices the other way round, and queries, keys and values in one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tiny_transformer.interop.forms import GPT2, LLAMA, QWEN3, Form

# Parts of our names, and theirs. Names that become one are stored one below the other.
GPT2_NAMES = {
    "embeddings.token": "transformer.wte",
    "embeddings.position": "transformer.wpe",
    "blocks.": "transformer.h.",
    "attention.q_proj": "attn.c_attn",
    "attention.k_proj": "attn.c_attn",
    "attention.v_proj": "attn.c_attn",
    "attention.o_proj": "attn.c_proj",
    "mlp.up_proj": "mlp.c_fc",
    "mlp.down_proj": "mlp.c_proj",
    "norm1": "ln_1",
    "norm2": "ln_2",
    "final_norm": "transformer.ln_f",
}
LLAMA_NAMES = {
    "embeddings.token": "model.embed_tokens",
    "blocks.": "model.layers.",
    "attention": "self_attn",
    "norm1": "input_layernorm",
    "norm2": "post_attention_layernorm",
    "final_norm": "model.norm",
}
TABLES = {GPT2.name: GPT2_NAMES, LLAMA.name: LLAMA_NAMES, QWEN3.name: LLAMA_NAMES}
PREFIXES = {GPT2.name: "transformer.", LLAMA.name: "model.", QWEN3.name: "model."}
"""What begins every name but the output's; files of the bare model are without it."""

_TRANSPOSED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")  # Conv1D keeps (in, out)


def renamed(name: str, table: Mapping[str, str]) -> str:
    """Return a weight's name with each part that stands in `table` replaced."""
    for ours, theirs in table.items():
        name = name.replace(ours, theirs)
    return name


@dataclass(frozen=True)
class Stored:
    """One tensor of theirs, as what it holds of ours.

    Attributes:
        ours: names, in the order in which the tensors are stored one below the other.
        transposed: whether a matrix is stored as `(in, out)`.
    """

    ours: tuple[str, ...]
    transposed: bool

    def pack(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Return the tensor that they store."""
        joined = torch.cat([weights[name] for name in self.ours])  # (sum of out, in) or (out,)
        return (joined.T if self.transposed else joined).contiguous()

    def shape(self, shapes: Mapping[str, Sequence[int]]) -> tuple[int, ...]:
        """Return the shape of the tensor that they store, from the shapes of ours."""
        joined = (sum(shapes[name][0] for name in self.ours), *shapes[self.ours[0]][1:])
        return joined[::-1] if self.transposed else joined

    def unpack(
        self, tensor: Tensor, shapes: Mapping[str, Sequence[int]]
    ) -> Iterable[tuple[str, Tensor]]:
        """Yield our names and weights that `tensor`, which they stored, is made of."""
        joined = tensor.T if self.transposed else tensor
        pieces = joined.split([shapes[name][0] for name in self.ours])
        for name, piece in zip(self.ours, pieces, strict=True):
            yield name, piece.contiguous()


def layout(form: Form, names: Iterable[str]) -> dict[str, Stored]:
    """Return what is stored under each of their names.

    Args:
        form: whose table is taken.
        names: of all our weights.
    """
    table = TABLES[form.name]
    parts = list(table)

    def place(name: str) -> int:  # queries, keys, values: the order of the table
        return max((index for index, part in enumerate(parts) if part in name), default=0)

    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(renamed(name, table), []).append(name)
    return {
        theirs: Stored(tuple(sorted(ours, key=place)), theirs.endswith(_TRANSPOSED))
        for theirs, ours in found.items()
    }
