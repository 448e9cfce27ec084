"""Virtual tokens before the text: prefix tuning, P-Tuning v2, prompt tuning.

PEFT makes the weights and its wrapper adds them in the wrapper's forward. But decoder and head are
called apart here, with caches of many kinds, and a decoder that knows nothing of virtual tokens
would leave them out without a word. So the decoder itself gets them, by a hook on its forward: each
method comes down to keys and values that stand in its cache before the first real token.

    prefix, p_tuning   the weights are these keys and values, of every layer (prefix: out of an MLP)
    prompt             the weights are embeddings; the decoder makes keys and values of them

Real tokens stand at the positions after them, and see all of them, as with PEFT's own forward.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from stages.contracts import UserError
from stages.lm.peft.config import PeftConfig as Settings
from stages.lm.peft.config import PeftKind
from stages.lm.peft.folders import ADAPTER, is_merged

if TYPE_CHECKING:
    import peft

WEIGHTS_FILE, WEIGHTS = "adapter_model.safetensors", "prompt_embeddings"  # as PEFT has them


class VirtualTokens(nn.Module):
    """What is learnt, out of PEFT's encoder of the method."""

    def __init__(self, encoder: nn.Module, config: "peft.PromptLearningConfig") -> None:
        super().__init__()
        self.encoder, self.config = encoder, config

    @property
    def number(self) -> int:
        """Virtual tokens before each text."""
        return int(self.config.num_virtual_tokens)

    def embeddings(self) -> Tensor:
        """(n, ...): one row a virtual token; what is saved."""
        device = next(self.parameters()).device
        rows: Tensor = self.encoder(torch.arange(self.number, device=device)[None])[0]
        return rows

    def fill(self, cache: Any, decoder: Any, batch_size: int) -> None:
        """Put keys and values of the virtual tokens into an empty cache, a copy for each row."""
        from peft import PrefixTuningConfig

        if not isinstance(self.config, PrefixTuningConfig):
            decoder(
                inputs_embeds=self.embeddings()[None].expand(batch_size, -1, -1),
                past_key_values=cache,
                use_cache=True,
            )
            return
        # (layers, 2, heads, n, head size)
        heads, layers = self.config.num_attention_heads, self.config.num_layers
        pairs = self.embeddings().view(self.number, layers, 2, heads, -1).permute(1, 2, 3, 0, 4)
        for layer, (keys, values) in enumerate(pairs):
            of_all = (part[None].expand(batch_size, -1, -1, -1) for part in (keys, values))
            cache.update(*of_all, layer)


def before_forward(decoder: Any, args: Any, given: dict[str, Any]) -> Any:
    """The hook: a decoder's arguments with the virtual tokens in its cache."""
    if given.get("inputs_embeds") is not None:  # the virtual tokens themselves
        return args, given
    from transformers import DynamicCache

    _check_kept(decoder)
    tokens: VirtualTokens = decoder.virtual_tokens
    cache = given.get("past_key_values")
    if cache is None:
        cache = DynamicCache(config=decoder.config)
    input_ids = args[0] if args else given["input_ids"]
    if cache.get_seq_length() == 0:
        tokens.fill(cache, decoder, len(input_ids))
    given = {**given, "past_key_values": cache}
    if given.get("position_ids") is not None:
        given["position_ids"] = given["position_ids"] + tokens.number
    mask = given.get("attention_mask")
    if mask is not None:
        given["attention_mask"] = torch.cat([mask.new_ones(len(mask), tokens.number), mask], dim=1)
    return args, given


def _check_kept(decoder: Any) -> None:
    """Transformers' layers forget a cache under activation checkpointing in training mode."""
    if decoder.training and decoder.is_activation_checkpointing:
        raise UserError(
            "virtual tokens and activation checkpointing exclude each other",
            got="a decoder that checkpoints: its layers would forget the virtual tokens",
            do="turn activation checkpointing off, or take peft=lora",
        )


def new_virtual_tokens(network: Any, config: Settings) -> None:
    """Give a network's decoder new virtual tokens; all else is frozen.

    Prompt tuning starts at embeddings of random words, better than at noise (Lester et al. 2021).
    """
    from peft import PeftModel, PrefixTuningConfig, PromptTuningConfig, PromptTuningInit

    own: peft.PromptLearningConfig
    if config.kind is PeftKind.prompt:
        own = PromptTuningConfig(
            num_virtual_tokens=config.num_virtual_tokens,
            prompt_tuning_init=PromptTuningInit.SAMPLE_VOCAB,
        )
    else:
        own = PrefixTuningConfig(
            num_virtual_tokens=config.num_virtual_tokens,
            prefix_projection=config.kind is PeftKind.prefix,
            encoder_hidden_size=config.encoder_hidden_size,
        )
    _attach(network, PeftModel(network, own))


def open_virtual_tokens(network: Any, adapter: Path, *, trainable: bool) -> None:
    """Give a network's decoder the virtual tokens of a folder; all else is frozen."""
    from peft import PeftConfig, PeftModel
    from safetensors.torch import load_file

    config = PeftConfig.from_pretrained(adapter)
    config.task_type = None  # of no concern to the decoder
    wrapped = PeftModel(network, config)
    saved = load_file(adapter / WEIGHTS_FILE)[WEIGHTS]
    with torch.no_grad():
        wrapped.prompt_encoder["default"].embedding.weight.copy_(saved)
    _attach(network, wrapped)
    network.base_model.virtual_tokens.requires_grad_(trainable)


def _attach(network: Any, wrapped: "peft.PeftModel") -> None:
    encoder = wrapped.prompt_encoder["default"]
    _put(network.base_model, VirtualTokens(encoder, wrapped.peft_config["default"]))


def _put(decoder: Any, tokens: VirtualTokens) -> None:
    decoder.virtual_tokens = tokens
    decoder.register_forward_pre_hook(before_forward, with_kwargs=True)


@contextmanager
def without_virtual_tokens(network: Any) -> Iterator[None]:
    """Within this context the network is its base."""
    decoder = network.base_model
    tokens: VirtualTokens = decoder.virtual_tokens
    del decoder.virtual_tokens
    hooks = decoder._forward_pre_hooks
    for number in [number for number, hook in hooks.items() if hook is before_forward]:
        hooks.pop(number)
        decoder._forward_pre_hooks_with_kwargs.pop(number)
    try:
        yield
    finally:
        _put(decoder, tokens)


def add_unmerged(network: Any, folder: Path) -> None:
    """Give a network the virtual tokens, if any, that belong to the model in `folder`."""
    if not is_merged(folder / ADAPTER):
        open_virtual_tokens(network, folder / ADAPTER, trainable=False)


def save_virtual_tokens(tokens: VirtualTokens, target: Path) -> None:
    """PEFT's folder. An MLP has done its work: what it makes is saved, and it is not (Li and Liang
    2021), so that whoever trains on, trains the virtual tokens directly."""
    from peft import PrefixTuningConfig
    from safetensors.torch import save_file

    config = copy(tokens.config)
    config.inference_mode = True
    config.task_type = "CAUSAL_LM"
    if isinstance(config, PrefixTuningConfig):
        config.prefix_projection = False
    target.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(str(target))
    save_file({WEIGHTS: tokens.embeddings().detach().cpu().contiguous()}, target / WEIGHTS_FILE)
