"""What ranks say to each other, tried without a model."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from tests.distributed.helpers import SMALL, free_port, lines_of, losses_of, run_ranks, train
from torch import nn
from torch._C._distributed_c10d import HashStore
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from tiny_transformer.runtime.distributed import Ranks, RanksError, job_id, joined
from tiny_transformer.runtime.errors import DataError
from tiny_transformer.training.distributed import gradients_kept

N_RANKS = 3


def _work(rank: int, port: int, folder: str, local_ranks: list[int]) -> None:
    os.environ |= {
        **{"RANK": str(rank), "WORLD_SIZE": str(N_RANKS), "LOCAL_RANK": str(local_ranks[rank])},
        **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
    }
    notes = Path(folder) / "notes.txt"

    def note(text: str) -> None:
        with notes.open("a") as file:
            file.write(f"{text}\n")

    with joined(20, use_cuda=False) as ranks:

        def make() -> int:
            note(f"{rank} begins")
            time.sleep(0.1)
            note(f"{rank} ends")
            return rank

        assert ranks.in_turn(make) == rank
        assert ranks.sum([rank, 1.5]) == [3.0, 4.5]
        assert ranks.any(rank == 2) and not ranks.any(False)
        assert ranks.from_first(lambda: f"made by {rank}") == "made by 0"
        ranks.refuse_differences("colours", {"sky": "blue"}, "")
        try:
            with ranks.together():
                if rank == 1:
                    raise DataError("it is torn")
        except (DataError, RanksError) as error:
            note(f"{rank} {type(error).__name__} {error} told {error.told}")
        try:
            ranks.refuse_differences("colours", {"sky": "grey" if rank == 2 else "blue"}, "Look.")
        except RanksError as error:
            note(f"{rank} {error}")


def _notes(folder: Path, local_ranks: list[int]) -> list[str]:
    context, port = multiprocessing.get_context("forkserver"), free_port()
    processes = [
        context.Process(target=_work, args=(rank, port, str(folder), local_ranks))
        for rank in range(N_RANKS)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    return (folder / "notes.txt").read_text().splitlines()


@pytest.mark.requirement("distributed.corpus-once")
@pytest.mark.parametrize(
    ("local_ranks", "turns"),
    [([0, 1, 2], [["0"], ["1", "2"]]), ([0, 0, 1], [["0"], ["1"], ["2"]])],
)
def test_what_is_kept_on_a_disk_is_made_by_the_first_rank_and_then_by_each_hosts(
    tmp_path: Path, local_ranks: list[int], turns: list[list[str]]
) -> None:
    notes = _notes(tmp_path, local_ranks)
    made, told = notes[: 2 * N_RANKS], notes[2 * N_RANKS :]
    for turn in turns:
        now, made = made[: 2 * len(turn)], made[2 * len(turn) :]
        assert {note.split()[0] for note in now} == set(turn)
    assert sorted(told) == sorted(
        [
            "0 RanksError Rank 1: it is torn told False",
            "1 DataError it is torn told True",
            "2 RanksError Rank 1: it is torn told True",
            *(
                f"{rank} The ranks have different colours: sky is 'grey' on rank 2, and 'blue' on "
                "rank 0. Look."
                for rank in range(N_RANKS)
            ),
        ]
    )


@pytest.mark.requirement("distributed.corpus-once")
def test_ranks_that_start_at_once_leave_one_prepared_corpus(tmp_path: Path) -> None:
    train(tmp_path, "one", 4, "--training.max-steps", "1")
    cache = Path(os.environ["TINY_TRANSFORMER_CACHE"]) / "prepared"
    (folder,) = cache.iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["corpus.json", "tokens.bin"]


def test_one_process_alone_has_nobody_to_wait_for() -> None:
    ranks = Ranks()
    assert ranks.sum([2.0]) == [2.0] and ranks.gather("x") == ["x"] and ranks.first
    assert ranks.in_turn(lambda: 7) == ranks.from_first(lambda: 7) == 7
    with pytest.raises(DataError, match="torn"), ranks.together():
        raise DataError("it is torn")


def test_a_job_is_named_by_its_id_or_by_the_process_that_started_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert job_id() is None
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "night-shift")
    assert job_id() == "night-shift"
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    named = job_id()
    assert named is not None and str(os.getppid()) in named and named == job_id()


@pytest.mark.requirement("distributed.no-needless-sync")
def test_only_the_last_micro_step_sends_gradients() -> None:
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    try:
        ddp = nn.parallel.DistributedDataParallel(nn.Linear(2, 2))
        with gradients_kept(ddp, until_later=True):
            assert not ddp.require_backward_grad_sync
        with gradients_kept(ddp, until_later=False):
            assert ddp.require_backward_grad_sync
        sharded = fully_shard(nn.Linear(2, 2), mesh=init_device_mesh("cpu", (1,)))
        assert isinstance(sharded, nn.Module)
        group = sharded._get_fsdp_state()._fsdp_param_group
        assert group is not None
        with gradients_kept(sharded, until_later=True):
            assert not group.reduce_grads
        assert group.reduce_grads
    finally:
        dist.destroy_process_group()


@pytest.mark.requirement("distributed.hooks")
def test_observers_run_on_the_first_rank_and_update_hooks_on_each(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "import os\n"
        "from tiny_transformer.hooks.base import Observer, UpdateHook\n"
        "def note(text):\n"
        f"    with open({str(tmp_path / 'seen.txt')!r}, 'a') as file:\n"
        "        file.write(f\"{text} {os.environ['RANK']}\\n\")\n"
        "class First(Observer):\n"
        "    every = 1\n"
        "    def on_step_end(self, event):\n"
        "        note('first')\n"
        "        return {'norm': sum(event.weights[n].norm().item() for n in event.weights)}\n"
        "class Each(First):\n"
        "    each_rank = True\n"
        "    def on_step_end(self, event):\n"
        "        note('each')\n"
        "class Update(UpdateHook):\n"
        "    def learning_rate_scale(self, at):\n"
        "        if at.name == 'lm_head.weight':\n"
        "            note('update')\n"
        "        return 1.0\n"
    )
    hooks = [word for name in ("First", "Each", "Update") for word in ("--hook", f"{file}:{name}")]
    words = (*hooks, "--training.max-steps", "1", "--model.tie-weights", "False")
    norms = []
    for strategy in ("ddp", "fsdp"):
        run = train(tmp_path, strategy, 2, *words, "--distributed.strategy", strategy)
        seen = sorted((tmp_path / "seen.txt").read_text().splitlines())
        (tmp_path / "seen.txt").unlink()
        assert seen == ["each 0", "each 1", "first 0", "update 0", "update 1"]
        norms += [line["metrics"]["norm"] for line in lines_of(run, "hook")]
    assert len(norms) == 2 and norms[0] == pytest.approx(norms[1], rel=1e-6)


def test_an_observer_that_writes_text_is_told_that_no_rank_has_the_model(tmp_path: Path) -> None:
    line = ["train", *SMALL, "--hook", "sample_writer every=1", "--training.max-steps", "2"]
    line += ["--distributed.strategy", "fsdp", "--distributed.timeout", "20"]
    ended = run_ranks(tmp_path, line, line)
    assert ended[0].status == 2 and "--distributed.strategy fsdp" in ended[0].text


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_gpus_have_the_losses_of_one(tmp_path: Path, strategy: str) -> None:
    words = ("--training.device", "cuda", "--training.max-steps", "20")
    wanted = losses_of(train(tmp_path, "one", 1, *words))
    found = losses_of(train(tmp_path, "two", 2, *words, "--distributed.strategy", strategy))
    assert max(abs(found[step] - wanted[step]) for step in wanted) <= 1e-4
