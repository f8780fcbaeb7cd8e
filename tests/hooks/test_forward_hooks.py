"""Forward hooks tell the truth about activations, and never change them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.hooks.helpers import Maximum, batch, seen_by, small_model
from torch import Tensor, nn

from tiny_transformer.hooks.base import ForwardHook
from tiny_transformer.hooks.registry import build_hooks
from tiny_transformer.hooks.runner import HookRunner
from tiny_transformer.model.loss import compute_loss
from tiny_transformer.model.transformer import Transformer
from tiny_transformer.runtime.errors import ConfigError, HookError

pytestmark = pytest.mark.requirement("hooks.forward")


def outputs_of(model: nn.Module, names: list[str]) -> dict[str, Tensor]:
    """Return what modules put out in a pass over `batch()`, by hooks of this test's own."""
    outputs: dict[str, Tensor] = {}
    handles = [
        model.get_submodule(name).register_forward_hook(
            lambda _, __, output, name=name: outputs.update({name: output})
        )
        for name in names
    ]
    with torch.no_grad():
        model.eval()(batch()[0])
    for handle in handles:
        handle.remove()
    return outputs


def test_activation_stats_are_mean_and_standard_deviation_of_each_output() -> None:
    model = small_model()
    names = ["embeddings"]
    names += [f"blocks.{i}{part}" for i in (0, 1) for part in ("", ".attention", ".mlp")]
    expected = {}
    for name, output in outputs_of(model, names).items():
        values = output.double().flatten().tolist()
        mean = math.fsum(values) / len(values)
        expected[f"{name}/mean"] = mean
        expected[f"{name}/std"] = math.sqrt(
            math.fsum((value - mean) ** 2 for value in values) / len(values)
        )
    assert seen_by(model, {"name": "activation_stats"}) == pytest.approx(expected, abs=1e-6)


def entropies_by_hand(model: Transformer, layer: int) -> list[float]:
    """Return each head's mean entropy over the largest possible, from q and k, in float64."""
    attention: Any = model.get_submodule(f"blocks.{layer}.attention")
    attention.requires_grad_(False)
    x = outputs_of(model, [f"blocks.{layer}.norm1"])[f"blocks.{layer}.norm1"]
    B, T, _ = x.shape
    D = attention.head_dim
    q = attention.q_proj(x).view(B, T, -1, D).transpose(1, 2)  # (B, H, T, D)
    k = attention.k_proj(x).view(B, T, -1, D).transpose(1, 2)  # (B, H_kv, T, D)
    if attention.q_norm is not None:
        q, k = attention.q_norm(q), attention.k_norm(k)
    if attention.rotary is not None:
        q, k = attention.rotary(q, 0), attention.rotary(k, 0)
    H = q.shape[1]
    means = []
    for h in range(H):
        shares = []
        for b in range(B):
            for t in range(1, T):
                keys = k[b, h * k.shape[1] // H, : t + 1].double()
                scores = [float(q[b, h, t].double() @ key) / math.sqrt(D) for key in keys]
                total = math.fsum(map(math.exp, scores))
                weights = [math.exp(score) / total for score in scores]
                shares.append(-math.fsum(w * math.log(w) for w in weights) / math.log(t + 1))
        means.append(math.fsum(shares) / len(shares))
    return means


@pytest.mark.parametrize(
    "changes",
    [{}, {"position": "rotary", "qk_norm": True, "n_kv_heads": 1}],
    ids=["plain", "rotary, QK-norm, grouped"],
)
def test_attention_entropy_is_that_of_weights_computed_by_hand(changes: dict[str, Any]) -> None:
    model = small_model(**changes)
    found = seen_by(model, {"name": "attention_entropy"})
    for layer in (0, 1):
        heads = entropies_by_hand(model, layer)
        where = f"blocks.{layer}.attention_weights"
        assert [found[f"{where}/head_{h}"] for h in (0, 1)] == pytest.approx(heads, abs=1e-5)
        assert found[f"{where}/mean"] == pytest.approx(sum(heads) / 2, abs=1e-5)
        assert 0.05 < found[f"{where}/mean"] < 0.999
    assert len(found) == 6


def test_attention_entropy_is_1_where_all_keys_weigh_alike_and_0_where_one_has_all() -> None:
    model = small_model()
    attention: Any = model.get_submodule("blocks.0.attention")
    with torch.no_grad():
        attention.q_proj.weight.zero_()
        attention.q_proj.bias.zero_()
    where = "blocks.0.attention_weights/mean"
    assert seen_by(model, {"name": "attention_entropy"})[where] == pytest.approx(1)
    with torch.no_grad():
        attention.q_proj.bias.fill_(1e4)
    assert seen_by(model, {"name": "attention_entropy"})[where] == pytest.approx(0, abs=1e-3)


def test_the_logit_lens_of_the_last_block_is_the_loss_of_the_model() -> None:
    model = small_model()
    ids, targets = batch()
    with torch.no_grad():
        logits = model.eval()(ids)
    found = seen_by(model, {"name": "logit_lens"})
    assert found["blocks.1/loss"] == compute_loss(logits, targets).item()
    right = (logits.argmax(dim=-1) == targets).double().mean().item()
    assert found["blocks.1/accuracy"] == pytest.approx(right)


def test_the_logit_lens_of_an_earlier_layer_is_the_loss_without_the_later_ones() -> None:
    model = small_model()
    found = seen_by(model, {"name": "logit_lens"})
    ids, targets = batch()
    for where, n_blocks in (("embeddings", 0), ("blocks.0", 1)):
        shorter = small_model()
        del shorter.blocks[n_blocks:]
        with torch.no_grad():
            expected = F.cross_entropy(shorter.eval()(ids).flatten(0, 1), targets.flatten()).item()
        assert found[f"{where}/loss"] == pytest.approx(expected, rel=1e-6)
    assert len({found[f"{where}/loss"] for where in ("embeddings", "blocks.0", "blocks.1")}) == 3


@pytest.mark.parametrize("n_dead", [0, 6, 24])
def test_dead_units_are_those_that_never_fire(n_dead: int) -> None:
    model = small_model(activation="relu")
    up: Any = model.get_submodule("blocks.1.mlp.up_proj")
    with torch.no_grad():
        up.bias.fill_(20)
        up.weight[:n_dead] = 0
        up.bias[:n_dead] = -1
    assert seen_by(model, {"name": "dead_units", "layers": [1]}) == {
        "blocks.1.mlp_hidden/share": n_dead / 24
    }


def test_a_unit_that_fires_for_one_token_is_not_dead() -> None:
    model = small_model(activation="relu")
    x = outputs_of(model, ["blocks.0.norm2"])["blocks.0.norm2"].flatten(0, 1)  # (B * T, C)
    up: Any = model.get_submodule("blocks.0.mlp.up_proj")
    with torch.no_grad():
        up.weight[:] = x[7]
        up.bias.fill_(-0.99 * x[7] @ x[7])
        fires = x @ x[7] + up.bias[0] > 0
    assert fires.sum() == 1
    settings = {"name": "dead_units", "layers": [0], "threshold": 1e-6}
    assert seen_by(model, settings) == {"blocks.0.mlp_hidden/share": 0}


def test_layers_and_sites_choose_what_is_looked_at() -> None:
    settings = {"name": "activation_stats", "layers": [1], "sites": ["mlp.up_proj", "final_norm"]}
    found = seen_by(small_model(), settings)
    assert {name.rpartition("/")[0] for name in found} == {"blocks.1.mlp.up_proj", "final_norm"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": [2]}, "activation_stats: there is no layer 2; the model has layers 0 to 1"),
        ({"layers": [-1]}, "there is no layer -1"),
        ({"sites": ["atention"]}, "no site 'atention'. Did you mean 'attention'"),
    ],
)
def test_a_place_that_the_model_lacks_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        seen_by(small_model(), {"name": "activation_stats", **settings})


def test_attention_without_weights_to_show_has_no_such_site() -> None:
    model = small_model()
    for block in model.blocks:
        block.attention = nn.Identity()
    with pytest.raises(ConfigError, match="no site 'attention_weights'"):
        seen_by(model, {"name": "attention_entropy"})


def test_a_module_that_returns_no_tensor_is_named() -> None:
    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    class First(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pair = Pair()

        def forward(self, x: Tensor) -> Tensor:
            return self.pair(x)[0]

    model = small_model()
    model.get_submodule("blocks.0").mlp = First()
    with pytest.raises(HookError, match=r"cannot look at blocks\.0\.mlp\.pair: .* tuple"):
        seen_by(model, {"name": "activation_stats", "sites": ["mlp.pair"]})


def test_one_name_for_many_sites_is_many_metrics() -> None:
    outputs = outputs_of(small_model(), ["blocks.0", "blocks.1"])
    found = seen_by(small_model(), Maximum())
    assert found == {f"{name}/max": output.max().item() for name, output in outputs.items()}


def test_all_hooks_that_are_due_share_one_pass_and_the_others_cost_none() -> None:
    model, passes = small_model(), []
    model.register_forward_hook(lambda *_: passes.append(1))
    forward = ("activation_stats", "attention_entropy", "logit_lens")
    hooks = [{"name": name, "every": 10} for name in forward]
    runner = HookRunner(build_hooks(hooks), model, seed=0)
    for step in range(1, 31):
        runner.before_forward(step, *batch())
    assert len(passes) == 3


def test_a_look_that_runs_modules_itself_is_not_watched_by_the_other_hooks() -> None:
    seen = []

    class Counts(ForwardHook):
        sites = ("final_norm", "attention.q_proj")

        def observe(self, site: Any, output: Tensor, probe: Any) -> None:
            seen.append(site.name)

    seen_by(small_model(), Counts(), {"name": "logit_lens"}, {"name": "attention_entropy"})
    assert sorted(seen) == [*(f"blocks.{i}.attention.q_proj" for i in (0, 1)), "final_norm"]


def test_the_pass_is_without_dropout_and_gradients_and_puts_each_mode_back() -> None:
    model = small_model(dropout=0.5).train()
    model.get_submodule("blocks.1").eval()
    modes = [module.training for module in model.modules()]
    seen = []

    class Look(ForwardHook):
        def observe(self, site: Any, output: Tensor, probe: Any) -> None:
            seen.append((model.training, torch.is_grad_enabled(), output.requires_grad))

    first, again = (seen_by(model, Look(), {"name": "activation_stats"}) for _ in range(2))
    assert set(seen) == {(False, False, False)}
    assert first == again
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.grad is None for parameter in model.parameters())


class ReturnsTensor(ForwardHook):
    def observe(self, site: Any, output: Tensor, probe: Any) -> Any:
        return output * 2


class ChangesCopy(ForwardHook):
    def observe(self, site: Any, output: Tensor, probe: Any) -> None:
        output.mul_(2)


class ChangesWeight(ForwardHook):
    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def observe(self, site: Any, output: Tensor, probe: Any) -> None:
        self.model.get_parameter("lm_head.weight").add_(1)


class ReturnsText(ForwardHook):
    def observe(self, site: Any, output: Tensor, probe: Any) -> Any:
        return {"mean": "high"}


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (ReturnsTensor, r"hook ReturnsTensor returned Tensor for blocks\.0\..*never change"),
        (ChangesCopy, r"hook ChangesCopy changed the output of blocks\.0\."),
        (ReturnsText, r"hook ReturnsText returned .*'high'.*names and numbers"),
    ],
)
def test_an_attempt_to_change_an_output_is_an_error_that_names_the_hook(
    kind: type[ForwardHook], message: str
) -> None:
    model = small_model().train()
    expected = outputs_of(model.train(), ["lm_head"])["lm_head"]
    model.train()
    with pytest.raises(HookError, match=message):
        seen_by(model, kind())
    assert model.training
    assert all(not module._forward_hooks for module in model.modules())
    assert outputs_of(model, ["lm_head"])["lm_head"].equal(expected)


def test_a_changed_weight_is_an_error_that_names_the_hook() -> None:
    model = small_model(tie_weights=False)
    with pytest.raises(HookError, match=r"hook ChangesWeight changed lm_head\.weight"):
        seen_by(model, ChangesWeight(model))


def test_what_a_hook_does_to_its_copy_never_reaches_the_model() -> None:
    class Overwrites(ForwardHook):
        def observe(self, site: Any, output: Tensor, probe: Any) -> None:
            output.data.fill_(float("nan"))  # past the count of changes

    model = small_model()
    plain = seen_by(model, {"name": "logit_lens"})
    assert seen_by(model, Overwrites(), {"name": "logit_lens"}) == plain
