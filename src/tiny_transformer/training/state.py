"""All that a run's updates depend on and change, and the one way to make an update.

Training, resume and replay share it: what replays a run is what trained it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tiny_transformer.config import Config
from tiny_transformer.evaluation.evaluator import Evaluation, compute_val_loss
from tiny_transformer.hooks.base import Hook
from tiny_transformer.hooks.runner import HookRunner
from tiny_transformer.model.loss import compute_loss
from tiny_transformer.model.parts import Parts
from tiny_transformer.runtime.device import (
    Precision,
    autocast,
    resolve_device,
    resolve_precision,
)
from tiny_transformer.runtime.distributed import Ranks, full, is_sharded, own_device
from tiny_transformer.runtime.environment import describe_numerics
from tiny_transformer.runtime.errors import ConfigError, DataError
from tiny_transformer.runtime.random_state import (
    forked_rng,
    own_generator,
    restore_generator_states,
)
from tiny_transformer.text.tokenizer import Tokenizer
from tiny_transformer.training import checkpoint_files as layout
from tiny_transformer.training.checkpoint import Checkpoint, save_checkpoint
from tiny_transformer.training.distributed import distribute, gradients_kept, refuse_uneven
from tiny_transformer.training.optimizer import Optimizer
from tiny_transformer.training.run_data import load_run_data
from tiny_transformer.training.schedule import learning_rate_scale
from tiny_transformer.training.sharded_weights import list_of, read_into
from tiny_transformer.training.shards import backward_in_shards, count_shards, start_workers
from tiny_transformer.training.weights import (
    load_weights,
    named_weights,
    refuse_other_shapes,
)
from tiny_transformer.training.whole_model import build_model
from tiny_transformer.training.written_parts import describe_parts

_SAME_TEXT = (
    "Give all of them the same file, or put it, and the cache that TINY_TRANSFORMER_CACHE names, "
    "on storage that they share."
)


@dataclass(frozen=True)
class Gradients:
    """What forward and backward over one batch came to.

    Attributes:
        loss: mean over the batch, in nats.
        norm: global L2 norm of the gradients, before clipping.
    """

    loss: float
    norm: float

    @property
    def finite(self) -> bool:
        """Whether both are numbers."""
        return math.isfinite(self.loss) and math.isfinite(self.norm)


class TrainingState:
    """Data, model, optimizer and hooks of a run, at a step.

    Args:
        config: every setting.
        parts: classes to build the model from; None takes the reference.
        hooks: built from `config.hooks`, all of them or the update hooks alone.
        tokenizer: of a run that goes on; None takes the one that the config names.
        ranks: the processes that make the updates together; None is this one alone.

    Attributes:
        step: updates made so far.

    Raises:
        TinyError: the corpus or the settings cannot be used.
    """

    def __init__(
        self,
        config: Config,
        parts: Parts | None,
        hooks: Sequence[Hook],
        tokenizer: Tokenizer | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        self.config, self.parts = config, parts
        self.ranks = ranks = ranks or Ranks()
        with ranks.together():
            refuse_uneven(config, ranks)
            self.device = resolve_device(own_device(config.training.device, ranks.local_rank))
            self.precision: Precision = resolve_precision(config.training.precision, self.device)
        self.data = ranks.in_turn(lambda: load_run_data(config, tokenizer))
        ranks.refuse_differences("corpora", {"the text": self.data.fingerprint}, _SAME_TEXT)
        with ranks.together():
            model = build_model(config.model, parts, seed=config.training.seed)
            self.model = model.to(self.device)
            start_workers(self.n_shards)
        self._spread = distribute(
            self.model, ranks, config.distributed.strategy, self.device, own_parts=bool(parts)
        )
        self._forward = torch.compile(self._spread) if config.training.compile else self._spread
        self.optimizer = Optimizer(self.model, config.optimizer, ranks)
        self.hooks = HookRunner(hooks, self.model, seed=config.training.seed, first=ranks.first)
        self.step = 0

    @property
    def n_shards(self) -> int:
        """Parts of a micro-batch that are computed side by side."""
        context = self.config.model.context_length
        n_ranks = self.ranks.count
        return count_shards(self.config.training, self.model, self.device, context, n_ranks)

    def numerics(self) -> dict[str, Any]:
        """Return what the exact bits of an update depend on beside the config."""
        return describe_numerics(
            self.device,
            self.precision,
            self.n_shards,
            self.ranks.count,
            self.config.distributed.strategy,
        )

    def load(self, checkpoint: Checkpoint) -> None:
        """Take over the state of a checkpoint of this run.

        Raises:
            CheckpointError: it is of another model, optimizer or list of hooks.
            DataError: the corpus is not the one that the run was trained on.
        """
        if self.data.fingerprint != checkpoint.metadata.get("data_fingerprint"):
            raise DataError(
                f"The corpus {self.config.data.corpus!r} is not the text that the checkpoint "
                f"{checkpoint.path} was trained on, or not as its tokenizer read it: it has "
                "changed since."
            )
        weights, of_optimizer = checkpoint.weights, checkpoint.optimizer_state
        if checkpoint.left:
            weights, of_optimizer = self._read_shares(checkpoint.path)
        load_weights(self.model, weights, where=str(checkpoint.path))
        self.optimizer.load_state_tensors(of_optimizer)
        self.hooks.load_state(checkpoint.hook_state, checkpoint.metadata.get("hooks", []))
        restore_generator_states(checkpoint.generators)
        self.step = checkpoint.step

    def _read_shares(self, path: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return weights and optimizer state of a sharded checkpoint, as this rank has them."""
        with self.ranks.together():
            shapes = {name: shape for name, (shape, _) in list_of(path / layout.MODEL)}
            in_optimizer = [name for name, _ in list_of(path / layout.OPTIMIZER)]
            own = named_weights(self.model)
            refuse_other_shapes(own, shapes, where=str(path))
            weights = {name: torch.zeros_like(tensor) for name, tensor in own.items()}
            of_optimizer = self.optimizer.blank_state(in_optimizer)
        read_into(path / layout.MODEL, weights)
        read_into(path / layout.OPTIMIZER, of_optimizer)
        return weights, of_optimizer

    def save(self, path: Path, metadata: Mapping[str, Any]) -> Path:
        """Write a checkpoint at `path`, with `metadata` and what belongs to the state.

        Of a sharded model every rank calls this, else the first alone.
        """
        tensors, rest = self.hooks.state()
        return save_checkpoint(
            path,
            model=self.model,
            optimizer=self.optimizer,
            step=self.step,
            config=self.config,
            tokenizer=self.data.tokenizer,
            hook_state=tensors,
            metadata={
                **metadata,
                "data_fingerprint": self.data.fingerprint,
                "numerics": self.numerics(),
                "parts": describe_parts(self.parts),
                "hooks": rest,
            },
            ranks=self.ranks if is_sharded(self.model) else None,
        )

    def evaluate(self, on_batch: Callable[[int, int], None] | None = None) -> Evaluation:
        """Return the loss on the whole validation part; nothing of the run is changed.

        Args:
            on_batch: told after each batch the targets that are done, and all of them.
        """
        with forked_rng(self.config.training.seed, "evaluate", device=self.device):
            return compute_val_loss(
                self.model,
                self.data.validation,
                context_length=self.config.model.context_length,
                batch_size=self.config.training.eval_batch_size,
                precision=self.precision,
                tokenizer=self.data.tokenizer,
                on_batch=on_batch,
                ranks=self.ranks,
            )

    def compute_gradients(self) -> Gradients:
        """Run forward and backward over the batch of this step, and clip.

        Raises:
            ConfigError: the model cannot be compiled here.
        """
        self.model.train()
        try:
            loss = self._accumulate()
        except Exception as error:
            if not (self.config.training.compile and type(error).__module__.startswith("torch._")):
                raise
            first = str(error).strip().splitlines()[0]
            raise ConfigError(
                f"torch.compile failed on this machine: {first}. It needs a C++ compiler, or "
                "Triton on a GPU; train without it: --training.compile False."
            ) from error
        norm = torch.nn.utils.clip_grad_norm_(
            self.model.parameters(), self.config.training.grad_clip or math.inf
        )
        mean = self.ranks.sum([loss])[0] / self.ranks.count
        return Gradients(mean, full(norm).item())

    def apply_gradients(self) -> float:
        """Pass the gradients through the hooks, make the update; return the learning rate."""
        settings = self.config.training
        scale = learning_rate_scale(self.step, self.config.schedule, settings.max_steps)
        by_name = self.hooks.change_gradients(self.step + 1)
        self.optimizer.step(scale, by_name)
        self.optimizer.zero_grad()
        self.step += 1
        return self.optimizer.learning_rate * scale

    def _accumulate(self) -> float:
        """Run forward and backward over this rank's micro-batches; return their mean loss."""
        settings, step = self.config.training, self.step
        n_shards, parameters = self.n_shards, list(self.model.parameters())
        rank, last = self.ranks.rank, settings.accumulation_steps - 1
        losses: list[Tensor] = []
        for micro_step, (x, y) in enumerate(
            self.data.loader.micro_batches(step, rank, self.ranks.count)
        ):
            x, y = x.to(self.device), y.to(self.device)  # (B, T) int64
            if micro_step == 0:
                with autocast(self.device, self.precision):
                    self.hooks.before_forward(step + 1, x, y)
            parts = (settings.seed, "forward", step, micro_step)
            if n_shards > 1:
                loss_of = functools.partial(self._shard_loss, parts, n_shards)
                losses += backward_in_shards(loss_of, parameters, x, y, n_shards)
                continue
            with gradients_kept(self._spread, until_later=micro_step < last):
                with forked_rng(*parts, rank, device=self.device):
                    with autocast(self.device, self.precision):
                        logits = self._forward(x)  # (B, T, V) float32
                    loss = compute_loss(logits, y) / settings.accumulation_steps
                loss.backward()
            losses.append(loss.detach())
        return torch.stack(losses).cpu().double().sum().item()

    def _shard_loss(
        self, parts: tuple[int | str, ...], n_shards: int, shard: int, x: Tensor, y: Tensor
    ) -> Tensor:
        """Return a shard's share of the batch's mean loss; dropout draws from its generator."""
        with own_generator(*parts, shard), autocast(self.device, self.precision):
            logits = self.model(x)  # (B / n, T, V) float32
        return compute_loss(logits, y) / (self.config.training.accumulation_steps * n_shards)
