"""Answers to module 05's exercises on writing, loading and the whole model, written afresh."""

import contextlib
import functools

import torch
from torch import nn

from tiny_transformer import Parts
from tiny_transformer.course.wrong_answers import mutant, rewrite

# ----------------------------------------------------------------------------- write_greedily


@contextlib.contextmanager
def _reading(model):
    was_training = model.training
    model.eval()
    with torch.no_grad():
        yield
    model.train(was_training)


@mutant("write_greedily", "cuts the prompt once, and then reads more and more")
def cuts_once(model, ids, n_new, context_length):
    seen, written = ids[:, -context_length:], []
    with _reading(model):
        for _ in range(n_new):
            written.append(model(seen)[:, -1].argmax(dim=-1, keepdim=True))
            seen = torch.cat([seen, written[-1]], dim=1)
    return torch.cat([ids, *written], dim=1)


@mutant("write_greedily", "returns no more than what the model read last")
def loses_the_beginning(model, ids, n_new, context_length):
    with _reading(model):
        for _ in range(n_new):
            ids = ids[:, -context_length:]
            ids = torch.cat([ids, model(ids)[:, -1].argmax(dim=-1, keepdim=True)], dim=1)
    return ids.clone()


@mutant("write_greedily", "leaves the model in training mode, whatever mode it had")
def always_trains_afterwards(model, ids, n_new, context_length):
    model.eval()
    with torch.no_grad():
        for _ in range(n_new):
            logits = model(ids[:, -context_length:])
            ids = torch.cat([ids, logits[:, -1:].argmax(dim=-1)], dim=1)
    model.train()
    return ids.clone()


@mutant("write_greedily", "lets dropout garble what the model says")
def writes_with_dropout(model, ids, n_new, context_length):
    with torch.no_grad():
        for _ in range(n_new):
            logits = model(ids[:, -context_length:])
            ids = torch.cat([ids, logits[:, -1:].argmax(dim=-1)], dim=1)
    return ids.clone()


@mutant("write_greedily", "writes in all texts what the first one wants")
def first_text_decides(model, ids, n_new, context_length):
    with _reading(model):
        for _ in range(n_new):
            likeliest = model(ids[:, -context_length:])[0, -1].argmax()
            ids = torch.cat([ids, likeliest.expand(len(ids), 1)], dim=1)
    return ids.clone()


@rewrite("write_greedily")
def into_a_sheet_of_the_right_size(model, ids, n_new, context_length):
    start = ids.shape[1]
    sheet = ids.new_zeros(ids.shape[0], start + n_new)
    sheet[:, :start] = ids
    mode = model.training
    model.train(False)
    try:
        with torch.inference_mode():
            for end in range(start, start + n_new):
                logits = model(sheet[:, max(0, end - context_length) : end])
                sheet[:, end] = logits.select(1, -1).max(dim=-1).indices
    finally:
        model.train(mode)
    return sheet


@rewrite("write_greedily")
@torch.no_grad()
def one_token_and_then_the_rest(model, ids, n_new, context_length):
    if n_new == 0:
        return torch.empty_like(ids).copy_(ids)
    with _reading(model):
        last = model(ids[:, -context_length:])[:, -1, :]
    longer = torch.hstack([ids, last.topk(1).indices])
    return one_token_and_then_the_rest(model, longer, n_new - 1, context_length)


# ------------------------------------------------------------------------------- load_weights


def _translated(name, rename):
    for old, new in rename.items():
        name = name.replace(old, new)
    return name


def _missing(model, filled):
    places = dict(model.named_parameters(remove_duplicate=False))
    given = {id(places[name]) for name in filled if name in places}
    return sorted(name for name, p in model.named_parameters() if id(p) not in given)


def _fitting(model, weights, rename, translate=_translated):
    """What comes to which place, and what has none; an error where a shape is another."""
    own = model.state_dict()
    ours = {name: translate(name, rename) for name in weights}
    for name, new in ours.items():
        if new in own and own[new].shape != weights[name].shape:
            raise ValueError(f"{name} has not the shape of the model's {new}")
    fitting = {new: weights[name] for name, new in ours.items() if new in own}
    return fitting, sorted(name for name, new in ours.items() if new not in own)


@mutant("load_weights", "copies what comes before a tensor of the wrong shape")
def copies_before_checking(model, weights, rename):
    own, filled, unexpected = model.state_dict(), [], []
    for name, tensor in weights.items():
        new = _translated(name, rename)
        if new not in own:
            unexpected.append(name)
            continue
        if own[new].shape != tensor.shape:
            raise ValueError(f"{name} has not the shape of the model's {new}")
        own[new].copy_(tensor)
        filled.append(new)
    return _missing(model, filled), sorted(unexpected)


@mutant("load_weights", "takes the tensors themselves, with their dtype, and copies nothing")
def takes_the_tensors(model, weights, rename):
    fitting, unexpected = _fitting(model, weights, rename)
    places = dict(model.named_parameters(remove_duplicate=False))
    for name, tensor in fitting.items():
        places[name].data = tensor
    return _missing(model, fitting), unexpected


@mutant("load_weights", "says that a tied head is missing though its table came")
def tied_head_is_missing(model, weights, rename):
    fitting, unexpected = _fitting(model, weights, rename)
    model.load_state_dict(fitting, strict=False)
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    return sorted(set(names) - set(fitting)), unexpected


@mutant("load_weights", "translates by the first piece that fits, and by no other")
def first_pair_only(model, weights, rename):
    def translate(name, rename):
        for old, new in rename.items():
            if old in name:
                return name.replace(old, new)
        return name

    fitting, unexpected = _fitting(model, weights, rename, translate)
    model.load_state_dict(fitting, strict=False)
    return _missing(model, fitting), unexpected


@mutant("load_weights", "lists what has no place under the translated name")
def unexpected_as_translated(model, weights, rename):
    fitting, unexpected = _fitting(model, weights, rename)
    model.load_state_dict(fitting, strict=False)
    return _missing(model, fitting), sorted(_translated(name, rename) for name in unexpected)


@rewrite("load_weights")
def asks_each_place(model, weights, rename):
    came = {}
    for name in weights:
        came[functools.reduce(lambda text, pair: text.replace(*pair), rename.items(), name)] = name
    places = model.state_dict(keep_vars=True)
    for new in places.keys() & came.keys():
        if tuple(weights[came[new]].shape) != tuple(places[new].shape):
            raise ValueError(f"{came[new]} does not fit into {new}: another shape")
    names_of = {}
    for new, place in places.items():
        names_of.setdefault(id(place), []).append(new)
        if new in came:
            place.data.copy_(weights[came[new]].detach())
    first_names = {name for name, _ in model.named_parameters()}
    missing = [
        names[0]
        for names in names_of.values()
        if names[0] in first_names and not any(name in came for name in names)
    ]
    return sorted(missing), sorted(old for new, old in came.items() if new not in places)


@rewrite("load_weights")
def leaves_it_to_torch(model, weights, rename):
    def ours(name):
        for old, new in rename.items():
            name = new.join(name.split(old))
        return name

    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    wrong = [n for n, w in weights.items() if shapes.get(ours(n), w.shape) != w.shape]
    if wrong:
        raise ValueError("other shapes: " + ", ".join(f"{name} ({ours(name)})" for name in wrong))
    result = model.load_state_dict({ours(n): w for n, w in weights.items()}, strict=False)
    twins = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        twins.setdefault(parameter, []).append(name)
    absent = set(result.missing_keys)
    missing = sorted(names[0] for names in twins.values() if absent.issuperset(names))
    return missing, sorted(name for name in weights if ours(name) in result.unexpected_keys)


# -------------------------------------------------------------------------------- Transformer


class _Plain(nn.Module):
    """A right model in steps; each wrong one goes wrong in one of them."""

    def __init__(self, config, parts=None, *, seed=0):
        super().__init__()
        self.config = config
        parts = Parts.for_config(config) if parts is None else parts
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.build(config, parts)
            self.draw()

    def build(self, config, parts):
        self.embeddings = parts.embeddings(config, parts)
        self.blocks = self.stack(config, parts)
        self.final_norm = parts.build_norm(config)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        if config.tie_weights:
            self.tie()

    def stack(self, config, parts):
        return nn.ModuleList([parts.block(config, parts) for _ in range(config.n_layers)])

    def tie(self):
        self.lm_head.weight = self.embeddings.token.weight

    def draw(self):
        for name, parameter in self.named_parameters():
            if parameter.ndim >= 2:
                nn.init.normal_(parameter, std=0.02)
            elif "norm" not in name:
                nn.init.zeros_(parameter)

    def forward(self, ids, cache=None, *, last_only=False):
        self.check(ids)
        x = self.embeddings(ids)
        for block in self.blocks:
            x = block(x)
        return self.widen(self.lm_head(self.final_norm(self.pick(x, last_only))))

    def check(self, ids):
        if ids.ndim != 2:
            raise ValueError("ids are (B, T)")
        if ids.shape[1] > self.config.context_length:
            raise ValueError("too many tokens")

    def pick(self, x, last_only):
        return x[:, -1:] if last_only else x

    def widen(self, logits):
        return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


@mutant("Transformer", "has the same block in every layer, with one set of weights")
class OneBlockForAllLayers(_Plain):
    def stack(self, config, parts):
        return nn.ModuleList([parts.block(config, parts)] * config.n_layers)


@mutant("Transformer", "reads more tokens than its context where positions allow it")
class ReadsAnyLength(_Plain):
    def check(self, ids):
        if ids.ndim != 2:
            raise ValueError("ids are (B, T)")


@mutant("Transformer", "returns float32 also for a float64 model")
class AlwaysFloat32(_Plain):
    def widen(self, logits):
        return logits.float()


@mutant("Transformer", "returns the last logits without their axis of positions")
class LastWithoutItsAxis(_Plain):
    def pick(self, x, last_only):
        return x[:, -1] if last_only else x


@mutant("Transformer", "seeds PyTorch's global generator and leaves it so")
class SeedsTheGlobalGenerator(_Plain):
    def __init__(self, config, parts=None, *, seed=0):
        nn.Module.__init__(self)
        self.config = config
        torch.manual_seed(seed)
        self.build(config, Parts.for_config(config) if parts is None else parts)
        self.draw()


@mutant("Transformer", "draws linear layers and PyTorch's own embeddings, but not its tables")
class LeavesTheTables(_Plain):
    def draw(self):
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                tied = module is self.lm_head and self.config.tie_weights
                if not tied:
                    nn.init.normal_(module.weight, std=0.02)
                if getattr(module, "bias", None) is not None:
                    nn.init.zeros_(module.bias)


@mutant("Transformer", "copies the table into the head: they are equal, and part in training")
class TiesByCopying(_Plain):
    def draw(self):
        super().draw()
        if self.config.tie_weights:
            self.lm_head.weight.data.copy_(self.embeddings.token.weight.data)

    def tie(self):
        pass


@mutant("Transformer", "builds from the reference's parts, whatever `parts` says")
class ForgetsTheParts(_Plain):
    def __init__(self, config, parts=None, *, seed=0):
        super().__init__(config, Parts.for_config(config), seed=seed)


@rewrite("Transformer")
class StepByStep(_Plain):
    """The steps above as they are."""


@rewrite("Transformer")
class WithAGeneratorOfItsOwn(nn.Module):
    def __init__(self, config, parts=None, *, seed=0):
        super().__init__()
        if parts is None:
            parts = Parts.for_config(config)
        self.config = config
        state = torch.get_rng_state()
        self.embeddings = parts.embeddings(config, parts)
        self.blocks = nn.ModuleList()
        while len(self.blocks) < config.n_layers:
            self.blocks.append(parts.block(config, parts))
        self.final_norm = parts.build_norm(config)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        torch.set_rng_state(state)
        generator = torch.Generator().manual_seed(seed)
        writers = ("o_proj.weight", "down_proj.weight")
        for name, parameter in self.named_parameters():
            if "norm" in name:
                continue
            if name.endswith(".bias"):
                parameter.data.zero_()
                continue
            std = 0.02 / (2 * config.n_layers) ** 0.5 if name.endswith(writers) else 0.02
            parameter.data.normal_(0.0, std, generator=generator)
        if config.tie_weights:
            self.lm_head.weight = self.get_parameter("embeddings.token.weight")

    def forward(self, ids, cache=None, *, last_only=False):
        _, length = ids.shape
        assert length <= self.config.context_length, "more tokens than the context"
        x = functools.reduce(lambda stream, block: block(stream), self.blocks, self.embeddings(ids))
        logits = self.lm_head(self.final_norm(x))
        if last_only:
            logits = logits[:, length - 1 :, :]
        return logits.to(torch.promote_types(logits.dtype, torch.float32))


@rewrite("Transformer")
class ModuleByModule(nn.Module):
    def __init__(self, config, parts=None, *, seed=0):
        super().__init__()
        self.config = config
        parts = parts or Parts.for_config(config)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            modules = {
                "embeddings": parts.embeddings(config, parts),
                "blocks": nn.ModuleList(parts.block(config, parts) for _ in range(config.n_layers)),
                "final_norm": parts.build_norm(config),
                "lm_head": nn.Linear(config.d_model, config.vocab_size, bias=False),
            }
            for name, module in modules.items():
                self.add_module(name, module)
            head, table = self.lm_head, self.get_parameter("embeddings.token.weight")
            if config.tie_weights:
                head.register_parameter("weight", table)
            with torch.no_grad():
                for parameter in filter(lambda p: p.ndim > 1, self.parameters()):
                    parameter.copy_(0.02 * torch.randn(parameter.shape))
                for name, parameter in self.blocks.named_parameters():
                    if name.endswith("proj.bias"):
                        parameter.fill_(0)

    def forward(self, ids, cache=None, *, last_only=False):
        if len(ids.shape) != 2 or ids.size(1) > self.config.context_length:
            raise IndexError(f"ids of shape {tuple(ids.shape)}")
        x = self.embeddings(ids)
        for i in range(self.config.n_layers):
            x = self.blocks[i](x)
        if last_only:
            x = x.narrow(1, x.shape[1] - 1, 1)
        logits = nn.functional.linear(self.final_norm(x), self.lm_head.weight)
        return logits if logits.dtype == torch.float64 else logits.to(torch.float32)
