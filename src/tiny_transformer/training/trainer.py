"""The training loop: a pure function of (config, data, seed, environment).

Notable: step s uses batch s and dropout of (seed, s), so a run that is stopped and
resumed makes the same updates; evaluation, sampling, logging and observers leave no trace
in the weights; a loss that is not a number ends the run before it can spoil them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from pathlib import Path
from typing import Any, Literal, NoReturn

import torch

from tiny_transformer.config import Config
from tiny_transformer.evaluation.evaluator import Evaluation
from tiny_transformer.hooks.base import Event
from tiny_transformer.hooks.registry import build_hooks, describe_hooks
from tiny_transformer.model.parts import Parts
from tiny_transformer.runtime.device import Precision
from tiny_transformer.runtime.distributed import Ranks, is_sharded, local
from tiny_transformer.runtime.errors import DivergedError, HookError, TinyError
from tiny_transformer.runtime.random_state import forked_rng
from tiny_transformer.sampling.sampler import encode_prompt, sample_text
from tiny_transformer.text.tokenizer import Tokenizer
from tiny_transformer.tracking.console import ConsoleReporter
from tiny_transformer.tracking.recorder import SilentRecorder
from tiny_transformer.tracking.run_folder import RunFolder
from tiny_transformer.training.checkpoint import Checkpoint, open_checkpoint
from tiny_transformer.training.interrupts import InterruptedRunError, StopRequested, StopSignal
from tiny_transformer.training.joint_start import (
    default_reporter,
    refuse_other_checkpoint,
    refuse_other_setup,
)
from tiny_transformer.training.result import TrainingResult
from tiny_transformer.training.resume import (
    continued_config,
    refuse_changes,
    refuse_other_parts,
    refuse_other_tokenizer,
)
from tiny_transformer.training.saving import Saver
from tiny_transformer.training.start import (
    create_folder,
    describe_start,
    open_record,
    refuse_other_model,
)
from tiny_transformer.training.state import Gradients, TrainingState
from tiny_transformer.training.weights import (
    load_weights,
)

_ADVICE = (
    "earlier checkpoints are unharmed. Try a smaller --optimizer.learning-rate, a longer "
    "--schedule.warmup-steps, or a smaller --training.grad-clip."
)


class Trainer:
    """Trains a transformer as a config says, leaving a run folder behind.

    Args:
        config: every setting.
        parts: classes to build the model from; None takes the reference.
        init_from: a run, run id or checkpoint whose weights the new run starts from.
        tokenizer: the checkpoint's, where a run is continued; None takes the config's.
        reporter: shows progress; None makes a `ConsoleReporter`.
        ranks: the processes that train the run together, each with a trainer; the first
            writes and tells. None is this one alone.
        folder: of a run that was begun and has no checkpoint yet; None makes a new one.

    Attributes:
        state: data, model, optimizer and hooks.
        model: the transformer.

    Raises:
        TinyError: the corpus, the settings or the prompt cannot be used; nothing has
            been written to the runs folder then.
    """

    def __init__(
        self,
        config: Config,
        *,
        parts: Parts | None = None,
        init_from: str | Path | None = None,
        tokenizer: Tokenizer | None = None,
        reporter: ConsoleReporter | None = None,
        ranks: Ranks | None = None,
        folder: RunFolder | None = None,
    ) -> None:
        self.config = config
        self.ranks = ranks or Ranks()
        self.reporter = reporter or default_reporter(self.ranks)
        source = None
        refuse_other_setup(self.ranks, config, parts)
        with self.ranks.together():
            if init_from is not None:
                source = open_checkpoint(init_from, config.runs_dir)[1]
                refuse_other_model(source, config)
            hooks = build_hooks(config.hooks)
        self.state = TrainingState(config, parts, hooks, tokenizer, self.ranks)
        self._hook_list = describe_hooks(config.hooks)
        self.data, self.model, self.optimizer = (
            self.state.data,
            self.state.model,
            self.state.optimizer,
        )
        self.device = self.state.device
        self.precision: Precision = self.state.precision
        self._init_from = None if init_from is None else str(init_from)
        with self.ranks.together():
            prompt, context_length = config.sampling.prompt, config.model.context_length
            encode_prompt(prompt, self.data.tokenizer, context_length)
            if source is not None:
                refuse_other_tokenizer(source, self.data.tokenizer, str(init_from))
                load_weights(self.model, source.weights, where=str(source.path))
        self._resumed: Checkpoint | None = None
        self._changes: list[str] = []
        self._folder: RunFolder | None = folder
        self._stop = StopSignal()
        self._train_seconds = 0.0

    @property
    def step(self) -> int:
        """Updates made so far."""
        return self.state.step

    @classmethod
    def resume(
        cls,
        run: str | Path,
        *,
        runs_dir: str | Path = "runs",
        parts: Parts | None = None,
        max_steps: int | None = None,
        stop_at: int | None = None,
        strategy: Literal["ddp", "fsdp"] | None = None,
        allow_numerics_change: bool = False,
        allow_parts_change: bool = False,
        reporter: ConsoleReporter | None = None,
        ranks: Ranks | None = None,
    ) -> Trainer:
        """Return a trainer that continues a run where a checkpoint left it.

        Args:
            run: a run's folder, a run id, or a checkpoint's folder.
            runs_dir: where run ids are looked up.
            parts: the classes that the run was trained with.
            max_steps: a new horizon; None keeps the run's.
            stop_at: end early at this step; None goes on to the horizon.
            strategy: how several processes share the work; None keeps the run's way.
            allow_numerics_change: go on where the machine or PyTorch is not what it was, so
                that the last bits of the numbers may differ; the log will say so.
            allow_parts_change: go on with other parts than the run had; the log will say so.
            reporter: shows progress.
            ranks: the processes that go on with it together.

        Raises:
            CheckpointError: the checkpoint is damaged, the run is complete, or what its
                numbers depend on has changed.
            DataError: the corpus is not the one that the run was trained on.
        """
        ranks = ranks or Ranks()
        with ranks.together():
            folder, checkpoint = open_checkpoint(run, runs_dir, ranks if ranks.count > 1 else None)
            others = refuse_other_parts(checkpoint, folder, parts, allow=allow_parts_change)
            if parts is None:
                checkpoint.check_size()  # before a model of the config's size is built
            config = continued_config(
                checkpoint, folder, max_steps=max_steps, stop_at=stop_at, strategy=strategy
            )
        refuse_other_checkpoint(ranks, checkpoint)
        trainer = cls(
            config, parts=parts, tokenizer=checkpoint.tokenizer, reporter=reporter, ranks=ranks
        )
        with ranks.together():
            numerics, hook_list = trainer.state.numerics(), trainer._hook_list
            allow = allow_numerics_change
            trainer._changes = refuse_changes(checkpoint, numerics, hook_list, allow=allow)
        trainer._changes += others
        trainer.state.load(checkpoint)
        trainer._resumed, trainer._folder = checkpoint, folder
        trainer._init_from = checkpoint.metadata.get("init_from")
        return trainer

    def train(self) -> TrainingResult:
        """Train to the last step, and leave checkpoints, samples and a log behind.

        Raises:
            DivergedError: the loss or the gradient is not finite.
            HookError: a hook failed, or tried what it may not do.
            InterruptedRunError: Ctrl-C or SIGTERM; the state was saved.
            RunError: another process is training this run.
            RanksError: of several processes that train together, another one failed.
            StorageError: the disk is full, or the run's folder cannot be written.
        """
        with contextlib.ExitStack() as stack:
            stack.callback(self.state.hooks.close)
            folder = self._folder or self.ranks.from_first(lambda: create_folder(self.state))
            self._folder = folder
            with self.ranks.together():
                if self.ranks.first:
                    stack.enter_context(folder.locked())
            with self.ranks.together():
                first = self.ranks.first
                self._record = (
                    open_record(self.state, folder, self.reporter)
                    if first
                    else SilentRecorder(folder)
                )
            stack.callback(self._record.close)
            self.state.hooks.report = self._record.observed
            self._saver = Saver(self.state, self._record, self._hook_list, self._init_from)
            with self.ranks.together():
                aside = self._saver.prepare(resumed=self._resumed is not None)
                if aside is not None:
                    self.reporter.message(f"Later checkpoints were set aside in {aside}.")
            self._record_start()
            try:
                stack.enter_context(self._stop)
                self._record.progress(self.step, self.config.training.last_step)
                return self._loop()
            except (InterruptedRunError, DivergedError) as error:
                error.told = not self.ranks.first  # it is the same on all
                raise
            except TinyError as error:
                with contextlib.suppress(TinyError):  # the disk may be what failed
                    self._record.event("failed", self.step, reason=str(error))
                raise

    def _record_start(self) -> None:
        """Log who the run is, and how it goes on."""
        folder, resumed = self._record.folder, self._resumed
        began = self.ranks.first and folder.log.stat().st_size > 0
        for change in self._changes:
            self.reporter.message(f"Changed since the checkpoint was saved: {change}.")
        self._record.event(
            "resume" if resumed is not None or began else "start",
            self.step,
            hooks=self._hook_list,
            init_from=self._init_from,
            resumed_from=None if resumed is None else resumed.path.name,
            numerics_changes=self._changes,
            **describe_start(self.state, folder),
        )
        self._emit("on_start")

    def _emit(self, name: str, **fields: Any) -> None:
        event = Event(self.step, folder=self._record.folder.path, generate=self._generate, **fields)
        self.state.hooks.emit(name, event)

    def _generate(self, prompt: str, **options: Any) -> str:
        """Write on after a prompt, for observers."""
        if is_sharded(self.model):
            raise HookError(
                "event.generate needs the whole model, which no rank has with "
                "--distributed.strategy fsdp. Take ddp, or generate from a checkpoint."
            )
        settings = dataclasses.replace(self.config.sampling, prompt=prompt, **options)
        return sample_text(self.model, self.data.tokenizer, settings)[0]

    def _loop(self) -> TrainingResult:
        settings, first_sample, first_step = self.config.training, None, self.step
        folder = self._record.folder
        saved_at = self.step if self._resumed is not None else None
        try:
            if self._resumed is None:
                first_sample = self._sample()
            while self.step < settings.last_step:
                if self.ranks.any(self._stop.pending):
                    raise StopRequested
                self._update()
                if self.step == settings.last_step:
                    break
                if _due(self.step, settings.eval_every):
                    self._evaluate()
                if _due(self.step, settings.sample_every):
                    self._sample()
                if _due(self.step, settings.checkpoint_every):
                    self._save()
                    saved_at = self.step
            evaluation = self._evaluate()
            last_sample = self._sample()
        except StopRequested:
            if saved_at != self.step:
                self._save()
            self._record.event("interrupted", self.step)
            complete = self.step == settings.max_steps  # which resume would refuse
            raise InterruptedRunError(
                f"Interrupted after step {self.step}; everything is saved. "
                f"{'Evaluate it' if complete else 'Go on'} with: "
                f"tiny {'eval' if complete else 'resume'} {folder.path}"
            ) from None
        self._save()
        self._emit("on_end")
        self._record.event("end", self.step, train_seconds=round(self._train_seconds, 3))
        return TrainingResult(
            folder,
            self.step,
            evaluation,
            first_sample,
            last_sample,
            self._train_seconds,
            first_step,
        )

    def _update(self) -> None:
        """Make one optimizer step from the batch of this step, and log it."""
        began, settings = time.perf_counter(), self.config.training
        gradients = self.state.compute_gradients()
        if not gradients.finite:
            self._diverged(gradients)
        learning_rate = self.state.apply_gradients()
        seconds = time.perf_counter() - began
        self._train_seconds += seconds
        metrics = {
            "loss": gradients.loss,
            "lr": learning_rate,
            "grad_norm": gradients.norm,
            "tokens_per_second": settings.batch_size * self.config.model.context_length / seconds,
        }
        logged = _due(self.step, settings.log_every) or self.step == settings.last_step
        self._record.update(self.step, metrics, logged=logged)
        self._emit("on_step_end", metrics=metrics)

    def _diverged(self, gradients: Gradients) -> None:
        step, loss, norm = self.step + 1, gradients.loss, gradients.norm
        windows = self.data.loader.indices(self.step).tolist()
        shown = ", ".join(map(str, windows[:8])) + (", ..." if len(windows) > 8 else "")
        self._record.event("diverged", step, loss=loss, grad_norm=norm, windows=windows)
        raise DivergedError(
            f"Training diverged at step {step}: loss {loss}, gradient norm {norm}, on "
            f"the batch of windows {shown}. The update was not made, and {_ADVICE}"
        )

    def _spoiled(self, what: str) -> NoReturn:
        """End the run: the update that made this step left weights of no use."""
        self._record.event("diverged", self.step, reason=what)
        raise DivergedError(
            f"Training diverged at step {self.step}: {what}. This step was not saved, and {_ADVICE}"
        )

    def _evaluate(self) -> Evaluation:
        alone = self.ranks.count == 1  # else all stop together, after it
        evaluation = self.state.evaluate(on_batch=self._stop.check if alone else None)
        self._record.evaluation(self.step, evaluation.metrics())
        if not math.isfinite(evaluation.loss):
            self._spoiled(f"the validation loss is {evaluation.loss}")
        self._emit("on_evaluation_end", metrics=evaluation.metrics())
        return evaluation

    def _sample(self) -> str:
        settings, text = self.config.sampling, ""
        with self.ranks.together():
            if self.ranks.first or is_sharded(self.model):
                try:
                    with forked_rng(self.config.training.seed, "sample", device=self.device):
                        text = sample_text(self.model, self.data.tokenizer, settings)[0]
                except DivergedError:
                    self._spoiled("the logits are not finite numbers")
            self._record.sample(self.step, settings.prompt, text)
        self._emit("on_sample", text=settings.prompt + text)
        return text

    def _save(self) -> None:
        weights = map(local, self.model.parameters())
        if self.ranks.any(not all(bool(torch.isfinite(weight).all()) for weight in weights)):
            self._spoiled("a weight is not a finite number")
        self._emit("on_checkpoint", path=self._saver.save())


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
