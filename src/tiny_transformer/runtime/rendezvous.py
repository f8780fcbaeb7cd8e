"""How the processes of one start find each other, and nobody of an earlier start.

torchrun keeps its store through restarts, and in it the addresses of processes that are gone
(as of PyTorch 2.13); one that is early would try to reach those. So the first rank of each
start answers everyone who asks now with a name that nobody has used, for a part of the store.
"""

from __future__ import annotations

import datetime
import secrets
import time

from torch._C._distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

_PAUSE = 0.02  # seconds between two looks


def meet(timeout: datetime.timedelta) -> tuple[PrefixStore, int, int]:
    """Return a store of this start alone, this process's rank, and the number of ranks.

    Args:
        timeout: how long to wait for the others.

    Raises:
        RuntimeError: they did not come, or their address cannot be reached.
        ValueError: the environment lacks what torchrun sets.
    """
    store, rank, count = next(iter(rendezvous("env://", timeout=timeout)))
    name = _answer(store, count, timeout) if rank == 0 else _ask(store, rank, timeout)
    return PrefixStore(name, store), rank, count


def _answer(store: Store, count: int, timeout: datetime.timedelta) -> str:
    """Tell a fresh name to every rank that asks, until all have it."""
    name, missing = secrets.token_hex(8), set(range(1, count))
    deadline = time.monotonic() + timeout.total_seconds()
    while True:
        for rank in sorted(missing):
            if store.check([f"tiny/asks/{rank}"]):
                asker = store.get(f"tiny/asks/{rank}").decode()
                store.set(f"tiny/answer/{asker}", name)
            if store.check([f"tiny/ready/{name}/{rank}"]):
                missing.discard(rank)
        if not missing:
            return name
        if time.monotonic() > deadline:
            raise RuntimeError(f"rank {min(missing)} did not come")
        time.sleep(_PAUSE)


def _ask(store: Store, rank: int, timeout: datetime.timedelta) -> str:
    """Ask with a word that nobody has used, so that the answer is of now."""
    asker = secrets.token_hex(8)
    store.set(f"tiny/asks/{rank}", asker)
    store.wait([f"tiny/answer/{asker}"], timeout)
    name = store.get(f"tiny/answer/{asker}").decode()
    store.set(f"tiny/ready/{name}/{rank}", "")
    return name
