"""Module 05, wrong answers: weights that have other names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tiny_transformer.course.inputs import draw
from tiny_transformer.course.wrong_answers import mutant, probes, rewrite

Lists = tuple[list[str], list[str]]


class Two(nn.Module):
    """Two layers, of which the second may use the first one's table."""

    def __init__(self, *, tie: bool = False) -> None:
        super().__init__()
        self.up = nn.Linear(2, 3)
        self.down = nn.Linear(2, 3, bias=False)
        with torch.no_grad():
            for i, parameter in enumerate(self.parameters()):
                parameter.copy_(draw(*parameter.shape, seed=70 + i))
        if tie:
            self.down.weight = self.up.weight


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    named = enumerate(model.named_parameters())
    return {name: draw(*p.shape, seed=i) for i, (name, p) in named}


@probes("load_weights")
def _(f: Any) -> list[Any]:
    def load(
        given: Any = lambda w: w, rename: dict[str, str] | None = None, *, tie: bool = False
    ) -> list[Any]:
        """Return what came back, and what is in the model then."""
        model = Two(tie=tie)
        before = dict(model.named_parameters())
        weights = given(weights_of(model))
        try:
            back, raised = f(model, weights, rename or {}), ""
        except Exception as error:
            back, raised = (), f"{type(error).__name__} {'up.bias' in str(error)}"
        named = dict(model.named_parameters(remove_duplicate=False))
        kept = [named[name] is p and p.requires_grad for name, p in before.items()]
        values = [p.detach().clone() for _, p in sorted(named.items())]
        return [back, raised, kept, values, sorted(weights)]

    def without(*names: str) -> Any:
        return lambda w: {name: t for name, t in w.items() if name not in names}

    def renamed(old: str, new: str) -> Any:
        return lambda w: {name.replace(old, new): t for name, t in w.items()}

    def shared() -> bool:
        model = Two()
        weights = weights_of(model)
        before = {name: tensor.clone() for name, tensor in weights.items()}
        f(model, weights, {})
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(1)
        return all(torch.equal(before[name], weights[name]) for name in before)

    bias = torch.ones(1)
    return [
        load,
        lambda: load(renamed("down", "wo"), {"wo": "down"}),
        lambda: load(renamed("weight", "kernel"), {"kernel": "weight"}),
        lambda: load(renamed("up.", "up.up."), {"up.": ""}),
        lambda: load(lambda w: {f"m.{n}": t for n, t in w.items()}, {"m.": ""}),
        lambda: load(renamed("up", "a.a"), {"a.a": "x", "x": "up"}),
        lambda: load(renamed("up", "a.a"), {"x": "up", "a.a": "x"}),
        lambda: load(renamed("down", "p.p."), {"p.": "q", "qq": "down"}),
        lambda: load(renamed("up.weight", "w"), {"w": "up.weight"}),
        lambda: load(rename={"wo": "down"}),
        lambda: load(without("up.bias")),
        lambda: load(without("up.weight", "down.weight")),
        lambda: load(lambda w: {}),
        lambda: load(lambda w: {**w, "zoom": torch.ones(2), "a.step": torch.tensor(7)}),
        lambda: load(lambda w: {**renamed("up", "m.up")(w), "m.zoom": torch.ones(2)}, {"m.": ""}),
        lambda: load(renamed("down", "wo")),
        lambda: load(without("up.bias"), tie=True),
        lambda: load(renamed("up.weight", "down.weight"), tie=True),
        lambda: load(without("up.weight"), tie=True),
        lambda: load(lambda w: {**w, "down.weight": w["up.weight"]}, tie=True),
        lambda: load(lambda w: {**w, "up.bias": bias}),
        lambda: load(lambda w: {**w, "up.bias": torch.ones(4)}),
        lambda: load(lambda w: {**w, "down.weight": torch.ones(2, 3)}),
        lambda: load(lambda w: {name: t.double() for name, t in w.items()}),
        lambda: load(lambda w: {name: nn.Parameter(t) for name, t in w.items()}),
        shared,
    ]


def translate(name: str, rename: Mapping[str, str]) -> str:
    for old, new in rename.items():
        name = name.replace(old, new)
    return name


def load(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    rename: Mapping[str, str],
    *,
    name_of: Any = translate,
    compare: bool = True,
    copy: Any = lambda own, tensor: own.copy_(tensor),
) -> Lists:
    """Load as the solution does, with steps that a variation can replace."""
    own = model.state_dict()
    new = {name: name_of(name, rename) for name in weights}
    known = {name: new for name, new in new.items() if new in own}
    for name, mine in known.items():
        if compare and weights[name].shape != own[mine].shape:
            raise ValueError(f"{name} has another shape than {mine}")
    with torch.no_grad():
        for name, mine in known.items():
            copy(own[mine], weights[name])
    filled = {own[mine].data_ptr() for mine in known.values()}
    missing = [n for n, p in model.named_parameters() if p.data_ptr() not in filled]
    return sorted(missing), sorted(set(weights) - set(known))


@mutant(
    "load_weights",
    "You do not translate: every name goes as it came. Use `rename`.",
)
def without_translating(
    model: nn.Module, weights: Mapping[str, Tensor], rename: Mapping[str, str]
) -> Lists:
    return load(model, weights, {})


@mutant(
    "load_weights",
    "You look up whole names in `rename`. Its keys are pieces of names: replace them inside.",
)
def whole_names(
    model: nn.Module, weights: Mapping[str, Tensor], rename: Mapping[str, str]
) -> Lists:
    return load(model, weights, rename, name_of=lambda name, rename: rename.get(name, name))


@mutant(
    "load_weights",
    "You translate at the beginning of a name alone. A piece may stand anywhere in it.",
)
def beginnings_alone(
    model: nn.Module, weights: Mapping[str, Tensor], rename: Mapping[str, str]
) -> Lists:
    def name_of(name: str, rename: Mapping[str, str]) -> str:
        for old, new in rename.items():
            if name.startswith(old):
                name = new + name[len(old) :]
        return name

    return load(model, weights, rename, name_of=name_of)


@mutant(
    "load_weights",
    "You stop at the first pair that fits. All pairs apply, one after the other.",
)
def first_pair_alone(
    model: nn.Module, weights: Mapping[str, Tensor], rename: Mapping[str, str]
) -> Lists:
    def name_of(name: str, rename: Mapping[str, str]) -> str:
        for old, new in rename.items():
            if old in name:
                return name.replace(old, new)
        return name

    return load(model, weights, rename, name_of=name_of)


@mutant(
    "load_weights",
    "You replace the first occurrence of a piece. All of them are to be replaced.",
)
def first_occurrence_alone(
    model: nn.Module, weights: Mapping[str, Tensor], rename: Mapping[str, str]
) -> Lists:
    def name_of(name: str, rename: Mapping[str, str]) -> str:
        for old, new in rename.items():
            name = name.replace(old, new, 1)
        return name

    return load(model, weights, rename, name_of=name_of)


@mutant(
    "load_weights",
    "You apply the pairs in another order than they have in `rename`: the last first.",
)
def last_pair_first(
    model: nn.Module, weights: Mapping[str, Tensor], rename: Mapping[str, str]
) -> Lists:
    return load(model, weights, dict(reversed(list(rename.items()))))


@mutant(
    "load_weights",
    "You read `rename` backwards: it goes from their pieces to ours.",
)
def backwards(model: nn.Module, weights: Mapping[str, Tensor], rename: Mapping[str, str]) -> Lists:
    return load(model, weights, {new: old for old, new in rename.items() if new})


@mutant(
    "load_weights",
    "You return the two lists in the other order: first what is missing, then the unexpected.",
)
def lists_exchanged(
    model: nn.Module, weights: Mapping[str, Tensor], rename: Mapping[str, str]
) -> Lists:
    missing, unexpected = load(model, weights, rename)
    return unexpected, missing


@mutant(
    "load_weights",
    "Your unexpected names are translated. Give them as they came, so that their owner finds them.",
)
def unexpected_by_our_names(
    model: nn.Module, weights: Mapping[str, Tensor], rename: Mapping[str, str]
) -> Lists:
    missing, unexpected = load(model, weights, rename)
    return missing, sorted(translate(name, rename) for name in unexpected)


@mutant("load_weights", "You do not report what is unexpected.")
def nothing_unexpected(
    model: nn.Module, weights: Mapping[str, Tensor], rename: Mapping[str, str]
) -> Lists:
    return load(model, weights, rename)[0], []


@mutant("load_weights", "You do not report what is missing.")
def nothing_missing(
    model: nn.Module, weights: Mapping[str, Tensor], rename: Mapping[str, str]
) -> Lists:
    return [], load(model, weights, rename)[1]


@mutant("load_weights", "Your lists are not sorted.")
def unsorted(model: nn.Module, weights: Mapping[str, Tensor], rename: Mapping[str, str]) -> Lists:
    missing, unexpected = load(model, weights, rename)
    own = [name for name, _ in model.named_parameters() if name in missing]
    return own, [name for name in weights if name in unexpected]


@mutant(
    "load_weights",
    "A tied parameter has two names, and you call the one that did not come missing. One is "
    "enough: it is filled.",
)
def both_names_wanted(
    model: nn.Module, weights: Mapping[str, Tensor], rename: Mapping[str, str]
) -> Lists:
    _, unexpected = load(model, weights, rename)
    came = {translate(name, rename) for name in weights}
    return sorted(set(model.state_dict()) - came), unexpected


@mutant(
    "load_weights",
    "You know a tied parameter by its first name alone: weights that come under the second are "
    "not loaded. `state_dict()` has both names, `named_parameters()` one.",
)
def first_names_alone(
    model: nn.Module, weights: Mapping[str, Tensor], rename: Mapping[str, str]
) -> Lists:
    own = {name: p.detach() for name, p in model.named_parameters()}
    new = {name: translate(name, rename) for name in weights}
    known = {name: mine for name, mine in new.items() if mine in own}
    for name, mine in known.items():
        if weights[name].shape != own[mine].shape:
            raise ValueError(f"{name} has another shape than {mine}")
    for name, mine in known.items():
        own[mine].copy_(weights[name].detach())
    return sorted(set(own) - set(known.values())), sorted(set(weights) - set(known))


@mutant(
    "load_weights",
    "You give the model new parameters: an optimizer that holds the old ones updates nothing, and "
    "ties are cut. Copy into those that are there.",
)
def new_parameters(
    model: nn.Module, weights: Mapping[str, Tensor], rename: Mapping[str, str]
) -> Lists:
    lists = load(model, weights, rename)
    for name, tensor in weights.items():
        path, _, last = translate(name, rename).rpartition(".")
        if translate(name, rename) in model.state_dict():
            setattr(model.get_submodule(path), last, nn.Parameter(tensor.detach().clone()))
    return lists


@mutant(
    "load_weights",
    "You let the model use the tensors that were given (`.data = ...`): when it trains, they "
    "change. Copy the numbers.",
)
def memory_shared(
    model: nn.Module, weights: Mapping[str, Tensor], rename: Mapping[str, str]
) -> Lists:
    lists = load(model, weights, rename)
    named = dict(model.named_parameters(remove_duplicate=False))
    for name, tensor in weights.items():
        if translate(name, rename) in named:
            named[translate(name, rename)].data = tensor.data
    return lists


@mutant(
    "load_weights",
    "You leave out a tensor of another shape and go on. That is a ValueError: the model would keep "
    "random numbers there.",
)
def other_shapes_left_out(
    model: nn.Module, weights: Mapping[str, Tensor], rename: Mapping[str, str]
) -> Lists:
    own = model.state_dict()
    fitting = {
        name: tensor
        for name, tensor in weights.items()
        if translate(name, rename) not in own or own[translate(name, rename)].shape == tensor.shape
    }
    return load(model, fitting, rename)


@mutant(
    "load_weights",
    "You do not compare shapes: `copy_` spreads a smaller tensor over a larger one without a word, "
    "and raises another error in the middle where it cannot.",
)
def without_comparing_shapes(
    model: nn.Module, weights: Mapping[str, Tensor], rename: Mapping[str, str]
) -> Lists:
    return load(model, weights, rename, compare=False)


@mutant(
    "load_weights",
    "You compare the number of numbers, and reshape. A (2, 3) table is not a (3, 2) one: compare "
    "shapes.",
)
def reshaped(model: nn.Module, weights: Mapping[str, Tensor], rename: Mapping[str, str]) -> Lists:
    own = model.state_dict()
    for name, tensor in weights.items():
        mine = own.get(translate(name, rename))
        if mine is not None and mine.numel() != tensor.numel():
            raise ValueError(f"{name} has another size")

    def copy(mine: Tensor, tensor: Tensor) -> None:
        mine.copy_(tensor.reshape(mine.shape))

    return load(model, weights, rename, compare=False, copy=copy)


@mutant(
    "load_weights",
    "You compare and copy in one loop: where the second shape is wrong, the first is loaded "
    "already. Compare all, then copy all.",
)
def half_loaded(
    model: nn.Module, weights: Mapping[str, Tensor], rename: Mapping[str, str]
) -> Lists:
    own = model.state_dict()
    for name, tensor in weights.items():
        mine = own.get(translate(name, rename))
        if mine is not None and mine.shape != tensor.shape:
            raise ValueError(f"{name} has another shape than the model's")
        if mine is not None:
            mine.copy_(tensor.detach())
    return load(model, weights, rename)


@mutant(
    "load_weights",
    "Your error does not say which tensor has another shape. Put its name in.",
)
def error_without_the_name(
    model: nn.Module, weights: Mapping[str, Tensor], rename: Mapping[str, str]
) -> Lists:
    try:
        return load(model, weights, rename)
    except ValueError:
        raise ValueError("a shape does not fit") from None


@mutant(
    "load_weights",
    "You take names out of the dict that was given, which belongs to somebody else: pop from a "
    "copy.",
)
def names_taken_out(model: nn.Module, weights: Any, rename: Mapping[str, str]) -> Lists:
    lists = load(model, weights, rename)
    for name in list(weights):
        if name not in lists[1]:
            weights.pop(name)
    return lists


@mutant(
    "load_weights",
    "You refuse weights that are missing or unexpected. Load what fits, and return both lists.",
)
def strict(model: nn.Module, weights: Mapping[str, Tensor], rename: Mapping[str, str]) -> Lists:
    lists = load(model, weights, rename)
    if lists[0] or lists[1]:
        raise RuntimeError("names do not agree")
    return lists


@mutant("load_weights", "You compare names and load nothing.")
def nothing_loaded(
    model: nn.Module, weights: Mapping[str, Tensor], rename: Mapping[str, str]
) -> Lists:
    return load(model, weights, rename, copy=lambda own, tensor: None)


@rewrite("load_weights")
def by_load_state_dict(
    model: nn.Module, weights: Mapping[str, Tensor], rename: Mapping[str, str]
) -> Lists:
    ours: dict[str, Tensor] = {}
    came_as: dict[str, str] = {}
    for name, tensor in weights.items():
        new = translate(name, rename)
        ours[new], came_as[new] = tensor, name
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    wrong = [came_as[n] for n, t in ours.items() if n in shapes and shapes[n] != t.shape]
    if wrong:
        raise ValueError(f"other shapes: {', '.join(wrong)}")
    found = model.load_state_dict(ours, strict=False)
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    missing = [all_of[0] for all_of in names.values() if set(all_of) <= set(found.missing_keys)]
    return sorted(missing), sorted(came_as[name] for name in found.unexpected_keys)


@rewrite("load_weights")
def parameter_by_parameter(
    model: nn.Module, weights: Mapping[str, Tensor], rename: Mapping[str, str]
) -> Lists:
    by_our_name = {translate(name, rename): name for name in weights}
    places: dict[nn.Parameter, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        places.setdefault(parameter, []).append(name)
    jobs, missing, used = [], [], set()
    for parameter, own_names in places.items():
        came = [name for name in own_names if name in by_our_name]
        used |= {by_our_name[name] for name in came}
        if not came:
            missing.append(own_names[0])
        jobs += [(parameter, by_our_name[name]) for name in came]
    for parameter, name in jobs:
        if tuple(parameter.shape) != tuple(weights[name].shape):
            raise ValueError(f"shape of {name}")
    for parameter, name in jobs:
        parameter.data.copy_(weights[name].data)
    missing.sort()
    return missing, sorted(name for name in weights if name not in used)
