"""A run of byte pairs: its tokenizer is trained once, kept with it, and used by all that follow."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.helpers import silent, tiny_config, trainer

from tiny_transformer.config import Config, DataConfig, ModelConfig, config_hash
from tiny_transformer.data.prepared import prepare
from tiny_transformer.runtime.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    TinyError,
    VocabularyError,
)
from tiny_transformer.text.bpe import BpeTokenizer
from tiny_transformer.text.load import load_tokenizer
from tiny_transformer.tracking.run_log import read_log
from tiny_transformer.tracking.run_summary import summarize
from tiny_transformer.training.checkpoint import load_checkpoint
from tiny_transformer.training.replay import plan_replay, replay
from tiny_transformer.training.trainer import Trainer
from tiny_transformer.training.weights import named_weights

HASH_BEFORE = "4725cf3cc942b42e"
CORPUS = "the king and the queen went to the sea, and the sea was calm — é 中 😀.\r\n" * 120


def bpe_config(tmp_path: Path, **changes: Any) -> Config:
    corpus = tmp_path / "corpus.txt"
    if not corpus.exists():
        corpus.write_bytes(CORPUS.encode())
    settings = {"data__corpus": str(corpus), "data__tokenizer": "bpe", "model__vocab_size": 290}
    return tiny_config(tmp_path, **settings | changes)


def weights(run: Trainer) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in named_weights(run.model).items()}


@pytest.mark.requirement("tokenizers.run")
def test_a_run_resumes_and_replays_without_the_cache(tmp_path: Path, cache_folder: Path) -> None:
    whole = trainer(bpe_config(tmp_path, run_name="whole"))
    whole.train()
    cut = trainer(bpe_config(tmp_path, run_name="cut", training__stop_at=3))
    folder = cut.train().folder
    shutil.rmtree(cache_folder)
    resumed = Trainer.resume(folder.path, reporter=silent())
    assert resumed.data.tokenizer == whole.data.tokenizer
    resumed.train()
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, weights(resumed)[name]), name
    assert not (cache_folder / "tokenizers").exists()  # nothing was trained again
    for first in (1, 4):
        found = replay(plan_replay(folder, first, 6))
        assert found.difference is None and found.losses > 0
    assert not (cache_folder / "tokenizers").exists()


@pytest.mark.requirement("tokenizers.run")
def test_the_tokenizer_is_kept_with_the_run_and_its_checkpoints(tmp_path: Path) -> None:
    run = trainer(bpe_config(tmp_path, run_name="r"))
    folder = run.train().folder
    tokenizer = run.data.tokenizer
    assert isinstance(tokenizer, BpeTokenizer) and tokenizer.vocab_size == 290
    assert load_tokenizer(folder.path) == tokenizer
    (path,) = folder.checkpoints()
    assert load_checkpoint(path).tokenizer == tokenizer
    line = next(line for line in read_log(folder.log) if line["event"] == "eval")
    n_bytes = tokenizer.byte_lengths[run.data.validation[1:]].sum()
    expected = line["val_loss"] * line["n_targets"] / n_bytes / 0.6931471805599453
    assert line["bits_per_byte"] == pytest.approx(expected)
    assert line["bits_per_byte"] < line["bits_per_char"]
    assert summarize(folder).bits_per_byte == line["bits_per_byte"]


@pytest.mark.requirement("tokenizers.run")
def test_a_run_whose_tokenizer_would_differ_is_refused(tmp_path: Path) -> None:
    folder = trainer(bpe_config(tmp_path, run_name="r", training__stop_at=3)).train().folder
    (path,) = folder.checkpoints()
    other = BpeTokenizer.train([CORPUS + "zebra " * 5000], 290)
    other.save(path / "vocab.json")
    with pytest.raises(CheckpointError, match=r"vocab\.json is damaged"):
        Trainer.resume(folder.path, reporter=silent())
    state = trainer(bpe_config(tmp_path, run_name="s")).state
    checkpoint = dataclasses.replace(
        load_checkpoint_of(folder.path, other),
        metadata={"data_fingerprint": prepare(state.config.data, other).fingerprint},
    )
    with pytest.raises(DataError, match="or not as its tokenizer read it"):
        state.load(checkpoint)


def load_checkpoint_of(folder: Path, tokenizer: BpeTokenizer) -> Any:
    """Return a checkpoint of a run with another tokenizer in it."""
    run = trainer(bpe_config(folder.parent.parent, run_name="t", training__stop_at=2))
    (path,) = run.train().folder.checkpoints()
    return dataclasses.replace(load_checkpoint(path), tokenizer=tokenizer)


@pytest.mark.requirement("tokenizers.run")
def test_weights_of_another_tokenizer_are_refused_with_the_way_out(tmp_path: Path) -> None:
    first = trainer(bpe_config(tmp_path, run_name="first")).train().folder
    (tmp_path / "other.txt").write_bytes(CORPUS.replace("sea", "mountain").encode())
    other = bpe_config(tmp_path, run_name="second", data__corpus=str(tmp_path / "other.txt"))
    with pytest.raises(ConfigError, match=r"--data\.tokenizer") as caught:
        Trainer(other, init_from=first.path, reporter=silent())
    way_out = str(caught.value).split("--data.tokenizer ")[1].split(" ")[0]
    assert load_tokenizer(way_out) == load_tokenizer(first.path)
    taken = dataclasses.replace(other, data=dataclasses.replace(other.data, tokenizer=way_out))
    second = Trainer(taken, init_from=first.path, reporter=silent())
    assert second.data.tokenizer == load_tokenizer(first.path)
    second.train()


@pytest.mark.requirement("tokenizers.vocab-size")
def test_a_model_may_have_more_tokens_than_a_tokenizer_from_a_file(tmp_path: Path) -> None:
    first = trainer(bpe_config(tmp_path, run_name="first")).train().folder
    path = str(first.path)
    padded = trainer(
        bpe_config(tmp_path, run_name="p", data__tokenizer=path, model__vocab_size=320)
    )
    padded.train()
    with pytest.raises(ConfigError, match=r"is 289; the tokenizer has 290.*--model.vocab-size 290"):
        trainer(bpe_config(tmp_path, data__tokenizer=path, model__vocab_size=289))


@pytest.mark.requirement("tokenizers.vocab-size")
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model__vocab_size": 99}, r"at least 257.*--model.vocab-size 1024"),
        ({"model__vocab_size": 256}, r"at least 257"),
        ({"model__vocab_size": 4000}, r"only \d+ tokens, and 4000"),
        ({"data__tokenizer": "characters"}, r"is 290; the tokenizer has 99.*--data.tokenizer bpe"),
        ({"data__tokenizer": ""}, "data.tokenizer is empty"),
        ({"data__transliterate": True}, "data.transliterate goes with characters"),
        ({"data__tokenizer": "nowhere/vocab.json"}, "no such file or folder"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(TinyError, match=reason):
        trainer(bpe_config(tmp_path, **changes))
    assert not (tmp_path / "runs").exists()


def test_a_run_of_characters_keeps_the_hash_it_had_before_there_was_a_choice() -> None:
    """The hash of the default settings, as the release before had it."""
    assert config_hash(Config()) == HASH_BEFORE
    other = Config(data=DataConfig(tokenizer="bpe"), model=ModelConfig(vocab_size=300))
    characters = Config(model=ModelConfig(vocab_size=300))
    assert config_hash(other) != config_hash(characters)


@pytest.mark.requirement("tokenizers.refused")
def test_a_replay_needs_the_runs_own_vocabulary(tmp_path: Path) -> None:
    folder = trainer(bpe_config(tmp_path, run_name="r")).train().folder
    file = folder.path / "vocab.json"
    value = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(value | {"sha256": "0"}), encoding="utf-8")
    with pytest.raises(VocabularyError, match="SHA-256 is another"):
        replay(plan_replay(folder, 1, 6))
