"""Residual dropout for any decoder: on what each block adds to the residual stream.

Current decoders ship without it; the paper's SFT uses 0.2 (App. C.1). Hooks on the modules that
write to the residual stream leave the model's code and its saved config as they are. Which modules
those are is not looked up by name: a block is asked, in `residual_writers`. Models are loaded
without dropout of their own (`stages.lm.loading`), so this rate is the one in force.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout

from stages.contracts import UserError

PROBE_TOKENS = 3


@contextmanager
def residual_dropout(model: nn.Module, probability: float) -> Iterator[None]:
    """Within this context, residual branches drop features while `model` is in train mode.

    Raises UserError when no branch is found, rather than training without dropout in silence.
    """
    writers = residual_writers(model) if probability > 0 else []
    with hooked(writers, Dropping(probability)):
        yield


def residual_writers(model: nn.Module) -> list[nn.Module]:
    """The modules whose output is added to the residual stream, as a rule two a block.

    A module writes to the stream if its block gives out x more when the module's output is x more.
    Later ones are found first and then silenced, so that what a module does to those after it does
    not count. Silence them all, and a block must give out what came in: then none is missing, and
    none carries the stream itself (Bloom's attention adds it within).

    Raises:
        UserError: no decoder blocks; or a block that is not made in this way.
    """
    found: list[nn.Module] = []
    for block, call in _captured(model):
        writers = block_writers(block, call)
        if not writers:
            raise _no_branch(f"{type(block).__name__}, which does more than add to what came in")
        found += writers
    return found


def block_writers(block: nn.Module, call: "Call") -> list[nn.Module]:
    """Those of one block, in the order in which they write; none if they are not all of it."""
    found: list[nn.Module] = []
    for module in reversed(_in_order(block, call)):
        with hooked(found, _silence):
            if not _inside(module, found) and _writes(module, block, call):
                found.append(module)
    with hooked(found, _silence):
        unchanged = torch.allclose(call(block), call.stream, atol=1e-6)
    return found[::-1] if found and unchanged else []


class Call:
    """What a block was called with, to call it again; copies, as a block may write to a cache."""

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.args, self.kwargs = deepcopy((args, kwargs))
        named = "hidden_states" in kwargs
        self.stream: Tensor = self.kwargs["hidden_states"] if named else self.args[0]

    @torch.no_grad()
    def __call__(self, block: nn.Module) -> Tensor:
        """(1, T, H): what the block gives out."""
        args, kwargs = deepcopy((self.args, self.kwargs))
        output: Tensor = _first(block(*args, **kwargs))
        return output


def _captured(model: nn.Module) -> list[tuple[nn.Module, Call]]:
    """Each block of the decoder, with what it is called with for a few tokens."""
    calls: dict[nn.Module, Call] = {}

    def keep(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.setdefault(block, Call(args, kwargs))

    blocks = _blocks(model)
    handles = [block.register_forward_pre_hook(keep, with_kwargs=True) for block in blocks]
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    with torch.no_grad():
        model(input_ids=torch.arange(1, 1 + PROBE_TOKENS, device=device)[None], use_cache=False)
    model.train(was_training)
    for handle in handles:
        handle.remove()
    return [(block, calls[block]) for block in blocks]


def _blocks(model: nn.Module) -> list[nn.Module]:
    """The decoder's blocks: the list that has as many entries as the config has layers."""
    if config := vars(model).get("config"):
        wanted = config.get_text_config().num_hidden_layers
        for module in model.modules():
            if isinstance(module, nn.ModuleList) and len(module) == wanted:
                return list(module)
    raise _no_branch(f"{type(model).__name__} without a list of blocks")


def _in_order(block: nn.Module, call: Call) -> list[nn.Module]:
    """The modules of a block that give out something of the stream's shape, as they finish; of
    nested ones the inner first."""
    finished: list[nn.Module] = []

    def note(module: nn.Module, _inputs: Any, output: Any) -> None:
        tensor, stream = _first(output), call.stream  # OPT flattens batch and tokens for a while
        if isinstance(tensor, Tensor) and (tensor.numel(), tensor.shape[-1]) == (
            stream.numel(),
            stream.shape[-1],
        ):
            finished.append(module)

    with hooked([module for module in block.modules() if module is not block], note):
        call(block)
    return finished


def _inside(module: nn.Module, found: Iterable[nn.Module]) -> bool:
    return any(module in writer.modules() for writer in found)


def _writes(module: nn.Module, block: nn.Module, call: Call) -> bool:
    """Whether the block's output is c * this module's output + the rest, and the rest not only it.

    c: Granite scales what its branches add.
    """
    more = torch.linspace(-1, 1, call.stream.numel()).view_as(call.stream).to(call.stream)
    with hooked([module], _silence):
        without = call(block)
    with hooked([module], partial(_answer, more)):
        effect = call(block) - without
    scale = (effect * more).sum() / (more * more).sum()
    direct = torch.allclose(effect, scale * more, atol=1e-4) and bool(scale.abs() > 1e-3)
    return direct and bool(without.abs().max() > 0)


@contextmanager
def hooked(modules: Iterable[nn.Module], hook: Any) -> Iterator[None]:
    """Within this context, `hook` sees, or replaces, what these modules give out."""
    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _silence(_module: nn.Module, _inputs: Any, output: Any) -> Any:
    return _with_first(output, torch.zeros_like(_first(output)))


def _answer(value: Tensor, _module: nn.Module, _inputs: Any, output: Any) -> Any:
    return _with_first(output, value.view_as(_first(output)).clone())


class Dropping:
    """A hook that drops features of what a module in train mode gives out."""

    def __init__(self, probability: float) -> None:
        self.probability = probability

    def __call__(self, module: nn.Module, _inputs: Any, output: Any) -> Any:
        """The output, its first part if it has several, with zeros and the rest scaled up."""
        if not module.training:
            return output
        return _with_first(output, dropout(_first(output), self.probability))


def _first(output: Any) -> Any:
    """Attention gives out its weights besides, experts their router's choices."""
    return output[0] if isinstance(output, tuple) and output else output


def _with_first(output: Any, first: Tensor) -> Any:
    return (first, *output[1:]) if isinstance(output, tuple) else first


def _no_branch(got: str) -> UserError:
    return UserError(
        "residual dropout finds no residual branch in this model",
        got=got,
        do="set residual_dropout=0",
    )
