"""Hooks that let a rank die or hang, once: in the first start of a run, at a step."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter

from tiny_transformer.hooks.base import Gradient, UpdateHook


@dataclass
class Die(UpdateHook):
    """Kill this rank in the middle of an update, or while it saves; or let it hang."""

    at_step: int = 7
    rank: int = 1
    how: str = "kill"

    def transform(self, gradient: Tensor, at: Gradient) -> Tensor:
        due = at.step >= self.at_step and os.environ["RANK"] == str(self.rank)
        if due and os.environ.get("TORCHELASTIC_RESTART_COUNT") == "0":
            if self.how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            elif self.how == "hang":
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                time.sleep(600)
            else:
                _die_while_saving()
        return gradient


def _die_while_saving() -> None:
    write = HuggingFaceStorageWriter.write_data

    def begin(*arguments: Any) -> None:
        write(*arguments)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(HuggingFaceStorageWriter, "write_data", begin)  # noqa: B010
