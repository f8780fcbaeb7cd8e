"""Two hosts, each a network namespace of its own, joined by a virtual cable."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.distributed.helpers import SMALL, losses_of, train

STEPS = ("--training.max-steps", "10")


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True, timeout=20)


@pytest.fixture
def hosts() -> Iterator[dict[str, str]]:
    """Two namespaces by name, with their addresses; needs root and iproute2."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("needs root, and the program ip (Debian's iproute2)")
    token = secrets.token_hex(2)
    named = {f"tiny-{token}-a": "10.123.45.1", f"tiny-{token}-b": "10.123.45.2"}
    cables = [f"v{token}a", f"v{token}b"]
    try:
        try:
            for name in named:
                _ip("netns", "add", name)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"this machine makes no network namespaces: {error.stderr.strip()}")
        _ip("link", "add", cables[0], "type", "veth", "peer", "name", cables[1])
        for (name, address), cable in zip(named.items(), cables, strict=True):
            _ip("link", "set", cable, "netns", name)
            _ip("-n", name, "link", "set", cable, "name", "eth0")
            _ip("-n", name, "address", "add", f"{address}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "eth0", "up")
            _ip("-n", name, "link", "set", "lo", "up")
        yield named
    finally:
        for name in named:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


@pytest.mark.requirement("distributed.hosts")
def test_two_hosts_train_one_run(hosts: dict[str, str], tmp_path: Path) -> None:
    wanted = losses_of(train(tmp_path, "one-host", 2, *STEPS, "--distributed.strategy", "fsdp"))
    line = ["train", *SMALL, *STEPS, "--run-name", "two-hosts", "--distributed.strategy", "fsdp"]
    first = next(iter(hosts.values()))
    processes = [
        subprocess.Popen(
            [
                *("ip", "netns", "exec", name, sys.executable, "-m", "torch.distributed.run"),
                *("--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d"),
                *("--rdzv-endpoint", f"{first}:29400", "--rdzv-id", "two", "--local-addr", address),
                *("--rdzv-conf", f"is_host={address == first}"),  # it has no name to tell by
                *("-m", "tiny_transformer", *line),
            ],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "eth0"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for name, address in hosts.items()
    ]
    told = [process.communicate(timeout=180)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(told)
    assert losses_of(tmp_path / "runs" / "two-hosts") == wanted
