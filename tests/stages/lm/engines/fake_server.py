"""A server that follows the engine protocol, or breaks it in one way: `fake_server.py FAULT FD`.

Its model adds up: the first token of a response is the sum of prompt, key and weights, modulo 100.
With FAULT `hf` it is a real one instead: the trainer's own engine, on a model of this process.
"""

import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from stages.lm.engines.server.wire import Channel, Message, frames, pack, serve, unpack


class AddingServer:
    """Answers at once with two tokens a prompt; FAULT happens at its first `generate`."""

    def __init__(self, channel: Channel, fault: str) -> None:
        self.channel, self.fault = channel, fault
        self.version, self.total = 0, 0.0

    def start(self, request: Message) -> Message:
        print("fake server:", request.header["greeting"], flush=True)
        self.marker = Path(request.header["marker"])
        if self.fault == "die_in_start":
            raise SystemExit(7)
        return Message({})

    def load(self, request: Message) -> Message:
        sent = list(frames(self.channel, request.header["count"]))
        self.total = sum(float(f.arrays["data"].view(f.header["dtype"]).sum()) for f in sent)
        self.version = request.header["version"]
        return Message({"version": self.version})

    def generate(self, request: Message) -> Message:
        if not self.marker.exists() or self.fault.endswith("always"):
            self.marker.touch()
            self.misbehave()
        rows = unpack(request.arrays["prompts"], request.arrays["prompt_lengths"])
        keys = request.arrays["keys"].tolist()
        first = [
            (sum(row) + key + int(self.total)) % 100 for row, key in zip(rows, keys, strict=True)
        ]
        tokens, lengths = pack([[token, 1] for token in first])
        version = self.version - (self.fault == "stale")
        return Message(
            {"version": version},
            {
                "tokens": tokens,
                "logprobs": np.full(len(tokens), -0.5, dtype=np.float32),
                "response_lengths": lengths,
                "finished": np.ones(len(rows), dtype=bool),
            },
        )

    def misbehave(self) -> None:
        fault = self.fault.removesuffix("_always")
        if fault == "die":
            print("last words", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "late":
            time.sleep(60)
        if fault == "garbage":
            self.channel.connection.sendall(b"Traceback (most recent call last):\n" * 10)
        if fault == "wrong_id":
            self.channel.send(Message({"id": -1}))
        if fault == "too_few":
            self.channel.send(Message({"id": 2, "version": 0}))
        if fault == "error":
            raise ValueError("prompt 3 is too long")


class HFServer:
    """The trainer's own engine behind the protocol."""

    def __init__(self, channel: Channel) -> None:
        import torch

        torch.set_num_threads(1)
        self.channel = channel

    def start(self, request: Message) -> Message:
        from stages.lm.engines.hf import HFEngine
        from stages.lm.loading import load_causal_lm, load_tokenizer

        folder = Path(request.header["model"])
        tokenizer = load_tokenizer(folder)
        self.engine = HFEngine(
            load_causal_lm(folder),
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        return Message({})

    def load(self, request: Message) -> Message:
        self.engine.load_weights(request.header["version"], self.tensors(request.header["count"]))
        return Message({"version": self.engine.version})

    def tensors(self, count: int) -> Any:
        import torch

        for frame in frames(self.channel, count):
            dtype = getattr(torch, frame.header["dtype"])
            data = torch.frombuffer(bytearray(frame.arrays["data"].tobytes()), dtype=dtype)
            yield frame.header["name"], data.reshape(frame.header["shape"])

    def generate(self, request: Message) -> Message:
        from stages.lm.rollout import Sampling

        rollouts = self.engine.generate(
            unpack(request.arrays["prompts"], request.arrays["prompt_lengths"]),
            Sampling(**request.header["sampling"]),
            request.arrays["keys"],
        )
        tokens, lengths = pack(rollouts.tokens)
        return Message(
            {"version": rollouts.version},
            {
                "tokens": tokens,
                "logprobs": pack(rollouts.logprobs, "float32")[0],
                "response_lengths": lengths,
                "finished": np.array(rollouts.finished),
            },
        )


def main(fault: str, descriptor: str) -> None:
    channel = Channel(socket.socket(fileno=int(descriptor)))
    server: Any = HFServer(channel) if fault == "hf" else AddingServer(channel, fault)
    serve(channel, {name: getattr(server, name) for name in ("start", "load", "generate")})


if __name__ == "__main__":
    main(*sys.argv[1:])
