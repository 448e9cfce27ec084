"""vLLM behind the messages of `wire`: `PYTHON vllm_server.py FD`, in vLLM's own environment.

This file and `wire` are all that runs there of ours. The engine core runs in this very process
(VLLM_ENABLE_V1_MULTIPROCESSING=0), so that tensors reach the model without being serialised again.
One device: tensor parallelism is left out.
"""

import logging
import socket
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from wire import Channel, Message, frames, pack, serve, unpack

logger = logging.getLogger("rollout_engine")


class VllmServer:
    """The model and the version of its weights: 0 until `load`."""

    def __init__(self, channel: Channel) -> None:
        self.channel, self.version = channel, 0
        self.llm: Any = None
        self.eos_token_id = -1

    def start(self, request: Message) -> Message:
        """Load the model folder; `engine` holds keyword arguments of vllm.LLM."""
        from vllm import LLM

        started = time.monotonic()
        self.eos_token_id = request.header["eos_token_id"]
        self.llm = LLM(
            # Log-probs of what is sampled from: temperature and truncation applied.
            logprobs_mode="processed_logprobs",
            generation_config="vllm",  # not the folder's own sampling defaults
            skip_tokenizer_init=True,
            **request.header["engine"],
        )
        logger.warning("started in %.1f s", time.monotonic() - started)
        return Message({})

    def load(self, request: Message) -> Message:
        """Replace the weights by those in the frames that follow."""
        stream = self._tensors(request.header["count"])
        try:
            # What vLLM packed for its kernels is made anew: writing to its parameters would not do.
            self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": stream})
        finally:
            for _ in stream:
                pass  # the next call comes after the last frame, whatever happened
        self.llm.apply_model(pack_heads)
        self.llm.reset_prefix_cache()  # keys and values of the old weights
        self.version = request.header["version"]
        return Message({"version": self.version})

    def _tensors(self, count: int) -> Iterator[tuple[str, Any]]:
        import torch

        for frame in frames(self.channel, count):
            data = torch.from_numpy(frame.arrays["data"].copy())
            tensor = data.view(getattr(torch, frame.header["dtype"]))
            yield frame.header["name"], tensor.reshape(frame.header["shape"])

    def generate(self, request: Message) -> Message:
        """One response a prompt, in order."""
        prompts = unpack(request.arrays["prompts"], request.arrays["prompt_lengths"])
        keys = request.arrays["keys"].tolist()
        asked = [self._sampling(request.header["sampling"], key) for key in keys]
        outputs = self.llm.generate(
            [{"prompt_token_ids": prompt} for prompt in prompts], asked, use_tqdm=False
        )
        responses = [output.outputs[0] for output in outputs]
        tokens, lengths = pack([list(response.token_ids) for response in responses])
        logprobs = [_logprobs(response) for response in responses]
        return Message(
            {"version": self.version},
            {
                "tokens": tokens,
                "logprobs": pack(logprobs, "float32")[0],
                "response_lengths": lengths,
                "finished": np.array([r.token_ids[-1] == self.eos_token_id for r in responses]),
            },
        )

    def _sampling(self, sampling: dict[str, Any], key: int) -> Any:
        """vLLM's request: our end of sequence alone, noise from the key alone."""
        from vllm import SamplingParams

        return SamplingParams(
            temperature=0.0 if sampling["greedy"] else sampling["temperature"],
            top_k=sampling["top_k"],
            top_p=sampling["top_p"],
            max_tokens=sampling["max_new_tokens"],
            seed=key >> 1,  # a signed 64-bit number there
            logprobs=0,  # of the sampled token alone
            ignore_eos=True,
            stop_token_ids=[self.eos_token_id],
            detokenize=False,
        )


def pack_heads(model: Any) -> None:
    """A head that shares the embeddings' weights is reloaded with them; what was packed of it for
    the CPU's kernels is not."""
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

    for layer in model.modules():
        if isinstance(layer, ParallelLMHead):
            layer.quant_method.process_weights_after_loading(layer)


def _logprobs(response: Any) -> list[float]:
    """Of each sampled token."""
    pairs = zip(response.token_ids, response.logprobs, strict=True)
    return [place[token].logprob for token, place in pairs]


if __name__ == "__main__":
    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    server = VllmServer(channel)
    serve(channel, {"start": server.start, "load": server.load, "generate": server.generate})
