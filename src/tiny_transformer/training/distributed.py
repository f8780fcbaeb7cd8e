"""A model on several ranks, by PyTorch's own engine: DDP, or FSDP2.

DDP: Li et al. 2020, "PyTorch Distributed: Experiences on Accelerating Data Parallel Training".
FSDP: Zhao et al. 2023, "PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel".
"""

from __future__ import annotations

import contextlib
import warnings

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

from tiny_transformer.config import Config
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.runtime.distributed import Ranks
from tiny_transformer.runtime.errors import ConfigError
from tiny_transformer.training.muon import orthogonalize


def refuse_uneven(config: Config, ranks: Ranks) -> None:
    """Refuse a batch that the ranks cannot share evenly.

    Raises:
        ConfigError: says what would fit.
    """
    settings = config.training
    pieces = ranks.count * settings.accumulation_steps
    if settings.batch_size % pieces == 0:
        return
    told = f"{ranks.count} ranks"
    if settings.accumulation_steps > 1:
        told += f" x {settings.accumulation_steps} accumulation steps"
    if settings.batch_size < pieces:
        problem = f"which is more than the batch has windows: {settings.batch_size}"
    else:
        problem = f"which does not divide the batch of {settings.batch_size} windows"
    near = max(1, round(settings.batch_size / pieces)) * pieces
    raise ConfigError(
        f"Each step is shared by {told}, {problem}. training.batch_size counts the windows of all "
        f"ranks together: try --training.batch-size {near}, or fewer processes."
    )


def distribute(
    model: Transformer, ranks: Ranks, strategy: str, device: torch.device, *, own_parts: bool
) -> nn.Module:
    """Return what to call in training, whose backward pass averages gradients over the ranks.

    Args:
        model: equal on every rank; with FSDP its parameters are sharded from now on.
        ranks: one alone takes the model as it is.
        strategy: `"ddp"` or `"fsdp"`.
        device: of this rank.
        own_parts: whether a user wrote parts of it, which may leave parameters unused.

    Raises:
        ConfigError: the model cannot be sharded.
    """
    if ranks.count == 1:
        return model
    if strategy == "ddp":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # newer releases rename an argument
            return nn.parallel.DistributedDataParallel(
                model,
                device_ids=[device] if device.type == "cuda" else None,
                broadcast_buffers=False,
                gradient_as_bucket_view=True,
                find_unused_parameters=own_parts,
            )
    if hasattr(model, "written"):
        raise ConfigError(
            "distributed.strategy is fsdp, and the whole model is one of your own: only the "
            "package's model is known to bear sharding. Take --distributed.strategy ddp."
        )
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (ranks.count,))
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    model.can_cache = False  # its weights are whole only while it computes
    return model


@contextlib.contextmanager
def gradients_kept(forward: nn.Module, *, until_later: bool):
    """Let a forward and backward pass keep its gradients to this rank, if `until_later`.

    The next pass outside of such a block sends the sums.
    """
    if not until_later:
        yield
    elif isinstance(forward, nn.parallel.DistributedDataParallel):
        with forward.no_sync():
            yield
    else:
        switch = getattr(forward, "set_requires_gradient_sync", lambda on: None)
        switch(False)
        try:
            yield
        finally:
            switch(True)


def orthogonalize_share(
    matrices: Float[Tensor, "N rows cols"], ranks: Ranks
) -> Float[Tensor, "N rows cols"]:
    """Do the work of `orthogonalize` together: each rank takes some of the matrices.

    Args:
        matrices: equal on all ranks.
        ranks: one alone does all.
    """
    if ranks.count == 1:
        return orthogonalize(matrices)
    n, each = len(matrices), -(-len(matrices) // ranks.count)
    own = matrices[ranks.rank * each : (ranks.rank + 1) * each]
    missing = each - len(own)  # the last ranks may have fewer, or none
    own = torch.cat([own, own.new_zeros(missing, *matrices.shape[1:])]) if missing else own
    done = orthogonalize(own).contiguous()
    gathered = [torch.empty_like(done) for _ in range(ranks.count)]
    dist.all_gather(gathered, done)
    return torch.cat(gathered)[:n]
