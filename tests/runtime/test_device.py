"""The device and the precision: what is chosen, and what is refused."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from tiny_transformer.runtime.device import (
    autocast,
    computes_bfloat16,
    flushes_denormals,
    resolve_device,
    resolve_precision,
)
from tiny_transformer.runtime.environment import describe_numerics
from tiny_transformer.runtime.errors import ConfigError

pytestmark = pytest.mark.requirement("training.device-precision")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """Pretend to be on a machine with so many CUDA devices, and MPS or not."""

    def pretend(*, cuda: int = 0, mps: bool = False, bfloat16: bool = False) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
        monkeypatch.setattr(
            torch.cuda,
            "is_bf16_supported",
            lambda including_emulation=True: bfloat16 or including_emulation,
        )
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bfloat16)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)

    return pretend


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"),
    [(1, True, "cuda"), (2, False, "cuda"), (0, True, "mps"), (0, False, "cpu")],
)
def test_auto_takes_cuda_then_mps_then_cpu(machine, cuda: int, mps: bool, expected: str) -> None:
    machine(cuda=cuda, mps=mps)
    assert resolve_device() == resolve_device("auto") == torch.device(expected)


def test_a_named_device_that_is_there_is_taken(machine) -> None:
    machine(cuda=2, mps=True)
    for name in ("cpu", "cuda", "cuda:0", "cuda:1", "mps"):
        assert resolve_device(name) == torch.device(name)


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "mps", "meta", "xpu"])
def test_a_device_that_is_not_there_is_refused_with_the_way_out(machine, name: str) -> None:
    machine()
    with pytest.raises(ConfigError, match="no such device") as caught:
        resolve_device(name)
    for word in ("training.device", repr(name), "auto"):
        assert word in str(caught.value)


def test_the_number_of_a_cuda_device_must_exist(machine) -> None:
    machine(cuda=2)
    with pytest.raises(ConfigError, match="'cuda:2'"):
        resolve_device("cuda:2")


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "cuda:-1", "cpu cpu", "AUTO"])
def test_an_unknown_device_is_refused_with_the_valid_names(name: str) -> None:
    with pytest.raises(ConfigError, match="expected auto, cpu, cuda, cuda:N or mps"):
        resolve_device(name)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_auto_precision_is_bfloat16_only_where_the_hardware_has_it(machine, device: str) -> None:
    machine(cuda=1, bfloat16=True)
    assert resolve_precision("auto", torch.device(device)) == "bfloat16"
    machine(cuda=1, bfloat16=False)  # emulation would be there, and slow
    assert resolve_precision("auto", torch.device(device)) == "float32"


def test_auto_precision_is_float32_on_mps(machine) -> None:
    machine(mps=True, bfloat16=True)
    assert not computes_bfloat16(torch.device("mps"))
    assert resolve_precision("auto", torch.device("mps")) == "float32"


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
@pytest.mark.parametrize("bfloat16", [True, False])
def test_a_named_precision_is_taken_as_it_is(machine, name: str, bfloat16: bool) -> None:
    machine(bfloat16=bfloat16)
    assert resolve_precision(name, torch.device("cpu")) == name


@pytest.mark.parametrize("name", ["float16", "bf16", "", "fp32"])
def test_an_unknown_precision_is_refused_with_the_valid_names(name: str) -> None:
    with pytest.raises(ConfigError, match="expected auto, float32 or bfloat16") as caught:
        resolve_precision(name, torch.device("cpu"))
    assert "training.precision" in str(caught.value)


def test_autocast_computes_in_the_precision_inside_the_block_only() -> None:
    a = torch.ones(2, 2)
    cpu = torch.device("cpu")
    with autocast(cpu, "bfloat16"):
        assert (a @ a).dtype == torch.bfloat16
    with autocast(cpu, "float32"):
        assert (a @ a).dtype == torch.float32
    assert (a @ a).dtype == torch.float32


@pytest.mark.requirement("training.denormals")
def test_on_a_cpu_denormals_are_zero_on_this_thread_and_on_those_it_starts() -> None:
    assert torch.set_flush_denormal(False), "this processor cannot"
    assert not flushes_denormals()
    resolve_device("cpu")
    assert flushes_denormals()
    with ThreadPoolExecutor(2) as pool:
        assert all(pool.map(lambda _: flushes_denormals(), range(2)))


@pytest.mark.requirement("training.denormals")
def test_a_run_records_that_denormals_are_zero() -> None:
    cpu = resolve_device("cpu")
    assert describe_numerics(cpu, "float32")["denormals"] == "flushed"
    try:
        torch.set_flush_denormal(False)
        assert describe_numerics(cpu, "float32")["denormals"] == "kept"
    finally:
        torch.set_flush_denormal(True)
