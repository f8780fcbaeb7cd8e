"""The whole model, written by you: module 05.

First tools that look at a model, or fill it: is it tied, how large is it, what does training
it take, what does it write, how do weights with other names get in. Then the model itself.
`tiny course check 05` says how far you are, and `tiny course hint EXERCISE` helps.

A model's parameters have names, which are the same in yours and in the reference:

    embeddings.token.weight               embeddings.position.weight
    blocks.0.norm1.weight                 blocks.0.norm1.bias
    blocks.0.attention.q_proj.weight      ... k_proj, v_proj, o_proj, and their biases
    blocks.0.norm2.weight                 blocks.0.norm2.bias
    blocks.0.mlp.up_proj.weight           ... down_proj, and their biases
    blocks.1. ...                         the same for every block
    final_norm.weight                     final_norm.bias
    lm_head.weight                        the output head, which has no bias

Dimensions: `B` batch, `T` tokens, `C` width of the model, `V` vocabulary, `L` layers, `H`
heads, `F` width inside the MLP, `P` number of parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from tiny_transformer import Parts
from tiny_transformer.config import ModelConfig


def is_tied(model: nn.Module) -> bool:
    """Return whether the output head and the token embedding share one table.

    Sharing means one memory, not equal numbers: two tables that are equal now part at the
    first step of training.

    Args:
        model: has `lm_head.weight` and `embeddings.token.weight`, both (V, C). It is not
            changed.

    Returns:
        True or False, a plain bool.

    Example: the package's own model, which is tied unless its config says otherwise.
        >>> from tiny_transformer import Transformer
        >>> is_tied(Transformer(ModelConfig(n_layers=1, d_model=8)))
        True
        >>> is_tied(Transformer(ModelConfig(n_layers=1, d_model=8, tie_weights=False)))
        False
    """
    raise NotImplementedError("is-tied")


def tie_weights(model: nn.Module) -> None:
    """Let the output head use the token embedding's table: one parameter under two names.

    The table keeps its numbers, and is the same `nn.Parameter` as before; what the head had
    is forgotten. From then on both uses send their gradients to the one parameter, and it
    counts once.

    Args:
        model: has `lm_head.weight` and `embeddings.token.weight`, both (V, C). It is changed.

    Example: one table less.
        >>> from tiny_transformer import Transformer
        >>> config = ModelConfig(n_layers=1, d_model=8, vocab_size=10, tie_weights=False)
        >>> model = Transformer(config)
        >>> before = sum(p.numel() for p in model.parameters())
        >>> tie_weights(model)
        >>> before - sum(p.numel() for p in model.parameters())
        80
    """
    raise NotImplementedError("tie-weights")


def count_by_part(model: nn.Module) -> dict[str, int]:
    """Return how many numbers each kind of part has, found by walking through a model.

    Args:
        model: its parameters are named as above; what is not named there does not occur.

    Returns:
        A dict of plain ints with these keys, in any order:

        - `"embeddings"`: tables of tokens and of positions;
        - `"attention"`: projections in the attention;
        - `"mlp"`: projections in the MLP;
        - `"norms"`: scales and shifts of all norms, wherever they stand (their names have
          `norm` in them; some models have norms inside the attention);
        - `"head"`: the output head.

        A parameter that has two names counts once, where it comes first: the head of a tied
        model has 0. Buffers are no parameters and do not count.

    Example:
        >>> from tiny_transformer import Transformer
        >>> config = ModelConfig(n_layers=1, d_model=2, n_heads=1, vocab_size=5, context_length=3)
        >>> sorted(count_by_part(Transformer(config)).items())
        [('attention', 24), ('embeddings', 16), ('head', 0), ('mlp', 42), ('norms', 12)]
    """
    raise NotImplementedError("count-by-part")


def count_by_formula(config: ModelConfig) -> dict[str, int]:
    """Return the same counts from the config alone: a model need not be built to be measured.

    A linear layer from a to b numbers has a b weights, and b biases if `config.bias`. A
    LayerNorm has C scales, and C shifts if `config.bias`. There are two norms in each block
    and one at the end. Positions have a table of `config.context_length` rows where
    `config.position` is `"learned"`, and else none. The head never has a bias.

    Args:
        config: `n_layers`, `d_model`, `feed_forward_width` (the width inside the MLP),
            `vocab_size`, `context_length`, `position`, `bias` and `tie_weights` matter; all
            else is at its default, so the MLP has two layers and the attention four square
            ones.

    Returns:
        The keys of `count_by_part`, each a plain int.

    Example: the parts of this package's base model, 3.3 million in all.
        >>> sorted(count_by_formula(ModelConfig()).items())  # doctest: +NORMALIZE_WHITESPACE
        [('attention', 1052672), ('embeddings', 90880), ('head', 0), ('mlp', 2102272),
         ('norms', 4608)]
    """
    raise NotImplementedError("count-by-formula")


def training_memory(config: ModelConfig, batch_size: int) -> dict[str, int]:
    """Return the bytes that a step of training holds at once, by what they are for.

    In float32, with AdamW, which keeps two running averages for each parameter. Beside
    weights, gradients and these averages, the forward pass keeps what the backward pass will
    need. With `N = batch_size * context_length` tokens, in numbers of 4 bytes each:

        each of the 2 L + 1 norms     its input and two numbers a token    N C + 2 N
        attention, each layer         its input, q, k, v, the output,
                                      and a number for each head           5 N C + N H
        MLP, each layer               its input, and the inner vectors
                                      before and after the GELU            N C + 2 N F
        output head and loss          its input, and log-probabilities     N C + N V

    and ids and targets of 8 bytes each, N of both. A sum or an embedding keeps nothing more.

    Args:
        config: as for `count_by_formula`, with `dropout` 0.
        batch_size: windows in a batch, each `config.context_length` tokens long.

    Returns:
        Plain ints under `"weights"`, `"gradients"`, `"optimizer"` and `"activations"`.

    Example: a batch of 16 windows of the base model, in MiB; most of it are activations.
        >>> memory = training_memory(ModelConfig(dropout=0.0), batch_size=16)
        >>> [(name, round(memory[name] / 2**20)) for name in sorted(memory)]
        [('activations', 266), ('gradients', 12), ('optimizer', 25), ('weights', 12)]
    """
    raise NotImplementedError("training-memory")


def write_greedily(model: nn.Module, ids: Tensor, n_new: int, context_length: int) -> Tensor:
    """Let a model write: append the likeliest next token, again and again.

    At each step the model reads what is there, the newest `context_length` tokens of it at
    most; the logits of the last position say what comes next. Every token that is written
    is read in the next step.

    The model is in evaluation mode while it writes (dropout would garble it), and afterwards
    in the mode that it had; no gradients are kept.

    Args:
        model: maps ids (B, t) to logits (B, t, V), for t from 1 to `context_length`.
        ids: (B, T), int64, T at least 1 and maybe more than `context_length`. Not changed.
        n_new: how many tokens to write, 0 or more.
        context_length: most tokens that the model can read at once.

    Returns:
        (B, T + n_new), int64: all of `ids`, then what was written, in a tensor of its own (where
        nothing is written, too).

    Example: a model that finds the next higher id the likeliest.
        >>> class Next(nn.Module):
        ...     def forward(self, ids):
        ...         return nn.functional.one_hot((ids + 1) % 10, 10).float()
        >>> import torch
        >>> write_greedily(Next(), torch.tensor([[1, 2], [7, 8]]), 3, context_length=2)
        tensor([[1, 2, 3, 4, 5],
                [7, 8, 9, 0, 1]])
    """
    raise NotImplementedError("write-greedily")


def load_weights(
    model: nn.Module, weights: Mapping[str, Tensor], rename: Mapping[str, str]
) -> tuple[list[str], list[str]]:
    """Copy weights that have other names into a model, and say what did not fit.

    A name is translated piece by piece: for every pair of `rename`, in its order, all
    occurrences of the old piece become the new one. With `{"h.": "blocks.", "ln_1": "norm1"}`,
    `h.0.ln_1.bias` becomes `blocks.0.norm1.bias`.

    What is copied keeps no tie to where it came from. The model's parameters stay the same
    objects, of their dtype and on their device: an optimizer may hold them already.

    Args:
        model: is changed.
        weights: tensors by their own names; no two are translated to the same name. They are
            not changed.
        rename: old piece to new piece.

    Returns:
        Two sorted lists. The **missing** names are those of the model's parameters to which
        nothing came; a parameter with two names (a tied head) is missing only if nothing came
        under either, and then under the first of them. The **unexpected** names are those of
        the weights, as they came, that the model has no place for.

    Raises:
        ValueError: a tensor has another shape than the model's of that name; the text has the
            name. Then nothing has been copied.

    Example:
        >>> import torch
        >>> weights = {"dense.kernel": torch.ones(1, 2), "step": torch.tensor(7)}
        >>> layer = nn.Sequential(nn.Linear(2, 1))
        >>> load_weights(layer, weights, {"dense": "0", "kernel": "weight"})
        (['0.bias'], ['step'])
        >>> layer[0].weight.tolist()
        [[1.0, 1.0]]
    """
    raise NotImplementedError("load-weights")


class Transformer(nn.Module):
    """The whole model: ids of tokens in, logits of the next token out.

        x = embeddings(ids)              (B, T) -> (B, T, C)
        for each of L blocks:
            x = block(x)                 (B, T, C)
        logits = lm_head(final_norm(x))  (B, T, V)

    You wrote what goes into it in modules 01 to 04. Here you put it together, from whatever
    classes `parts` names, so that any of them can be exchanged: the reference's, or yours.
    `tiny course train` and `tiny course compare` hand your own parts to your own model.

    `parts` has, among others,

    - `embeddings`, a class that is built with the config and `parts`;
    - `block`, built in the same way; every layer has one of its own;
    - a method `build_norm` that makes a norm from the config.

    Args:
        config: the architecture; `n_layers`, `d_model`, `vocab_size`, `context_length` and
            `tie_weights` matter here, the rest is for the parts.
        parts: the classes to build from; None takes those that `Parts.for_config` has for the
            config, the reference's.
        seed: of the first weights.

    Attributes:
        config: as it was given.

    Parameters have the names at the top of this file, and no others. The modules are, in this
    order (a shared parameter is listed under its first name): `embeddings`, `blocks` (an
    `nn.ModuleList`), `final_norm`, and `lm_head`, a linear layer without a bias. Where
    `config.tie_weights`, the head is tied to the token embedding.

    First weights: matrices and tables are drawn from a normal distribution around 0 with a
    standard deviation of 0.02 (those that write into the stream may be smaller, as in module 03),
    biases are 0, and norms are left as they are built. Equal seeds give equal weights, and
    building leaves PyTorch's global generator as it was: see `forked_rng` of
    `tiny_transformer.runtime.random_state`, or `torch.random.fork_rng`. (`tiny course train`
    draws the reference's weights in their place, so that losses can be compared.)

    Example:
        >>> import torch
        >>> config = ModelConfig(n_layers=2, d_model=8, n_heads=2, vocab_size=10, context_length=6)
        >>> Transformer(config)(torch.tensor([[1, 2, 3], [4, 5, 6]])).shape
        torch.Size([2, 3, 10])
    """

    def __init__(self, config: ModelConfig, parts: Parts | None = None, *, seed: int = 0) -> None:
        raise NotImplementedError("transformer")

    def forward(self, ids: Tensor, cache: Any = None, *, last_only: bool = False) -> Tensor:
        """Return the logits of the token after each position.

        Args:
            ids: (B, T), int64, with T from 1 to `config.context_length`. Not changed.
            cache: always None here: the reference keeps old keys and values in it while it
                writes.
            last_only: return the last position's logits alone, (B, 1, V).

        Returns:
            (B, T, V), float32 also where the model is bfloat16 (a loss over many tokens needs
            the digits), and float64 for a float64 model.

        Raises:
            Exception: of any kind, where there are more tokens than `config.context_length`,
                or `ids` has other axes than two.
        """
        raise NotImplementedError("transformer")
