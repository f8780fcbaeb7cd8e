"""`docs/scaling.md` and `examples/cluster`: every line is one that its program takes, and runs."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tools.scaling_tables import costs, paper
from tools.scaling_tables.costs import Machine, Strategy, Workload

from tiny_transformer.cli.main import COMMANDS
from tiny_transformer.cli.options import parse
from tiny_transformer.cli.resume import Resume
from tiny_transformer.cli.train import Train
from tools import scaling

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / scaling.PAGE).read_text(encoding="utf-8")
CLUSTER = ROOT / "examples" / "cluster"
BIN = Path(sys.executable).parent
SMALL = [
    *("--data.corpus", "simple", "--training.device", "cpu", "--training.precision", "float32"),
    *("--model.n-layers", "1", "--model.d-model", "16", "--model.n-heads", "2"),
    *("--model.context-length", "16", "--training.max-steps", "3", "--training.batch-size", "4"),
    *("--training.eval-every", "0", "--training.checkpoint-every", "0"),
    *("--training.sample-every", "0", "--sampling.max-new-tokens", "4"),
]
"""Flags of a run of a fraction of a second."""


def documents(name: str) -> list[dict[str, Any]]:
    """Return what a YAML file of the cluster holds."""
    return list(yaml.safe_load_all((CLUSTER / name).read_text(encoding="utf-8")))


def kinds(name: str) -> dict[str, dict[str, Any]]:
    """Return the objects of a Kubernetes file by kind."""
    return {document["kind"]: document for document in documents(name)}


def script(words: list[str]) -> str:
    """Return the script of a container's command: bash -c SCRIPT tiny."""
    assert words[:2] == ["bash", "-c"]
    assert words[3:] == ["tiny"]
    return words[2]


def sky() -> dict[str, Any]:
    (task,) = documents("sky.yaml")
    return task


def kubernetes_container() -> dict[str, Any]:
    (container,) = kinds("kubernetes.yaml")["Job"]["spec"]["template"]["spec"]["containers"]
    return container


def kubeflow_trainer() -> dict[str, Any]:
    return kinds("kubeflow.yaml")["TrainJob"]["spec"]["trainer"]


SCRIPTS = {
    "sky.yaml": sky()["run"],
    "slurm.sh": (CLUSTER / "slurm.sh").read_text(encoding="utf-8"),
    "kubernetes.yaml": script(kubernetes_container()["command"]),
    "kubeflow.yaml": script(kubeflow_trainer()["command"]),
}


# The page


@pytest.mark.requirement("scaling.page-sync")
def test_tables_and_quoted_files_are_what_the_tool_makes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert scaling.main(["--check"]) == 0, capsys.readouterr().err


@pytest.mark.requirement("scaling.page-sync")
def test_the_numbers_between_the_tables_are_those_of_the_functions() -> None:
    text = " ".join(PAGE.split())
    small, large = paper.SMALL, paper.LARGE
    fast, slow, slowest = paper.H100, *paper.SLOWER

    def seconds(work: Workload, n_gpus: int, machine: Machine) -> float:
        return paper._step(work, "ddp", n_gpus, machine).seconds

    def gain(work: Workload, n_gpus: int) -> str:
        return f"{seconds(work, 8, slow) / seconds(work, n_gpus, slow):.1f}"

    assert gain(small, 16) == gain(large, 16)
    assert (
        f"a second node makes the training {gain(small, 16)} times as fast, and eight make the "
        f"small model {gain(small, 64)} times and the large one {gain(large, 64)} times" in text
    )
    for work in paper.WORKLOADS:
        assert all(seconds(work, n, slowest) > seconds(work, 8, slowest) for n in (16, 32, 64))
    state, whole = (costs.gpu_memory(small.config, "ddp", 1, 64), "the state is a thirtieth of it")
    assert 27 < state.total / state.state < 33 and whole in text
    twice = [paper._step(large, strategy, 2, fast).sent for strategy in paper.STRATEGIES]
    assert 28 < twice[1] / twice[0] < 33 and "on two GPUs it sends 30 times as much" in text
    size = 4 * small.parameters
    assert f"its {size / 1e9:.1f} GB in {size / 25e6:.0f} buckets of 25 MB" in text
    assert f"{size / 25e6 * 126 * 5e-6 * 1000:.0f} ms a step" in text
    assert f"a step is {1000 * seconds(small, 64, fast):.0f} ms long" in text
    muon = costs.muon_bytes(large.config, "ddp", 64) / fast.ring(64)
    whole_step = seconds(large, 64, fast)
    assert f"{1000 * muon:.0f} ms of the {1000 * whole_step:.0f} of a step" in text


@pytest.mark.requirement("scaling.page-sync")
def test_the_largest_models_that_it_names_fit_and_the_next_do_not() -> None:
    text, names = " ".join(PAGE.split()), list(paper.SIZES)

    def largest(strategy: Strategy, n_gpus: int, memory: float) -> str:
        held = {
            name: costs.gpu_memory(config, strategy, n_gpus, windows=1).total
            for name, config in paper.SIZES.items()
        }
        return max((n for n in names if held[n] <= costs.HEADROOM * memory), key=names.index)

    first, second = largest("ddp", 1, 80e9), largest("ddp", 1, 24e9)
    assert f"up to {first} parameters on cards of 80 GB, and {second} on cards of 24" in text
    first, second = largest("fsdp", 8, 80e9), largest("fsdp", 8, 24e9)
    assert f"FSDP on eight of them {first} and {second}" in text


def commands(text: str, program: str) -> list[list[str]]:
    """Return the commands of a shell text that begin with a program, as words."""
    text = re.sub(r"\\\n", " ", text)
    lines = [re.sub(r"(^|\s)# .*", "", line) for line in text.splitlines()]
    pattern = re.compile(rf"(?:^|\s)({program} .*)")
    return [shlex.split(found[1]) for line in lines if (found := pattern.search(line))]


def shell_of(page: str) -> str:
    return "\n".join(re.findall(r"^```sh\n(.*?)^```", page, re.M | re.S))


@pytest.mark.requirement("scaling.page-lines")
@pytest.mark.parametrize("text", [shell_of(PAGE), *SCRIPTS.values()], ids=["page", *SCRIPTS])
def test_torchrun_and_tiny_take_every_line(text: str) -> None:
    from torch.distributed.run import get_args_parser

    found = commands(text, "torchrun")
    assert found
    for words in found:
        options = get_args_parser().parse_args(words[1:])
        assert options.training_script == ("tiny_transformer" if options.module else "tiny")
        assert options.no_python is not options.module
        command, *rest = options.training_script_args
        if command.startswith("$"):
            continue
        assert command in ("train", "resume")
        check_flags(command, rest)


def check_flags(command: str, words: list[str]) -> None:
    if command == "train":
        if "--config" in words:  # a name or a file of the reader's
            at = words.index("--config")
            words = words[:at] + words[at + 2 :]
        parse(Train, words, "train", default=Train())
    elif command == "resume":
        parse(Resume, words, "resume")
    else:
        assert command in COMMANDS


@pytest.mark.requirement("scaling.page-lines")
def test_every_tiny_command_and_flag_of_the_page_exists() -> None:
    for words in commands(shell_of(PAGE), r"^tiny"):
        check_flags(words[1], words[2:])
    assert set(re.findall(r"`tiny ([a-z]+)", PAGE)) <= set(COMMANDS)
    for flag in set(re.findall(r"--((?:distributed|training)\.[\w-]+)", PAGE)):
        section, _, name = flag.partition(".")
        settings = getattr(Train().settings, section)
        assert hasattr(settings, name.replace("-", "_")), flag
    timeout = Train().settings.distributed.timeout
    assert f"`--distributed.timeout` seconds ({timeout} by default)" in PAGE


# The files


@pytest.mark.requirement("scaling.cluster-files")
def test_the_task_of_skypilot_has_what_it_wants() -> None:
    task = sky()
    known = {"name", "num_nodes", "workdir", "resources", "volumes", "envs", "setup", "run"}
    assert set(task) == known
    assert task["num_nodes"] == 2
    assert all(isinstance(value, str) for value in task["envs"].values())
    (volume,) = documents("volume.yaml")
    assert task["volumes"] == {task["envs"]["SHARED"]: volume["name"]}
    assert volume["config"]["access_mode"] == "ReadWriteMany"
    for name in set(re.findall(r"\b(SKYPILOT_\w+|(?<=\$)[A-Z]+)\b", task["run"])):
        assert name in task["envs"] or name in {
            "SKYPILOT_NUM_NODES", "SKYPILOT_NUM_GPUS_PER_NODE", "SKYPILOT_NODE_IPS",
            "SKYPILOT_NODE_RANK", "SKYPILOT_TASK_ID",
        }, name  # fmt: skip
    (made,) = re.findall(r"bash (\S+) run", task["setup"])
    assert (ROOT / made).is_file()


@pytest.mark.requirement("scaling.cluster-files")
def test_skypilot_takes_the_task() -> None:
    sky = pytest.importorskip("sky")
    task = sky.Task.from_yaml(str(CLUSTER / "sky.yaml"))
    assert task.num_nodes == 2
    (resources,) = task.resources
    assert resources.accelerators == {"H100": 8}


@pytest.mark.requirement("scaling.cluster-files")
def test_the_slurm_script_is_bash_with_directives_before_its_commands() -> None:
    path = CLUSTER / "slurm.sh"
    assert os.access(path, os.X_OK)
    done = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    lines = path.read_text().splitlines()
    first = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    directives = [line for line in lines if line.startswith("#SBATCH ")]
    assert set(directives) <= set(lines[:first])  # Slurm reads no further
    named = (line.removeprefix("#SBATCH --").partition("=") for line in directives)
    options = {name: value for name, _, value in named}
    assert options["nodes"] == "2"
    assert options["ntasks-per-node"] == "1"  # torchrun starts the processes
    assert {"requeue", "signal", "open-mode", "gpus-per-node", "cpus-per-task"} <= set(options)


@pytest.mark.requirement("scaling.cluster-files")
def test_shellcheck_finds_nothing() -> None:
    program = shutil.which("shellcheck", path=f"{BIN}{os.pathsep}{os.environ['PATH']}")
    if program is None:
        pytest.skip("shellcheck is not installed: make lint")
    done = subprocess.run([program, str(CLUSTER / "slurm.sh")], capture_output=True, text=True)
    assert done.stdout == ""


@pytest.mark.requirement("scaling.cluster-files")
def test_the_kubernetes_objects_name_each_other() -> None:
    objects = kinds("kubernetes.yaml")
    assert set(objects) == {"Service", "PersistentVolumeClaim", "Job"}
    service, claim, job = objects["Service"], objects["PersistentVolumeClaim"], objects["Job"]
    name, spec = job["metadata"]["name"], job["spec"]
    pod, container = spec["template"]["spec"], kubernetes_container()
    assert service["spec"]["clusterIP"] == "None"  # the word: a headless Service
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": name}
    assert pod["subdomain"] == service["metadata"]["name"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert volumes["runs"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
    assert spec["completionMode"] == "Indexed"
    assert pod["restartPolicy"] == "Never"  # a pod failure policy wants it
    values = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert values["NODES"] == str(spec["completions"]) == str(spec["parallelism"])
    assert values["GPUS"] == str(container["resources"]["limits"]["nvidia.com/gpu"])
    assert values["HEAD"] == f"{name}-0.{pod['subdomain']}:29500"
    used = set(re.findall(r"\$(\w+)", SCRIPTS["kubernetes.yaml"]))
    assert used <= set(values)


@pytest.mark.requirement("scaling.cluster-files")
def test_the_kubeflow_objects_name_each_other() -> None:
    objects = kinds("kubeflow.yaml")
    runtime, job = objects["TrainingRuntime"], objects["TrainJob"]
    assert job["spec"]["runtimeRef"]["name"] == runtime["metadata"]["name"]
    trainer = kubeflow_trainer()
    policy = runtime["spec"]["mlPolicy"]
    assert trainer["numNodes"] == policy["numNodes"]
    assert "torch" in policy  # else Trainer sets none of torchrun's variables
    assert trainer["resourcesPerNode"]["limits"]["nvidia.com/gpu"] == trainer["numProcPerNode"]
    (replicated,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    (container,) = replicated["template"]["spec"]["template"]["spec"]["containers"]
    assert replicated["name"] == container["name"] == "node"  # the names that Trainer looks for
    # Trainer refuses a job that sets what it sets itself.
    assert not any(entry["name"].startswith("PET_") for entry in trainer["env"])


@pytest.mark.requirement("scaling.cluster-files")
def test_the_image_is_made_of_what_is_there() -> None:
    lines = (CLUSTER / "Dockerfile").read_text().splitlines()
    copied = [word for line in lines if line.startswith("COPY ") for word in line.split()[1:-1]]
    assert {"pyproject.toml", "src", "course", "constraints"} <= set(copied)
    assert [name for name in copied if not (ROOT / name).exists()] == []


# The commands, as two nodes on one machine


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def variables(**more: str) -> dict[str, str]:
    """Return the environment of a node: this one's, with `tiny` and `torchrun` first."""
    assert (BIN / "torchrun").exists() and (BIN / "tiny").exists()
    hidden = ("SLURM_", "SKYPILOT_", "PET_", "TORCHELASTIC_", "MASTER_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    return {**kept, "PATH": path, "OMP_NUM_THREADS": "1", **more}


def run_nodes(words: list[str], folder: Path, each: list[dict[str, str]]) -> None:
    """Run a command once a node, at the same time, until all have ended well."""
    nodes = [
        subprocess.Popen(
            words, cwd=folder, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for environment in each
    ]  # fmt: skip
    try:
        for node in nodes:
            said, _ = node.communicate(timeout=180)
            assert node.returncode == 0, said
    finally:
        for node in nodes:
            node.kill()
            node.wait()


def check_run(runs: Path, job: str) -> None:
    """Check that two ranks made one run, which is known by the job's id."""
    (run,) = [path for path in runs.iterdir() if path.is_dir()]
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["event"] == "end"
    assert [line["step"] for line in lines if line["event"] == "train"] == [1, 2, 3]
    environment = json.loads((run / "environment.json").read_text())
    assert environment["ranks"] == 2
    assert environment["job"] == job


@pytest.mark.requirement("scaling.cluster-files")
@pytest.mark.slow
def test_the_run_of_skypilot_on_two_nodes(tmp_path: Path) -> None:
    workdir, shared = tmp_path / "sky_workdir", tmp_path / "shared"
    (workdir / ".venv" / "bin").mkdir(parents=True)
    (workdir / ".venv" / "bin" / "activate").write_text(f"PATH={shlex.quote(str(BIN))}:$PATH\n")
    given = {
        **sky()["envs"],
        "TRAIN": shlex.join(["train", *SMALL]),
        "SHARED": str(shared),
        "PORT": str(free_port()),
        "SKYPILOT_NODE_IPS": "127.0.0.1\n127.0.0.1",
        "SKYPILOT_NUM_NODES": "2",
        "SKYPILOT_NUM_GPUS_PER_NODE": "1",
        "SKYPILOT_TASK_ID": "sky-managed-2026-11-22-22-30-00-000000_tiny_1-0",
    }
    nodes = [variables(**given, SKYPILOT_NODE_RANK=rank) for rank in "01"]
    run_nodes(["bash", "-c", sky()["run"]], workdir, nodes)
    check_run(shared / "runs", given["SKYPILOT_TASK_ID"])
    assert (shared / "cache").is_dir()


TINY = """#!/usr/bin/env bash
exec >"rank-$RANK"
printf '%s\\n' "$WORLD_SIZE" "$TORCHELASTIC_RUN_ID" "$TINY_TRANSFORMER_CACHE" "$PWD" "$@"
"""
SRUN = """#!/usr/bin/env bash
# Starts a task a node, as srun does: both on this machine.
while [ "${1#--}" != "$1" ]; do shift; done
for node in 0 1; do SLURM_NODEID=$node SLURM_PROCID=$node "$@" & done
status=0
for task in $(jobs -p); do wait "$task" || status=$?; done
exit "$status"
"""


def stand_ins(folder: Path, **programs: str) -> str:
    """Write programs, and return a search path on which they come first."""
    folder.mkdir()
    for name, text in programs.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return f"{folder}{os.pathsep}{BIN}{os.pathsep}{os.environ['PATH']}"


def check_ranks(folder: Path, *said: str) -> None:
    """Check what two ranks of one job saw, which a stand-in for `tiny` has written."""
    for rank in (0, 1):
        assert (folder / f"rank-{rank}").read_text().splitlines() == ["2", *said]


@pytest.mark.requirement("scaling.cluster-files")
@pytest.mark.slow
def test_the_slurm_script_on_two_nodes(tmp_path: Path) -> None:
    hostname = "#!/usr/bin/env bash\necho localhost\n"
    path = stand_ins(tmp_path / "bin", tiny=TINY, srun=SRUN, hostname=hostname)
    job = next(n for n in range(20_000 + os.getpid() % 9000, 30_000) if is_free(n))
    given = variables(
        SLURM_JOB_ID=str(job), SLURM_JOB_NUM_NODES="2", SLURM_GPUS_ON_NODE="1",
        SLURM_CPUS_PER_TASK="1", TINY_TRANSFORMER_CACHE="", PATH=path,
    )  # fmt: skip
    run_nodes([str(CLUSTER / "slurm.sh"), "train", "--config", "base"], tmp_path, [given])
    cache = str(tmp_path / "cache")
    check_ranks(tmp_path, str(job), cache, str(tmp_path), "train", "--config", "base")


def is_free(port: int) -> bool:
    """Return whether nobody listens at a port; the script's port is its job's number there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.mark.requirement("scaling.cluster-files")
@pytest.mark.slow
def test_the_pods_of_kubernetes(tmp_path: Path) -> None:
    container = kubernetes_container()
    values = {entry["name"]: entry.get("value", "") for entry in container["env"]}
    values |= {"GPUS": "1", "HEAD": f"localhost:{free_port()}", "JOB": "0b2d7c9e-uid"}
    path = stand_ins(tmp_path / "bin", tiny=TINY)
    nodes = [variables(**values, JOB_COMPLETION_INDEX=index, PATH=path) for index in "01"]
    run_nodes([*container["command"], *container["args"]], tmp_path, nodes)
    cache = values["TINY_TRANSFORMER_CACHE"]
    check_ranks(tmp_path, "0b2d7c9e-uid", cache, str(tmp_path), *container["args"])


@pytest.mark.requirement("scaling.cluster-files")
@pytest.mark.parametrize("rank", ["0", "1"])
def test_torchrun_in_a_pod_of_kubeflow(
    rank: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trainer's variables are torchrun's own; what becomes of the words is asked of torchrun."""
    from torch.distributed.run import get_args_parser

    trainer = kubeflow_trainer()
    values = {entry["name"]: entry["value"] for entry in trainer["env"]}
    values |= {
        "PET_NNODES": str(trainer["numNodes"]),
        "PET_NPROC_PER_NODE": str(trainer["numProcPerNode"]),
        "PET_NODE_RANK": rank,
        "PET_MASTER_ADDR": "tiny-node-0-0.tiny",
        "PET_MASTER_PORT": "29400",
    }
    printed = '#!/usr/bin/env bash\nprintf "%s\\n" "$@"\n'
    environment = variables(**values, PATH=stand_ins(tmp_path / "bin", torchrun=printed))
    words = [*trainer["command"], *trainer["args"]]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    options = get_args_parser().parse_args(done.stdout.splitlines())
    assert (options.nnodes, options.nproc_per_node) == ("2", "8")
    assert options.rdzv_endpoint == "tiny-node-0-0.tiny:29400"
    assert options.rdzv_conf == f"is_host={int(rank == '0')}"
    assert options.rdzv_id == values["JOB"]
    assert options.no_python
    assert [options.training_script, *options.training_script_args] == ["tiny", *trainer["args"]]
