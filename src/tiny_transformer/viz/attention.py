"""A picture of attention: each layer and head as a map of queries and keys."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from tiny_transformer.runtime.errors import DataError
from tiny_transformer.viz.plots import save_figure

_MOST_LABELS = 40  # tokens that can still be read along an axis


def plot_attention(weights: np.ndarray, tokens: Sequence[str], path: str | Path) -> Path:
    """Draw the attention weights of every layer and head, and write them to `path`.

    Rows of pictures are layers, columns heads. In each, a row is a query and a column a key;
    the darker, the more the query takes from the key.

    Args:
        weights: `(L, H, T, T)`, each row summing to one.
        tokens: the T tokens as they are to be read.
        path: a name that ends in .png, .pdf or .svg.

    Raises:
        DataError: the tokens are not as many as the weights, or the name ends otherwise.
        StorageError: the file cannot be written.
    """
    n_layers, n_heads, length, _ = weights.shape
    if len(tokens) != length:
        raise DataError(f"There are weights for {length} tokens, and {len(tokens)} tokens.")
    figure = Figure(figsize=(2.2 * n_heads + 0.8, 2.2 * n_layers + 0.8), layout="constrained")
    panels = figure.subplots(n_layers, n_heads, squeeze=False)
    shown = {"\n": "\\n", " ": "\u2423", "$": r"\$"}
    labels = ["".join(shown.get(c, c) for c in token) for token in tokens]
    for layer in range(n_layers):
        for head in range(n_heads):
            axes = panels[layer, head]
            # The square root shows small weights, of which most rows are made.
            axes.imshow(np.sqrt(weights[layer, head]), cmap="Blues", vmin=0, vmax=1)
            axes.set_title(f"layer {layer}, head {head}", fontsize=8)
            if length <= _MOST_LABELS:
                axes.set_xticks(range(length), labels, fontsize=5, family="monospace")
                axes.set_yticks(range(length), labels, fontsize=5, family="monospace")
                axes.tick_params(length=0, pad=1)
            else:
                axes.set_xticks([])
                axes.set_yticks([])
    figure.supxlabel("key: the token that is looked at", fontsize=8)
    figure.supylabel("query: the token that looks", fontsize=8)
    return save_figure(figure, path)
