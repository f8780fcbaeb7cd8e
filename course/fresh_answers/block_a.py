"""Answers to module 03's exercises that are functions, written afresh."""

import math

import torch
import torch.nn.functional as F
from my_transformer import transformer_block

from tiny_transformer.course.wrong_answers import mutant, rewrite

# -------------------------------------------------------------------------------- add_residual


@mutant("add_residual", "adds into the stream that it was given")
def adds_in_place(x, part):
    x += part(x)
    return x


@mutant("add_residual", "adds into what the part returned, which may be the stream itself")
def adds_into_the_answer(x, part):
    y = part(x)
    y += x
    return y


@mutant("add_residual", "calls the part twice, once to look at the shape")
def calls_the_part_twice(x, part):
    if part(x).shape != x.shape:
        raise ValueError("the part changes the shape")
    return x + part(x)


@mutant("add_residual", "gives the part a copy that is cut off from the gradient")
def detached_copy(x, part):
    return x + part(x.detach().clone())


@mutant("add_residual", "halves the sum, to keep the stream from growing")
def mean_of_the_two(x, part):
    return (x + part(x)) / 2


@rewrite("add_residual")
def sum_of_a_pair(x, part):
    return torch.stack((x, part(x))).sum(dim=0)


@rewrite("add_residual")
def added_from_behind(x, part):
    return torch.add(part(x), x)


# ------------------------------------------------------------------------- normalised_residual


@mutant("normalised_residual", "for post, normalises what the part adds, and not the sum")
def post_norms_the_part(x, part, norm, placement="pre"):
    if placement == "pre":
        return x + part(norm(x))
    if placement == "post":
        return x + norm(part(x))
    raise ValueError(placement)


@mutant("normalised_residual", "for pre, adds to the normalised stream, and the path is not bare")
def normalised_stream_goes_on(x, part, norm, placement="pre"):
    if placement not in ("pre", "post"):
        raise ValueError(f"{placement} is neither pre nor post")
    if placement == "pre":
        x = norm(x)
        return x + part(x)
    return norm(x + part(x))


@mutant("normalised_residual", "computes both and throws one away, so calls the part twice")
def computes_both(x, part, norm, placement="pre"):
    results = {"pre": x + part(norm(x)), "post": norm(x + part(x))}
    if placement not in results:
        raise ValueError(placement)
    return results[placement]


@mutant("normalised_residual", "takes everything that is not post for pre")
def anything_else_is_pre(x, part, norm, placement="pre"):
    if placement == "post":
        return norm(x + part(x))
    return x + part(norm(x))


@mutant("normalised_residual", "for post, adds into the stream that it was given")
def post_adds_in_place(x, part, norm, placement="pre"):
    if placement == "pre":
        return x + part(norm(x))
    if placement == "post":
        x += part(x)
        return norm(x)
    raise ValueError(placement)


@mutant("normalised_residual", "raises a KeyError, which is no ValueError, for other placements")
def key_error(x, part, norm, placement="pre"):
    ways = {"pre": lambda: x + part(norm(x)), "post": lambda: norm(x + part(x))}
    return ways[placement]()


@rewrite("normalised_residual")
def by_matching(x, part, norm, placement="pre"):
    match placement:
        case "pre":
            return part(norm(x)).add(x)
        case "post":
            return norm(transformer_block.add_residual(x, part))
        case _:
            raise ValueError(f"placement is {placement!r}")


@rewrite("normalised_residual")
def norm_or_nothing_on_both_sides(x, part, norm, placement="pre"):
    def nothing(stream):
        return stream

    if placement not in {"pre", "post"}:
        raise ValueError("pre or post, please")
    before, after = (norm, nothing) if placement == "pre" else (nothing, norm)
    change = part(before(x))
    return after(x + change)


# ------------------------------------------------------------------------- explicit_layer_norm


@mutant("explicit_layer_norm", "adds eps to the deviation, outside the root")
def eps_outside_the_root(x, weight, bias, eps):
    centred = x - x.mean(dim=-1, keepdim=True)
    deviation = centred.square().mean(dim=-1, keepdim=True).sqrt()
    normalised = centred / (deviation + eps) * weight
    return normalised if bias is None else normalised + bias


@mutant("explicit_layer_norm", "takes the mean of the squares less the square of the mean")
def squares_before_centring(x, weight, bias, eps):
    mean = x.mean(dim=-1, keepdim=True)
    variance = ((x * x).mean(dim=-1, keepdim=True) - mean * mean).clamp(min=0)
    normalised = (x - mean) / torch.sqrt(variance + eps) * weight
    return normalised if bias is None else normalised + bias


@mutant("explicit_layer_norm", "leaves the scale out too where there is no shift")
def neither_scale_nor_shift(x, weight, bias, eps):
    mean = x.mean(dim=-1, keepdim=True)
    variance = (x - mean).pow(2).mean(dim=-1, keepdim=True)
    normalised = (x - mean) / torch.sqrt(variance + eps)
    if bias is None:
        return normalised
    return normalised * weight + bias


@mutant("explicit_layer_norm", "takes the mean distance, which is the deviation of two numbers")
def mean_distance(x, weight, bias, eps):
    centred = x - x.mean(dim=-1, keepdim=True)
    distance = centred.abs().mean(dim=-1, keepdim=True)
    normalised = centred / torch.sqrt(distance**2 + eps) * weight
    return normalised if bias is None else normalised + bias


@mutant("explicit_layer_norm", "drops the axis of the mean: right for one token only")
def means_without_keepdim(x, weight, bias, eps):
    centred = x - x.mean(dim=-1)
    normalised = centred / (centred.square().mean(dim=-1) + eps).sqrt()
    return normalised * weight + (0 if bias is None else bias)


@mutant("explicit_layer_norm", "takes the mean away from the tensor that it was given")
def centres_in_place(x, weight, bias, eps):
    x -= x.mean(dim=-1, keepdim=True)
    normalised = x / torch.sqrt(x.square().mean(dim=-1, keepdim=True) + eps)
    return normalised * weight if bias is None else normalised * weight + bias


@rewrite("explicit_layer_norm")
def vector_by_vector(x, weight, bias, eps):
    rows = []
    for row in x.reshape(-1, x.shape[-1]).unbind(0):
        centred = row - row.sum() / row.numel()
        variance = torch.dot(centred, centred) / row.numel()
        row = centred / (variance + eps) ** 0.5 * weight
        rows.append(row if bias is None else row + bias)
    return torch.stack(rows).reshape(x.shape)


@rewrite("explicit_layer_norm")
def with_both_moments_at_once(x, weight, bias, eps):
    variance, mean = torch.var_mean(x, dim=-1, keepdim=True, correction=0)
    factor = weight / torch.sqrt(variance + eps)
    shift = torch.zeros_like(weight) if bias is None else bias
    return (x - mean) * factor + shift


# ------------------------------------------------------------------------------- explicit_gelu


@mutant("explicit_gelu", "takes a logistic curve for the normal distribution")
def sigmoid_form(x):
    return x * torch.sigmoid(1.702 * x)


@mutant("explicit_gelu", "takes the approximation by the hyperbolic tangent")
def tanh_form(x):
    return F.gelu(x, approximate="tanh")


@mutant("explicit_gelu", "leaves out the root of two")
def without_the_root_of_two(x):
    return x * (1 + torch.erf(x)) / 2


@mutant("explicit_gelu", "returns 0 for every number below -3, where there is still something")
def nothing_below_minus_three(x):
    y = x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))
    return torch.where(x < -3, torch.zeros_like(y), y)


@mutant("explicit_gelu", "takes 1.414 for the root of two")
def root_of_four_digits(x):
    return x * (1 + torch.erf(x / 1.414)) / 2


@mutant("explicit_gelu", "divides the tensor that it was given")
def divides_in_place(x):
    half = x / 2
    x /= math.sqrt(2)
    return half * (1 + torch.erf(x))


@rewrite("explicit_gelu")
def by_the_normal_distribution(x):
    return torch.special.ndtr(x) * x


@rewrite("explicit_gelu")
def by_what_lies_above(x):
    above = torch.erfc(x * math.sqrt(0.5)) / 2  # the share of the distribution above x
    return x - x * above


# -------------------------------------------------------------------------- explicit_gelu_tanh


@mutant("explicit_gelu_tanh", "multiplies x by the root, and the cube not")
def root_for_x_only(x):
    return x / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * x + 0.044715 * x**3))


@mutant("explicit_gelu_tanh", "takes 2 / pi without the root")
def without_the_root(x):
    return x / 2 * (1 + torch.tanh(2 / math.pi * (x + 0.044715 * x**3)))


@mutant("explicit_gelu_tanh", "writes the tangent with exponentials, which overflow from 11 on")
def tangent_by_exponentials(x):
    powers = torch.exp(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))
    return x / 2 * (1 + (powers - 1) / (powers + 1))


@mutant("explicit_gelu_tanh", "adds the cube to the tensor that it was given")
def adds_the_cube_in_place(x):
    half = x / 2
    x += 0.044715 * x**3
    return half * (1 + torch.tanh(math.sqrt(2 / math.pi) * x))


@mutant("explicit_gelu_tanh", "returns the exact form")
def exact_form(x):
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


@mutant("explicit_gelu_tanh", "takes the size of the cube, so negative numbers go wrong")
def cube_without_sign(x):
    return x / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x.abs() ** 3)))


@rewrite("explicit_gelu_tanh")
def by_a_sigmoid(x):
    # (1 + tanh(z)) / 2 = sigmoid(2 z)
    return x * torch.sigmoid(math.sqrt(8 / math.pi) * x * (1 + 0.044715 * x * x))


@rewrite("explicit_gelu_tanh")
def step_by_step(x):
    inner = x.pow(3).mul(0.044715).add(x).mul((2 / math.pi) ** 0.5)
    half = x.mul(0.5)
    return half + half * inner.tanh()


# -------------------------------------------------------------------------------- residual_std


@mutant("residual_std", "counts one branch for each block")
def one_branch_each(n_layers, std=0.02):
    return std / math.sqrt(n_layers)


@mutant("residual_std", "divides by the number of branches instead of its root")
def divides_by_the_branches(n_layers, std=0.02):
    return std / (2 * n_layers)


@mutant("residual_std", "takes 0.02, whatever it was given")
def always_two_hundredths(n_layers, std=0.02):
    return 0.02 / math.sqrt(2 * n_layers)


@mutant("residual_std", "rounds the root down to a whole number, which 8 blocks do not show")
def whole_root(n_layers, std=0.02):
    return std / math.isqrt(2 * n_layers)


@mutant("residual_std", "returns a tensor")
def a_tensor(n_layers, std=0.02):
    return std / torch.tensor(2.0 * n_layers).sqrt()


@rewrite("residual_std")
def root_of_a_share_of_the_variance(n_layers, std=0.02):
    return math.sqrt(std**2 / (2 * n_layers))


@rewrite("residual_std")
def by_pythagoras(n_layers, std=0.02):
    return std / math.hypot(*[1.0] * (2 * n_layers))


# ------------------------------------------------------------------------------ gradient_norms


def _run(blocks, x):
    stream = [x]
    for block in blocks:
        stream.append(block(stream[-1]))
    return stream


@mutant("gradient_norms", "calls backward, which leaves gradients in the parameters")
def backward_into_parameters(blocks, x, grad_output):
    stream = _run(blocks, x.detach().clone().requires_grad_())
    for place in stream:
        place.retain_grad()
    stream[-1].backward(grad_output)
    return [place.grad.norm().item() for place in stream]


@mutant("gradient_norms", "leaves `requires_grad` of x set")
def x_wants_gradients_afterwards(blocks, x, grad_output):
    x.requires_grad_(True)
    stream = _run(blocks, x)
    gradients = torch.autograd.grad(stream[-1], stream, grad_output)
    return [gradient.norm().item() for gradient in gradients]


@mutant("gradient_norms", "takes the mean of the tokens' norms: right for a single vector")
def mean_of_the_tokens(blocks, x, grad_output):
    stream = _run(blocks, x.detach().requires_grad_())
    gradients = torch.autograd.grad(stream[-1], stream, grad_output)
    return [gradient.norm(dim=-1).mean().item() for gradient in gradients]


@mutant("gradient_norms", "runs the rest of the blocks again for each place")
def runs_the_rest_again(blocks, x, grad_output):
    norms = []
    for place in range(len(blocks) + 1):
        start = x.detach().requires_grad_()
        output = _run(blocks[place:], start)[-1]
        norms.append(torch.autograd.grad(output, start, grad_output)[0].norm().item())
        if place < len(blocks):
            x = blocks[place](x).detach()
    return norms


@mutant("gradient_norms", "returns tensors")
def norms_as_tensors(blocks, x, grad_output):
    stream = _run(blocks, x.detach().requires_grad_())
    return [each.norm() for each in torch.autograd.grad(stream[-1], stream, grad_output)]


@mutant("gradient_norms", "takes the sum of the output for the loss, whatever gradient arrives")
def gradient_of_the_sum(blocks, x, grad_output):
    stream = _run(blocks, x.detach().requires_grad_())
    gradients = torch.autograd.grad(stream[-1].sum(), stream[:-1])
    return [each.norm().item() for each in gradients] + [grad_output.norm().item()]


@rewrite("gradient_norms")
def one_block_at_a_time(blocks, x, grad_output):
    ends = []
    stream = x
    with torch.enable_grad():
        for block in blocks:
            start = stream.detach().requires_grad_()
            stream = block(start)
            ends.append((start, stream))
    gradient = grad_output
    norms = [gradient.norm().item()]
    for start, end in reversed(ends):
        (gradient,) = torch.autograd.grad(end, start, gradient)
        norms.insert(0, gradient.norm().item())
    return norms


@rewrite("gradient_norms")
def with_hooks(blocks, x, grad_output):
    norms = [0.0] * len(blocks) + [math.sqrt(grad_output.square().sum().item())]

    def write_down(place):
        def hook(gradient):
            norms[place] = math.sqrt(gradient.square().sum().item())

        return hook

    with torch.enable_grad():
        leaf = x.detach().clone().requires_grad_()
        stream = leaf.clone()
        for place, block in enumerate(blocks):
            stream.register_hook(write_down(place))
            stream = block(stream)
    torch.autograd.grad(stream, leaf, grad_output)
    return norms
