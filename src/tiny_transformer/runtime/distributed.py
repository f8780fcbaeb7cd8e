"""The processes of a run: one alone, or several ranks that torchrun started.

Here is what ranks say to each other beside gradients: facts, sums, and what went wrong. A
mistake that one of them finds ends all of them, and the first one tells it.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tiny_transformer.runtime.errors import ConfigError, TinyError
from tiny_transformer.runtime.launch import has_joined, several

_PATIENCE = datetime.timedelta(days=7)  # for work that takes as long as a corpus is large
_Made = TypeVar("_Made")


class RanksError(TinyError):
    """Ranks that cannot work together: one is missing, or is not like the others."""


class LostRankError(RanksError):
    """A rank that did not answer, or went away; torchrun decides whether to start again."""

    exit_status = 1


@dataclass(frozen=True)
class Ranks:
    """The processes of a run, seen from one of them.

    Attributes:
        rank: this one's number, from 0.
        count: how many there are.
        local_rank: this one's number on its machine.
        group: of messages between processors (gloo), given up after the timeout.
        patient: the same, for work of unknown length.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    group: Any = None
    patient: Any = None

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes and tells."""
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Return the sums over all ranks, computed in float64, equal on each."""
        if self.count == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total, group=self.group)
        return total.tolist()

    def any(self, holds: bool) -> bool:
        """Return whether it holds on any rank."""
        return self.sum([float(holds)])[0] > 0

    def gather(self, value: Any, *, patient: bool = False) -> list[Any]:
        """Return every rank's value, in their order, on each."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value, group=self.patient if patient else self.group)
        return values

    @contextlib.contextmanager
    def together(self, *, patient: bool = False) -> Iterator[None]:
        """Leave the block on all ranks, or, where it fails on one, on none.

        Args:
            patient: the block may take longer than the timeout.

        Raises:
            TinyError: of this rank, or what another one's says.
        """
        if self.count == 1:
            yield
            return
        own: TinyError | None = None
        try:
            yield
        except TinyError as error:
            own = error
        told = None if own is None else (str(own), own.exit_status)
        failures = [
            (rank, *said)
            for rank, said in enumerate(self.gather(told, patient=patient))
            if said is not None
        ]
        if failures:
            rank, text, status = failures[0]
            error = own or RanksError(f"Rank {rank}: {text}")
            error.exit_status = status
            error.told = not self.first
            raise error

    def from_first(self, make: Callable[[], _Made]) -> _Made:
        """Return what the first rank's `make` returned, on each."""
        made: Any = None
        with self.together():
            if self.first:
                made = make()
        return self.gather(made)[0]

    def in_turn(self, make: Callable[[], _Made]) -> _Made:
        """Return what `make` returns, called on the first rank before all others.

        The first rank of each machine is next, so that what is kept on a disk is made once
        where all share the disk, and once on each machine where they do not.
        """
        if self.count == 1:
            return make()
        turn = 0 if self.first else 1 if self.local_rank == 0 else 2
        made: list[_Made] = []
        for now in range(3):
            with self.together(patient=True):
                if now == turn:
                    made.append(make())
        return made[0]

    def refuse_differences(self, what: str, own: Mapping[str, Any], advice: str) -> None:
        """Refuse ranks whose facts are not the first one's.

        Args:
            what: of what the facts are, for instance `"settings"`.
            own: this rank's facts by name, JSON-ready.
            advice: what to do where they differ.

        Raises:
            RanksError: names the first rank that differs, and its first fact that does.
        """
        everyone = self.gather(dict(own))
        for rank, theirs in enumerate(everyone):
            for name in [*everyone[0], *(n for n in theirs if n not in everyone[0])]:
                if theirs.get(name) != everyone[0].get(name):
                    error = RanksError(
                        f"The ranks have different {what}: {name} is {theirs.get(name)!r} on rank "
                        f"{rank}, and {everyone[0].get(name)!r} on rank 0. {advice}"
                    )
                    error.told = not self.first
                    raise error


def job_id() -> str | None:
    """Return what names the work of one torchrun through all its restarts; None without it.

    The id that `--rdzv-id` gives; where there is none, the process of torchrun itself.
    """
    given = os.environ.get("TORCHELASTIC_RUN_ID")
    if given is None:
        return None
    if given != "none":  # torchrun's default
        return given
    parent = os.getppid()
    with contextlib.suppress(OSError, IndexError):
        fields = Path(f"/proc/{parent}/stat").read_text(encoding="utf-8").rpartition(")")[2]
        return f"{socket.gethostname()}-{parent}-{fields.split()[19]}"  # when it was started
    return f"{socket.gethostname()}-{parent}"


@contextlib.contextmanager
def joined(timeout: int, *, use_cuda: bool | None = None) -> Iterator[Ranks]:
    """Join the other ranks for the block; one process alone has nobody to wait for.

    Args:
        timeout: seconds after which a rank that does not answer is given up.
        use_cuda: whether tensors of GPUs are sent too; None asks whether there is one.

    Raises:
        RanksError: the others cannot be reached.
        LostRankError: one went away, or did not answer in time.
    """
    if not several():
        yield Ranks()
        return
    from tiny_transformer.runtime.rendezvous import meet  # not every build of PyTorch has it

    limit = datetime.timedelta(seconds=timeout)
    on_gpu = torch.cuda.is_available() if use_cuda is None else use_cuda
    where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    try:
        store, rank, count = meet(limit)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
            store=store,
            rank=rank,
            world_size=count,
            timeout=limit,
        )
        ranks = Ranks(
            rank,
            count,
            int(os.environ.get("LOCAL_RANK", "0")),
            dist.new_group(backend="gloo", timeout=limit),
            dist.new_group(backend="gloo", timeout=_PATIENCE),
        )
    except (RuntimeError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise RanksError(
            f"The other processes could not be reached at {where} within {timeout} s: {first} "
            "Is the first one running there, and is its port open? Start all of them with "
            "torchrun, which sets RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT."
        ) from None
    has_joined()
    try:
        yield ranks
    except RuntimeError as error:
        if not is_lost(error):
            raise
        lost = LostRankError(
            f"Rank {ranks.rank} lost contact with the others: one has ended, or has not answered "
            f"for {timeout} s (--distributed.timeout). Its own message, or torchrun's report, says "
            "why; every checkpoint that was saved is whole."
        )
        lost.told = ranks.local_rank != 0
        raise lost from error
    finally:
        with contextlib.suppress(RuntimeError, ValueError):
            dist.destroy_process_group()


def is_lost(error: RuntimeError) -> bool:
    """Return whether an error says that another rank cannot be reached."""
    text = str(error).lower()
    signs = ("gloo", "nccl", "connection", "timed out", "timeout", "peer")
    return isinstance(error, dist.DistError) or any(sign in text for sign in signs)


def own_device(name: str, local_rank: int) -> str:
    """Return the name of this rank's device: each has a GPU of its own."""
    if name == "auto" and torch.cuda.is_available():
        name = "cuda"
    if name != "cuda":
        return name
    if local_rank >= torch.cuda.device_count():
        raise ConfigError(
            f"This machine has {torch.cuda.device_count()} GPUs, and a rank {local_rank}: start as "
            "many processes as there are GPUs (--nproc-per-node gpu)."
        )
    torch.cuda.set_device(local_rank)
    return f"cuda:{local_rank}"


def is_sharded(model: nn.Module) -> bool:
    """Return whether each rank has a share of the weights only, so that all must compute."""
    return any(hasattr(parameter, "full_tensor") for parameter in model.parameters())


def without_gradients(model: nn.Module) -> contextlib.AbstractContextManager[object]:
    """Return the context in which a model computes for its output alone."""
    return torch.no_grad() if is_sharded(model) else torch.inference_mode()


def full(tensor: Tensor) -> Tensor:
    """Return a tensor whole: one that is sharded is gathered, which every rank must do."""
    gather = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()


def local(tensor: Tensor) -> Tensor:
    """Return what this rank has of a tensor."""
    share = getattr(tensor, "to_local", None)
    return tensor if share is None else share()


def spread_like(whole: Tensor, like: Tensor) -> Tensor:
    """Return this rank's share of `whole`, sharded as `like` is; whole where that is not."""
    if not hasattr(like, "full_tensor") or hasattr(whole, "full_tensor"):
        return whole
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    return distribute_tensor(
        whole.to(like.device), like.device_mesh, like.placements, src_data_rank=None
    )
