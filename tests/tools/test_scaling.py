"""Costs on paper are those worked by hand, and speeds are read from a run's own log."""

from __future__ import annotations

import dataclasses
import datetime
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from tools.scaling_tables import costs, measured, paper
from tools.scaling_tables.costs import Machine, Strategy, Workload
from tools.scaling_tables.measured import ALONE, ScalingError, Setup, Task
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode

from tiny_transformer.bench.measure import Rate
from tiny_transformer.config import ModelConfig, OptimizerConfig
from tiny_transformer.model.loss import compute_loss
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.runtime.distributed import Ranks
from tiny_transformer.training.distributed import distribute, gradients_kept
from tiny_transformer.training.optimizer import Optimizer
from tiny_transformer.viz.memory import estimate_memory
from tools import scaling

# A block: 4 matrices of 4 x 4, 2 of 4 x 16, 2 norms of 4: 200. Outside: 10 x 4, and a norm: 44.
CONFIG = ModelConfig(
    n_layers=3, d_model=4, n_heads=1, context_length=8, vocab_size=10, dropout=0.0,
    norm="rms_norm", position="rotary", bias=False,
)  # fmt: skip
PARAMETERS = 644
WORK = Workload("made up", CONFIG, windows=8)
OPERATIONS = 6 * 644 + 12 * 3 * 8 * 4  # of a token: 5016
# 50 tokens a second; 100,000 bytes a second in a node of two, 6000 between nodes.
MACHINE = Machine("made up", 1e6, 100 * OPERATIONS, 0.5, 100_000, 6000, 2)


# Costs


@pytest.mark.requirement("scaling.costs")
def test_parameters_are_counted_by_block_and_outside() -> None:
    assert WORK.parameters == PARAMETERS
    assert costs.block_parameters(CONFIG) == 200
    assert costs.root_parameters(CONFIG) == 44
    assert WORK.tokens == 64


@pytest.mark.requirement("scaling.costs")
@pytest.mark.parametrize("n", [1, 2, 3, 4, 8])
def test_a_ring_sends_what_the_formulas_say(n: int) -> None:
    size = 840  # bytes; each rank has n pieces of it
    have: list[list[set[int]]] = [[{rank} for _ in range(n)] for rank in range(n)]
    sent = [0.0] * n
    for turn in range(2 * (n - 1)):  # first sums pass round, then whole pieces
        passed = []
        for rank in range(n):
            piece = (rank - turn) % n
            passed.append(((rank + 1) % n, piece, set(have[rank][piece])))
            sent[rank] += size / n
        for rank, piece, ranks in passed:
            have[rank][piece] |= ranks
    assert all(piece == set(range(n)) for pieces in have for piece in pieces)
    assert sent == pytest.approx([costs.all_reduce_bytes(size, n)] * n)
    assert 2 * costs.gather_bytes(size, n) == costs.all_reduce_bytes(size, n)
    assert costs.gather_bytes(100, 4) == 75


@pytest.mark.requirement("scaling.costs")
def test_a_ring_is_as_fast_as_its_slowest_link() -> None:
    assert [MACHINE.ring(n) for n in (1, 2, 3, 4)] == [100_000, 100_000, 6000, 6000]
    assert dataclasses.replace(MACHINE, node_out=1e9).ring(4) == 100_000
    assert paper.H100.ring(8) == 450e9
    assert paper.H100.ring(16) == 400e9  # eight cards of 50 GB/s for what leaves the node


@pytest.mark.requirement("scaling.costs")
@pytest.mark.parametrize(
    ("strategy", "n_gpus", "micro_steps", "state", "whole"),
    [
        ("ddp", 1, 1, 16 * 644, 0),
        ("ddp", 4, 2, 16 * 644, 0),
        ("fsdp", 1, 1, 16 * 644, 0),
        ("fsdp", 4, 1, 4 * 644, 4 * (444 + 444)),  # two blocks and the root
        ("fsdp", 4, 2, 4 * 644, 4 * (444 + 644)),  # gradients are kept whole until the last
    ],
)
def test_memory_by_hand(
    strategy: Strategy, n_gpus: int, micro_steps: int, state: int, whole: int
) -> None:
    held = costs.gpu_memory(CONFIG, strategy, n_gpus, 2, micro_steps)
    assert (held.state, held.whole) == (state, whole)
    estimate = estimate_memory(CONFIG, batch_size=2, precision="bfloat16")
    assert held.activations == estimate.activations > 0
    assert held.total == state + whole + held.activations


@pytest.mark.requirement("scaling.costs")
def test_a_single_block_is_not_counted_twice() -> None:
    config = dataclasses.replace(CONFIG, n_layers=1)
    assert costs.gpu_memory(config, "fsdp", 2, 1).whole == 4 * (244 + 244)


@pytest.mark.requirement("scaling.costs")
def test_the_micro_batch_is_the_largest_that_fits() -> None:
    def holding(windows: int, micro_steps: int) -> Machine:
        total = costs.gpu_memory(CONFIG, "ddp", 2, windows, micro_steps).total
        return dataclasses.replace(MACHINE, memory=total / costs.HEADROOM)

    assert costs.micro_batch(WORK, "ddp", 2, holding(4, 1)) == 4  # a GPU's whole share
    assert costs.micro_batch(WORK, "ddp", 2, holding(3, 1)) == 2  # 3 does not divide it
    assert costs.micro_batch(WORK, "ddp", 2, holding(1, 4)) == 1
    assert costs.micro_batch(WORK, "ddp", 2, dataclasses.replace(MACHINE, memory=1)) is None


@pytest.mark.requirement("scaling.costs")
def test_a_step_with_ddp_by_hand() -> None:
    step = costs.gpu_step(WORK, "ddp", 4, 1, MACHINE)
    assert step.compute == pytest.approx(16 / 50)
    assert step.sent == 2 * 3 / 4 * 4 * 644
    assert step.sending == pytest.approx(3864 / 6000)
    assert step.exposed == pytest.approx(0.644 - 2 / 3 * 0.32)
    assert step.seconds == pytest.approx(0.32 + step.exposed)
    assert step.efficiency == pytest.approx(0.32 / (0.32 + 0.430667), rel=1e-5)
    # Only the last of two micro-steps hides it.
    later = costs.gpu_step(WORK, "ddp", 4, 2, MACHINE)
    assert later.exposed == pytest.approx(0.644 - 2 / 3 * 0.16)
    assert costs.gpu_step(WORK, "ddp", 1, 1, MACHINE).efficiency == 1


@pytest.mark.requirement("scaling.costs")
def test_a_step_with_fsdp_by_hand() -> None:
    step = costs.gpu_step(WORK, "fsdp", 4, 2, MACHINE)
    gather, again = 3 / 4 * 4 * 644, 3 / 4 * 4 * 600  # the root is not gathered again
    assert step.sent == 2 * (gather + again) + gather == 9396
    assert step.sending == pytest.approx(1.566)
    forward, backward = 0.322 - 0.16 / 3, 0.3 - 0.16 * 2 / 3
    assert step.exposed == pytest.approx(2 * forward + backward + 0.622 - 0.16 * 2 / 3)


@pytest.mark.requirement("scaling.costs")
def test_muon_sends_its_updates_on_top() -> None:
    matrices = 3 * (64 + 128)
    assert costs.muon_bytes(CONFIG, "ddp", 4) == 3 / 4 * 4 * matrices
    assert costs.muon_bytes(CONFIG, "fsdp", 4) == 2 * 3 / 4 * 4 * matrices


@pytest.mark.requirement("scaling.costs")
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_fewer_tokens_than_hide_the_sending_leave_some_of_it(strategy: Strategy) -> None:
    assert costs.hiding_tokens(CONFIG, 4, MACHINE) == pytest.approx(12 * 644 * 0.75 / 6000 * 50)
    for factor, hidden in ((0.999, False), (1.001, True)):  # a GPU has 16 tokens
        speed = MACHINE.peak * 16 / costs.hiding_tokens(CONFIG, 4, MACHINE) / factor
        machine = dataclasses.replace(MACHINE, peak=speed)
        assert (costs.gpu_step(WORK, strategy, 4, 1, machine).exposed == 0) is hidden


@pytest.mark.requirement("scaling.costs")
def test_a_training_is_twenty_tokens_a_parameter() -> None:
    step = costs.Step(compute=2.0, sent=0, sending=0, exposed=1.0)
    assert costs.training_seconds(WORK, step) == pytest.approx(20 * 644 / 64 * 3)


class Sent(TorchDispatchMode):
    """Adds up what a rank sends in a ring, of what passes through PyTorch's collectives."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.n, self.bytes = n, 0.0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.name()
        whole = {
            "c10d::_allgather_base_": lambda: args[0].nbytes,  # the output
            "c10d::allgather_": lambda: sum(tensor.nbytes for tensor in args[0][0]),
            "_c10d_functional::all_gather_into_tensor": lambda: args[0].nbytes * args[1],
            "c10d::_reduce_scatter_base_": lambda: args[1].nbytes,  # the input
        }.get(name)
        if whole is not None:
            self.bytes += costs.gather_bytes(whole(), self.n)
        assert whole is not None or not re.match(r"_?c10d.*(reduce|gather|broadcast|to_?all)", name)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def four_ranks() -> Iterator[Ranks]:
    """A group of four in one process, whose collectives send nothing."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=4)
    yield Ranks(0, 4, 0)
    dist.destroy_process_group()


@pytest.mark.requirement("scaling.costs")
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_the_engine_sends_what_the_paper_says(strategy: Strategy, four_ranks: Ranks) -> None:
    n, micro_steps = four_ranks.count, 3
    config = ModelConfig(
        n_layers=4, d_model=16, n_heads=2, context_length=8, vocab_size=12, dropout=0.0,
        norm="rms_norm", position="rotary", bias=False,
    )  # fmt: skip
    work = Workload("counted", config, windows=n * micro_steps)
    model, x = Transformer(config, seed=1), torch.randint(12, (1, 8))
    spread = distribute(model, four_ranks, strategy, torch.device("cpu"), own_parts=False)
    muon = Optimizer(model, OptimizerConfig(name="muon"), four_ranks)
    summed: list[float] = []

    def hook(state, bucket):  # without annotations, which PyTorch would compare with its own
        """Stand in for DDP's sum, which no dispatch mode sees."""
        summed.append(costs.all_reduce_bytes(bucket.buffer().nbytes, n))
        done: torch.futures.Future[torch.Tensor] = torch.futures.Future()
        done.set_result(bucket.buffer())
        return done

    if isinstance(spread, torch.nn.parallel.DistributedDataParallel):
        spread.register_comm_hook(None, hook)
    with Sent(n) as sent:
        for number in range(micro_steps):
            with gradients_kept(spread, until_later=number < micro_steps - 1):
                compute_loss(spread(x), x).backward()
    expected = costs.gpu_step(work, strategy, n, micro_steps, paper.H100).sent
    assert sent.bytes + sum(summed) == pytest.approx(expected)
    assert bool(summed) is (strategy == "ddp")
    with Sent(n) as updates:
        muon.step(1.0)
    assert updates.bytes == pytest.approx(costs.muon_bytes(config, strategy, n))


# Tables


@pytest.mark.requirement("scaling.costs")
def test_the_models_on_paper_are_of_the_sizes_they_are_called() -> None:
    assert paper.SMALL.parameters == pytest.approx(100e6, rel=0.03)
    assert paper.LARGE.parameters == pytest.approx(1e9, rel=0.03)
    sizes = {"125 M": 125e6, "350 M": 350e6, "1.3 B": 1.3e9, "2.7 B": 2.7e9, "6.7 B": 6.7e9,
             "13 B": 13e9}  # fmt: skip
    for name, size in sizes.items():
        work = Workload(name, paper.SIZES[name], 1)
        assert work.parameters == pytest.approx(size, rel=0.06), name


def cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]


@pytest.mark.requirement("scaling.costs")
@pytest.mark.parametrize("work", paper.WORKLOADS, ids=lambda work: work.name)
def test_the_tables_have_each_number_of_gpus_with_both_strategies(work: Workload) -> None:
    both = [(str(n), name) for n in (2, 4, 8, 16, 32, 64) for name in ("DDP", "FSDP")]
    memory, time = cells(paper.memory_table(work)), cells(paper.time_table(work))
    assert [(row[0], row[1]) for row in memory[2:]] == [("1", ""), *both]
    assert [row[0] for row in time[2:]] == ["1", "2", "4", "8", "16", "32", "64"]
    assert all("," in cell for row in time[3:] for cell in row[3:])
    for rows in (memory, time):
        assert len({len(row) for row in rows}) == 1


@pytest.mark.requirement("scaling.costs")
def test_a_row_of_the_time_table_is_what_the_functions_say() -> None:
    work = paper.LARGE
    windows = costs.micro_batch(work, "ddp", 16, paper.H100)
    assert windows is not None
    step = costs.gpu_step(work, "ddp", 16, 32 // windows, paper.H100)
    row = cells(paper.time_table(work))[2 + 4]
    assert row[0] == "16"
    assert row[1] == f"{1000 * step.compute:,.0f}"
    assert row[3].startswith(f"{step.sent / 1e9:.2f}, ")
    slow = costs.gpu_step(work, "ddp", 16, 32 // windows, paper.SLOWER[0])
    assert row[6].startswith(f"{100 * slow.efficiency:.0f}, ")
    assert slow.efficiency < step.efficiency


@pytest.mark.requirement("scaling.costs")
def test_a_model_that_does_not_fit_is_called_so() -> None:
    small = dataclasses.replace(paper.H100, memory=20e9)
    rows = cells(paper.memory_table(paper.LARGE, small))[2:]
    assert rows[0][2] == "no"  # 16 GB of state alone
    assert rows[-1][2] != "no"
    sizes = {row[0]: row[1:] for row in cells(paper.size_table())[2:]}
    assert "too much" not in sizes["1.3 B"][0]
    assert "too much" in sizes["13 B"][0]
    assert "too much" not in sizes["13 B"][-1]


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(40, "40 s"), (100, "1.7 min"), (7200, "2.0 h"), (200_000, "2.3 days")],
)
def test_times_as_people_say_them(seconds: float, told: str) -> None:
    assert paper._span(seconds) == told


# Measured


@pytest.mark.requirement("scaling.measured")
def test_the_ways_to_use_a_machine() -> None:
    def told(n_cores: int) -> list[str]:
        return [str(setup) for setup in measured.setups(n_cores)]

    assert told(1) == ["1 process, 1 thread"]
    assert told(2) == [
        "1 process, 1 thread", "1 process, 2 threads",
        "2 processes, 1 thread each, ddp", "2 processes, 1 thread each, fsdp",
    ]  # fmt: skip
    assert [setup.processes for setup in measured.setups(6)] == [1, 1, 2, 2, 4, 4]
    assert max(setup.processes for setup in measured.setups(128)) == 16  # the batch has 16 windows
    assert measured.cores() >= 1


@pytest.mark.requirement("scaling.measured")
def test_the_first_steps_do_not_count() -> None:
    lines: list[dict[str, Any]] = [{"event": "start"}]
    rates = [1, 1, 1, 30, 10, 20]
    lines += [{"event": "train", "tokens_per_second": rate} for rate in rates]
    lines += [{"event": "eval", "tokens_per_second": 99}]
    assert measured.middle_rate(lines) == 20
    with pytest.raises(ScalingError, match="3 steps"):
        measured.middle_rate(lines[:4])


@pytest.mark.requirement("scaling.measured")
def test_a_run_is_trained_and_its_log_is_read(tmp_path: Path) -> None:
    rate = measured.train(Task("tiny", "adamw"), ALONE, tmp_path, "first", 5)
    assert rate > 0
    assert (tmp_path / "runs" / "first" / "log.jsonl").is_file()


def test_a_run_that_fails_is_told_with_its_own_words(tmp_path: Path) -> None:
    with pytest.raises(ScalingError, match=r"tinny.*\n.*status 2(.|\n)*tinny"):
        measured.train(Task("tinny", "adamw"), ALONE, tmp_path, "first", 5)


@pytest.mark.requirement("scaling.measured")
def test_several_processes_are_started_by_torchrun(tmp_path: Path) -> None:
    words = measured.command(Task("base", "muon"), Setup(2, 1, "fsdp"), tmp_path, "a", 9)
    line = " ".join(words)
    assert "-m torch.distributed.run --nproc-per-node 2 -m tiny_transformer train" in line
    assert "--distributed.strategy fsdp" in line
    assert "--optimizer.name muon" in line
    alone = " ".join(measured.command(Task("base", "muon"), ALONE, tmp_path, "a", 9))
    assert "torch.distributed.run" not in alone
    assert "--distributed.strategy" not in alone


@pytest.mark.requirement("scaling.measured")
def test_each_way_has_its_turn_in_each_round(tmp_path: Path) -> None:
    task, turns = Task("tiny", "adamw"), []

    def train(task: Task, setup: Setup, folder: Path, name: str, steps: int) -> float:
        turns.append((setup, name))
        assert (folder, steps) == (tmp_path, 7)
        return 100.0 * setup.processes * setup.threads + len(turns)

    told: list[str] = []
    rates = measured.measure(tmp_path, 3, 7, [task], 2, train, told.append)
    ways = measured.setups(2)
    assert [setup for setup, _ in turns] == ways * 3
    assert len({name for _, name in turns}) == len(turns) == len(told)
    assert rates[task][ALONE].samples == (101, 105, 109)
    table = cells(measured.measured_table(rates))
    assert table[2] == ["1 process, 1 thread", "105", ""]
    assert table[3] == ["1 process, 2 threads", "206", "1.96 (1.93 to 2.00)"]


def test_the_line_under_the_table_says_where_and_when() -> None:
    line = measured.describe(3, 15, 0.5, datetime.date(2026, 11, 22))
    assert "2026-11-22, 3 rounds of 15 steps of 16 windows." in line
    assert f"torch {torch.__version__}" in line
    assert "load average at the start 0.5" in line


# The page


def a_project(folder: Path) -> Path:
    """Return a folder with the files that the page quotes, and a page with nothing in it."""
    for name in scaling.QUOTED:
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(f"# {name}\n", encoding="utf-8")
    names = [*scaling.paper_sections(folder), scaling.MEASURED]
    lines = [f"<!-- made: {name} -->\nold\n<!-- end: {name} -->\n" for name in names]
    (folder / "docs").mkdir()
    (folder / scaling.PAGE).write_text("before\n" + "".join(lines) + "after\n", encoding="utf-8")
    return folder


@pytest.mark.requirement("scaling.page-sync")
def test_the_page_is_written_and_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = ["--root", str(a_project(tmp_path))]
    page = tmp_path / scaling.PAGE
    assert scaling.main([*root, "--check"]) == 1
    assert "out of step" in capsys.readouterr().err
    assert scaling.main([*root, "--paper", "--write"]) == 0
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n")
    assert text.count("old") == 1  # what is measured is left alone
    assert "# examples/cluster/slurm.sh" in text
    assert scaling.main([*root, "--check"]) == 0
    (tmp_path / "examples" / "cluster" / "slurm.sh").write_text("changed\n")
    assert scaling.main([*root, "--check"]) == 1
    assert page.read_text() == text


@pytest.mark.requirement("scaling.page-sync")
def test_one_command_measures_and_writes_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rates = {Task("tiny", "muon"): {ALONE: Rate((2.0,)), Setup(2, 1, "ddp"): Rate((3.0,))}}

    def measure(folder: Path, rounds: int, steps: int) -> measured.Rates:
        assert (rounds, steps) == (1, 4)
        return rates

    monkeypatch.setattr(measured, "measure", measure)
    arguments = ["--root", str(a_project(tmp_path)), "--rounds", "1", "--steps", "4"]
    assert scaling.main(arguments) == 0
    assert "1.50 (1.50 to 1.50)" in capsys.readouterr().out
    assert "old" in (tmp_path / scaling.PAGE).read_text()
    assert scaling.main([*arguments, "--write"]) == 0
    text = (tmp_path / scaling.PAGE).read_text()
    assert "1.50 (1.50 to 1.50)" in text
    assert "old" not in text


def test_what_cannot_be_done_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = ["--root", str(a_project(tmp_path))]
    assert scaling.main([*root, "--rounds", "0"]) == 2
    assert scaling.main([*root, "--steps", "3"]) == 2
    assert "--steps at least 4" in capsys.readouterr().err

    def measure(folder: Path, rounds: int, steps: int) -> measured.Rates:
        raise ScalingError("the run failed")

    monkeypatch.setattr(measured, "measure", measure)
    assert scaling.main(root) == 1
    assert capsys.readouterr().err == "scaling: the run failed\n"
    (tmp_path / scaling.PAGE).write_text("nothing\n")
    assert scaling.main([*root, "--check"]) == 1
    assert "has no lines <!-- made: 100 M in memory -->" in capsys.readouterr().err
