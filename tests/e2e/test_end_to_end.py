"""The whole way, as a newcomer goes it: a text file in, a trained model that writes out."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from tiny_transformer.cli.main import main
from tiny_transformer.config import SamplingConfig
from tiny_transformer.data.corpora import simple_text
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.sampling.sampler import sample_text
from tiny_transformer.tracking.run_log import metric_by_step, read_log
from tiny_transformer.training.checkpoint import load_checkpoint
from tiny_transformer.training.weights import weights_hash

MODEL = "--model.n-layers 1 --model.d-model 32 --model.n-heads 2 --model.context-length 32"
QUIET = "--training.device cpu --training.precision float32 --training.eval-every 0"


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def tiny(*words: str) -> None:
    """Run a command that is to succeed; words may hold several, parted by spaces."""
    assert main([part for word in words for part in word.split()]) == 0


def checkpoint_hash(run: str, step: int) -> str:
    path = Path("runs") / run / "checkpoints" / f"step-{step:08d}"
    return weights_hash(load_checkpoint(path).build_model())


def metrics(run: str, event: str, name: str) -> dict[int, float]:
    return metric_by_step(read_log(Path("runs") / run / "log.jsonl"), event, name)


@pytest.mark.requirement("e2e.integration")
def test_train_checkpoint_resume_and_generate(capsys: pytest.CaptureFixture[str]) -> None:
    lines = (f"{n} green bottles hanging on the wall,\n" for n in range(120, 0, -1))
    Path("bottles.txt").write_text("".join(lines), encoding="utf-8")
    train = f"train --data.corpus bottles.txt --training.max-steps 12 {MODEL} {QUIET}"
    tiny(train, "--run-name whole")
    tiny(train, "--run-name parted --training.stop-at 7 --training.checkpoint-every 5")
    assert metrics("parted", "train", "loss").keys() == set(range(1, 8))
    assert [p.name for p in sorted(Path("runs/parted/checkpoints").iterdir())] == [
        "step-00000005",
        "step-00000007",
    ]
    tiny("resume parted")

    losses = metrics("whole", "train", "loss")
    assert list(losses) == list(range(1, 13))
    assert metrics("parted", "train", "loss") == losses  # bit for bit
    assert metrics("parted", "eval", "val_loss")[12] == metrics("whole", "eval", "val_loss")[12]
    assert checkpoint_hash("parted", 12) == checkpoint_hash("whole", 12)
    assert checkpoint_hash("parted", 7) != checkpoint_hash("whole", 12)

    texts = []
    for run in ("whole", "parted"):
        capsys.readouterr()
        tiny(f"generate {run} --prompt green --max-new-tokens 50")
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]
    assert texts[0].startswith("green") and len(texts[0]) == len("green") + 50 + 1


@pytest.mark.requirement("e2e.weight-hashes")
def test_two_fresh_runs_of_one_seed_have_equal_weights() -> None:
    train = f"train --data.corpus simple --training.max-steps 5 {MODEL} {QUIET}"
    for name, seed in (("first", 1), ("second", 1), ("third", 2)):
        tiny(train, f"--run-name {name} --training.seed {seed} --model.dropout 0.2")
    assert checkpoint_hash("first", 5) == checkpoint_hash("second", 5)
    assert checkpoint_hash("first", 5) != checkpoint_hash("third", 5)


@pytest.mark.requirement("e2e.simple-learns")
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_loss_falls_on_simple(seed: int) -> None:
    """From a guess among 99 characters towards the text's few: by much, for any seed."""
    tiny(
        f"train --data.corpus simple --training.max-steps 60 --run-name falls {MODEL} {QUIET}",
        f"--training.seed {seed} --optimizer.learning-rate 0.01 --sampling.max-new-tokens 1",
    )
    losses = list(metrics("falls", "train", "loss").values())
    assert losses[0] == pytest.approx(math.log(99), abs=0.3)
    assert sum(losses[-10:]) / 10 < 0.6 * losses[0]
    assert metrics("falls", "eval", "val_loss")[60] < 0.65 * losses[0]


class Trigrams:
    """How likely a text is after the corpus: P(c | a b), each count one more than it was."""

    def __init__(self, corpus: str, n_characters: int) -> None:
        self.n_characters = n_characters
        self.triples = Counter(zip(corpus, corpus[1:], corpus[2:], strict=False))
        self.pairs = Counter(pairwise(corpus))

    def nats_per_character(self, text: str) -> float:
        """Return the mean of -ln P over the text, from its third character on."""
        total = 0.0
        for a, b, c in zip(text, text[1:], text[2:], strict=False):
            likelihood = (self.triples[a, b, c] + 1) / (self.pairs[a, b] + self.n_characters)
            total -= math.log(likelihood)
        return total / (len(text) - 2)


def test_the_trigram_model_prefers_the_corpus() -> None:
    """The ruler is held to what is known before anything is measured with it."""
    ruler = Trigrams("abcabcabc", 3)
    assert ruler.nats_per_character("abc") == pytest.approx(-math.log((3 + 1) / (3 + 3)))
    assert ruler.nats_per_character("xyz") == pytest.approx(math.log(3))


@pytest.mark.slow
@pytest.mark.requirement("e2e.samples-improve")
def test_samples_get_better_as_training_goes_on() -> None:
    tiny(
        f"train --data.corpus simple --training.max-steps 160 --run-name better {MODEL} {QUIET}",
        "--training.checkpoint-every 60 --sampling.max-new-tokens 1 --model.dropout 0",
        "--optimizer.name muon --optimizer.learning-rate 0.01 --model.position rotary",
    )
    checkpoints = {
        step: load_checkpoint(Path("runs/better/checkpoints") / f"step-{step:08d}")
        for step in (60, 160)
    }
    config = checkpoints[60].config
    models = {step: checkpoint.build_model() for step, checkpoint in checkpoints.items()}
    models[0] = Transformer(config.model, seed=config.training.seed)

    ruler = Trigrams(simple_text(), 97)
    sampling = SamplingConfig(max_new_tokens=60)
    scores = {}
    for step, model in models.items():
        texts = sample_text(model, checkpoints[60].tokenizer, sampling, n_samples=16)
        scores[step] = sum(map(ruler.nats_per_character, texts)) / len(texts)
    assert scores[0] == pytest.approx(math.log(97), abs=0.3)  # as good as chance
    assert scores[60] < scores[0] - 0.8
    assert scores[160] < scores[60] - 0.5
