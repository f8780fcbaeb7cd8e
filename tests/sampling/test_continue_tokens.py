"""Token by token: what `continue_prompts` puts together, with bias and scores."""

from __future__ import annotations

import pytest
import torch
from tests.sampling.test_sampler import CONTEXT, TOKENIZER, build, options

from tiny_transformer.sampling.generator import generate_steps, score_prompt
from tiny_transformer.sampling.sampler import continue_prompts, continue_tokens

PROMPTS = ["ab", "To be,", "x"]
IDS = [TOKENIZER.encode(prompt).tolist() for prompt in PROMPTS]


@pytest.mark.requirement("generate.token-by-token")
@pytest.mark.parametrize("stop", [(), ("e",), ("th", "a", "\n")], ids=str)
def test_tokens_come_with_the_text_that_they_make_certain(stop: tuple[str, ...]) -> None:
    model, config = build(), options(stop=stop)
    whole = continue_prompts(model, TOKENIZER, PROMPTS, config, log_probabilities=True)
    texts, ids = [""] * 3, [[] for _ in PROMPTS]
    reasons: dict[int, str] = {}
    sums = [0.0] * 3
    for drawn in continue_tokens(model, TOKENIZER, IDS, config, log_probabilities=True):
        assert drawn
        for token in drawn:
            assert token.row not in reasons
            assert token.piece == TOKENIZER.decode([token.id])
            assert token.log_probabilities is not None
            texts[token.row] += token.text
            ids[token.row].append(token.id)
            sums[token.row] += token.log_probabilities[token.id].item()
            if token.finish_reason is not None:
                reasons[token.row] = token.finish_reason
    assert texts == [one.text for one in whole]
    assert [tuple(row) for row in ids] == [one.ids for one in whole]
    assert [reasons[row] for row in range(3)] == [one.finish_reason for one in whole]
    assert sums == pytest.approx([sum(one.log_probabilities) for one in whole])


@pytest.mark.requirement("generate.token-by-token")
def test_nothing_is_computed_before_it_is_asked_for_or_after_all_have_ended() -> None:
    model = build()
    passes = []
    model.register_forward_pre_hook(lambda *_: passes.append(1))
    tokens = continue_tokens(model, TOKENIZER, IDS[:1], options(max_new_tokens=20))
    assert passes == []
    next(tokens)
    assert len(passes) == 1
    del tokens
    first = continue_prompts(model, TOKENIZER, PROMPTS[:1], options()).pop().text[0]
    passes.clear()
    list(continue_tokens(model, TOKENIZER, IDS[:1], options(stop=(first,))))
    assert len(passes) == 1


@pytest.mark.requirement("generate.bias")
def test_a_bias_is_added_to_the_logits_and_to_nothing_else() -> None:
    model, config = build(), options(max_new_tokens=6)
    plain = list(generate_steps(model, IDS, config))
    none = list(generate_steps(model, IDS, config, bias={}))
    zero = list(generate_steps(model, IDS, config, bias={5: 0.0}))
    for a, b, c in zip(plain, none, zero, strict=True):
        assert torch.equal(a.ids, b.ids) and torch.equal(a.ids, c.ids)
    certain = list(generate_steps(model, IDS, config, bias={7: 1e4}))
    assert all((step.ids == 7).all() for step in certain)
    assert torch.equal(certain[0].logits, plain[0].logits)  # what is told is the model's own
    never = dict.fromkeys(range(50), -10000.0)
    for step in generate_steps(model, IDS, options(max_new_tokens=50), bias=never):
        assert (step.ids >= 50).all()


@pytest.mark.requirement("generate.bias")
def test_a_bias_changes_probabilities_by_its_power() -> None:
    model = build()
    (step,) = generate_steps(model, [IDS[0]] * 4000, options(max_new_tokens=1, seed=1))
    target = int(step.log_probabilities()[0].argsort()[-2])
    amount = 0.7
    (biased,) = generate_steps(
        model, [IDS[0]] * 4000, options(max_new_tokens=1, seed=1), bias={target: amount}
    )
    logits = step.logits[0].double().clone()
    logits[target] += amount
    p = logits.softmax(-1)[target].item()
    share = (biased.ids == target).double().mean().item()
    assert abs(share - p) < 5 * (p * (1 - p) / 4000) ** 0.5 + 1e-9


@pytest.mark.requirement("generate.log-probabilities")
def test_a_prompts_scores_are_the_models_and_leave_it_as_it_was() -> None:
    model = build().train()
    ids = TOKENIZER.encode("To be, o").tolist()
    assert len(ids) == CONTEXT
    scores = score_prompt(model, ids)
    assert model.training
    with torch.no_grad():
        wanted = model.eval()(torch.tensor([ids]))[0].log_softmax(-1)
    assert scores.dtype == torch.float64
    torch.testing.assert_close(scores, wanted)
