"""The training loop: a pure function of (config, data, seed, environment).

Notable: step s uses batch s and dropout of (seed, s), so a run that is stopped and
resumed makes the same updates; evaluation, sampling and logging leave no trace in the
weights; a loss that is not a number ends the run before it can spoil them.
"""

from __future__ import annotations

import dataclasses
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import torch

from tiny_transformer.config import Config, config_hash
from tiny_transformer.config.loading import save_config
from tiny_transformer.evaluation.evaluator import Evaluation, compute_val_loss
from tiny_transformer.model.loss import compute_loss
from tiny_transformer.model.parts import Parts
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.runtime import files
from tiny_transformer.runtime.device import (
    Precision,
    autocast,
    resolve_device,
    resolve_precision,
)
from tiny_transformer.runtime.environment import describe_environment, git_commit
from tiny_transformer.runtime.errors import CheckpointError, ConfigError, DataError, DivergedError
from tiny_transformer.runtime.random_state import forked_rng, restore_generator_states
from tiny_transformer.sampling.sampler import encode_prompt, sample_text
from tiny_transformer.tracking.console import ConsoleReporter
from tiny_transformer.tracking.recorder import RunRecorder
from tiny_transformer.tracking.run_folder import RunFolder, find_run
from tiny_transformer.training.checkpoint import (
    Checkpoint,
    load_checkpoint,
    load_weights,
    save_checkpoint,
)
from tiny_transformer.training.interrupts import InterruptedRunError, StopRequested, StopSignal
from tiny_transformer.training.optimizer import Optimizer
from tiny_transformer.training.run_data import load_run_data
from tiny_transformer.training.schedule import learning_rate_scale

_RANK = 0
_ADVICE = (
    "earlier checkpoints are unharmed. Try a smaller --optimizer.learning-rate, a longer "
    "--schedule.warmup-steps, or a smaller --training.grad-clip."
)


@dataclass(frozen=True)
class TrainingResult:
    """How a run ended.

    Attributes:
        folder: the run's folder.
        step: updates made.
        evaluation: of the final weights, on the whole validation part.
        first_sample: text before training (None for a resumed run).
        last_sample: text of the final weights.
        train_seconds: time spent in updates by this call, evaluation and saving left out.
    """

    folder: RunFolder
    step: int
    evaluation: Evaluation
    first_sample: str | None
    last_sample: str
    train_seconds: float


class Trainer:
    """Trains a transformer as a config says, leaving a run folder behind.

    Args:
        config: every setting.
        parts: classes to build the model from; None takes the reference.
        init_from: a run, run id or checkpoint whose weights the new run starts from.
        reporter: shows progress; None makes a `ConsoleReporter`.

    Attributes:
        model: the transformer.
        step: updates made so far.

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
        reporter: ConsoleReporter | None = None,
    ) -> None:
        self.config = config
        self.reporter = reporter or ConsoleReporter()
        self.device = resolve_device(config.training.device)
        self.precision: Precision = resolve_precision(config.training.precision, self.device)
        self.data = load_run_data(config)
        if config.model.vocab_size != self.data.tokenizer.vocab_size:
            raise ConfigError(
                f"model.vocab_size is {config.model.vocab_size}; the tokenizer has "
                f"{self.data.tokenizer.vocab_size} tokens."
            )
        encode_prompt(config.sampling.prompt, self.data.tokenizer, config.model.context_length)
        self.model = Transformer(config.model, parts, seed=config.training.seed)
        self._init_from = None if init_from is None else str(init_from)
        if init_from is not None:
            source = load_checkpoint(find_run(init_from, config.runs_dir)[1])
            load_weights(self.model, source.weights, where=str(source.path))
        self.model.to(self.device)
        self.optimizer = Optimizer(self.model, config.optimizer)
        self.step = 0
        self._resumed: Checkpoint | None = None
        self._folder: RunFolder | None = None
        self._stop = StopSignal()
        self._train_seconds = 0.0

    @classmethod
    def resume(
        cls,
        run: str | Path,
        *,
        runs_dir: str | Path = "runs",
        parts: Parts | None = None,
        max_steps: int | None = None,
        stop_at: int | None = None,
        reporter: ConsoleReporter | None = None,
    ) -> Trainer:
        """Return a trainer that continues a run where a checkpoint left it.

        Args:
            run: a run's folder, a run id, or a checkpoint's folder.
            runs_dir: where run ids are looked up.
            parts: the classes that the run was trained with.
            max_steps: a new horizon; None keeps the run's.
            stop_at: end early at this step; None goes on to the horizon.
            reporter: shows progress.

        Raises:
            CheckpointError: the checkpoint is damaged, or the run is complete.
            DataError: the corpus is not the one that the run was trained on.
        """
        folder, path = find_run(run, runs_dir)
        checkpoint = load_checkpoint(path)
        config = checkpoint.config
        steps = config.training.max_steps if max_steps is None else max_steps
        training = dataclasses.replace(config.training, stop_at=stop_at, max_steps=steps)
        config = dataclasses.replace(config, training=training, runs_dir=str(folder.path.parent))
        if checkpoint.step >= training.last_step:
            raise CheckpointError(
                f"The run {folder.path} is complete: it made {checkpoint.step} of "
                f"{training.last_step} steps. Train it longer with --training.max-steps "
                f"{2 * checkpoint.step}."
            )
        trainer = cls(config, parts=parts, reporter=reporter)
        if trainer.data.fingerprint != checkpoint.metadata.get("data_fingerprint"):
            raise DataError(
                f"The corpus {config.data.corpus!r} is not the text that the run "
                f"{folder.path} was trained on: it has changed since."
            )
        load_weights(trainer.model, checkpoint.weights, where=str(path))
        trainer.optimizer.load_state_tensors(checkpoint.optimizer_state)
        restore_generator_states(checkpoint.generators)
        trainer.step = checkpoint.step
        trainer._resumed, trainer._folder = checkpoint, folder
        return trainer

    def train(self) -> TrainingResult:
        """Train to the last step, and leave checkpoints, samples and a log behind.

        Raises:
            DivergedError: the loss or the gradient is not finite.
            InterruptedRunError: Ctrl-C or SIGTERM; the state was saved.
            StorageError: the disk is full, or the run's folder cannot be written.
        """
        folder = self._folder = self._folder or self._create_folder()
        identity = {
            "run_id": folder.run_id,
            "config_hash": config_hash(self.config),
            "git_commit": git_commit(),
        }
        record = self._record = RunRecorder(folder, identity, self.reporter)
        try:
            self._record_start()
            with self._stop:
                record.progress(self.step, self.config.training.last_step)
                return self._loop()
        finally:
            record.close()

    def _create_folder(self) -> RunFolder:
        folder = RunFolder.create(self.config.runs_dir, self.config.run_name)
        environment = describe_environment(self.device, self.precision)
        with folder.removed_on_failure():
            save_config(self.config, folder.path / "config.yaml")
            files.write_json(folder.path / "environment.json", environment)
            self.data.tokenizer.save(folder.path / "vocab.json")
        return folder

    def _record_start(self) -> None:
        self._record.event(
            "start" if self._resumed is None else "resume",
            self.step,
            seed=self.config.training.seed,
            hooks=[],
            corpus=self.config.data.corpus,
            data_fingerprint=self.data.fingerprint,
            device=str(self.device),
            precision=self.precision,
            n_parameters=self.model.n_parameters(),
            dropout=self.config.model.dropout_probability,
            init_from=self._init_from,
            resumed_from=None if self._resumed is None else str(self._resumed.path),
        )

    def _loop(self) -> TrainingResult:
        settings, first_sample = self.config.training, None
        folder = self._record.folder
        saved_at = self.step if self._resumed is not None else None
        try:
            if self._resumed is None:
                first_sample = self._sample()
            while self.step < settings.last_step:
                self._stop.check()
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
        self._record.event("end", self.step, train_seconds=round(self._train_seconds, 3))
        return TrainingResult(
            folder, self.step, evaluation, first_sample, last_sample, self._train_seconds
        )

    def _update(self) -> None:
        """Make one optimizer step from the batch of this step, and log it."""
        began = time.perf_counter()
        settings, step = self.config.training, self.step
        self.model.train()
        loss = self._accumulate_gradients(step)
        grad_norm = torch.nn.utils.clip_grad_norm_(
            self.model.parameters(), settings.grad_clip or math.inf
        ).item()
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            self._diverged(step, loss, grad_norm)
        scale = learning_rate_scale(step, self.config.schedule, settings.max_steps)
        self.optimizer.step(scale)
        self.optimizer.zero_grad()
        self.step += 1
        seconds = time.perf_counter() - began
        self._train_seconds += seconds
        metrics = {
            "loss": loss,
            "lr": self.optimizer.learning_rate * scale,
            "grad_norm": grad_norm,
            "tokens_per_second": settings.batch_size * self.config.model.context_length / seconds,
        }
        logged = _due(self.step, settings.log_every) or self.step == settings.last_step
        self._record.update(self.step, metrics, logged=logged)

    def _accumulate_gradients(self, step: int) -> float:
        """Run forward and backward over the micro-batches; return the batch's mean loss."""
        settings = self.config.training
        losses = []
        for micro_step, (x, y) in enumerate(self.data.loader.micro_batches(step)):
            x, y = x.to(self.device), y.to(self.device)  # (B, T) int64
            with forked_rng(settings.seed, "forward", step, micro_step, _RANK, device=self.device):
                with autocast(self.device, self.precision):
                    logits = self.model(x)  # (B, T, V) float32
                loss = compute_loss(logits, y) / settings.accumulation_steps
            loss.backward()
            losses.append(loss.detach())
        return torch.stack(losses).cpu().double().sum().item()

    def _diverged(self, step: int, loss: float, grad_norm: float) -> None:
        windows = self.data.loader.indices(step).tolist()
        shown = ", ".join(map(str, windows[:8])) + (", ..." if len(windows) > 8 else "")
        self._record.event("diverged", step + 1, loss=loss, grad_norm=grad_norm, windows=windows)
        raise DivergedError(
            f"Training diverged at step {step + 1}: loss {loss}, gradient norm {grad_norm}, on "
            f"the batch of windows {shown}. The update was not made, and {_ADVICE}"
        )

    def _spoiled(self, what: str) -> NoReturn:
        """End the run: the update that made this step left weights of no use."""
        self._record.event("diverged", self.step, reason=what)
        raise DivergedError(
            f"Training diverged at step {self.step}: {what}. This step was not saved, and {_ADVICE}"
        )

    def _evaluate(self) -> Evaluation:
        with forked_rng(self.config.training.seed, "evaluate", device=self.device):
            evaluation = compute_val_loss(
                self.model,
                self.data.validation,
                context_length=self.config.model.context_length,
                batch_size=self.config.training.eval_batch_size,
                precision=self.precision,
                on_batch=self._stop.check,
            )
        self._record.evaluation(self.step, evaluation.metrics())
        if not math.isfinite(evaluation.loss):
            self._spoiled(f"the validation loss is {evaluation.loss}")
        return evaluation

    def _sample(self) -> str:
        settings = self.config.sampling
        try:
            with forked_rng(self.config.training.seed, "sample", device=self.device):
                text = sample_text(self.model, self.data.tokenizer, settings)[0]
        except DivergedError:
            self._spoiled("the logits are not finite numbers")
        self._record.sample(self.step, settings.prompt, text)
        return text

    def _save(self) -> None:
        if not all(bool(torch.isfinite(weight).all()) for weight in self.model.parameters()):
            self._spoiled("a weight is not a finite number")
        folder = self._record.folder
        path = save_checkpoint(
            folder.checkpoint(self.step),
            model=self.model,
            optimizer=self.optimizer,
            step=self.step,
            config=self.config,
            tokenizer=self.data.tokenizer,
            metadata={**self._record.identity, "data_fingerprint": self.data.fingerprint},
        )
        self._record.event("checkpoint", self.step, path=str(path.relative_to(folder.path)))


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
