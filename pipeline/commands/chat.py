"""`chat RUN`: talk to the trained policy, the SFT policy beside it. Every line is a new prompt.

`chat --url http://...`: talk to a server that speaks OpenAI's language, `serve RUN` for one.
"""

import json
import os
import re
import textwrap
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rich.console import Console
from rich.live import Live
from rich.table import Table

from pipeline.errors import closest
from pipeline.progress import console
from pipeline.runs import find_run, read_config
from pipeline.summary import RunRecord, read_run
from stages.contracts import UserError

if TYPE_CHECKING:
    from stages.lm.rollout import Sampling
    from stages.lm.streaming import Speaker
    from stages.records.schemas import Message

SPEAKERS = ("policy", "sft")
NUM_EXAMPLES = 3
REMOTE_TOKENS = 256
TOKEN_ENV = "SERVE_TOKEN"
PUNCTUATION = re.compile(r"([.,?!:;])")


def main(arguments: Sequence[str]) -> int:
    """Answer one prompt, or one after another until end of input."""
    asked = _parse(arguments)
    talk, examples = _with_a_server(asked) if asked.url else _with_a_run(asked)
    if asked.prompt is not None:
        talk.answer(asked.prompt)
        return 0
    talk.until_end_of_input(examples)
    return 0


def _with_a_run(asked: Namespace) -> "tuple[_Talk, list[str]]":
    """The run's models, opened here, and what one may ask them."""
    folder = find_run(asked.run, asked.runs_dir)
    record = read_run(folder)
    folders = {name: model_folder(record, name) for name in SPEAKERS}
    limit = asked.max_new_tokens or read_config(folder)["evaluation"]["max_response_tokens"]
    sampling = _sampling(asked, limit)
    speakers: dict[str, Listener] = {name: open_speaker(path) for name, path in folders.items()}
    return _Talk(speakers, sampling, asked.seed, console()), example_prompts(record)


def _with_a_server(asked: Namespace) -> "tuple[_Talk, list[str]]":
    from stages.lm.serving.client import RemoteSpeaker

    speaker = RemoteSpeaker(asked.url, os.environ.get(asked.token_env, ""), asked.model)
    sampling = _sampling(asked, asked.max_new_tokens or REMOTE_TOKENS)
    return _Talk({speaker.model: speaker}, sampling, asked.seed, console()), []


def _sampling(asked: Namespace, limit: int) -> "Sampling":
    from stages.lm.rollout import Sampling  # torch: after the run was found right

    return Sampling(
        max_new_tokens=limit,
        temperature=asked.temperature,
        greedy=asked.greedy,
        top_k=asked.top_k,
        top_p=asked.top_p,
    )


def _parse(arguments: Sequence[str]) -> Namespace:
    parser = ArgumentParser(prog="python -m pipeline chat", description=__doc__)
    parser.add_argument(
        "run", metavar="RUN", nargs="?", help="its id, the beginning of its id, or its folder"
    )
    parser.add_argument("--url", help="instead of a run: of a server, http://127.0.0.1:8000")
    parser.add_argument("--model", help="of the server's models; by default its first")
    parser.add_argument(
        "--token-env",
        metavar="NAME",
        default=TOKEN_ENV,
        help="the environment variable with the server's token",
    )
    parser.add_argument("--prompt", metavar="TEXT", help="answer this and end")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--greedy", action="store_true", help="the likeliest token each time")
    parser.add_argument("--top-k", type=int, default=0, help="of the k likeliest tokens; 0: all")
    parser.add_argument(
        "--top-p", type=float, default=1.0, help="of the fewest tokens with this probability"
    )
    parser.add_argument("--max-new-tokens", type=int, help="default: as the run was evaluated")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"))
    asked = parser.parse_args(arguments)
    if (asked.run is None) == (asked.url is None):
        parser.error("give a RUN or --url")
    return asked


def model_folder(record: RunRecord, asset: str) -> Path:
    """Where the run's model lies.

    Raises:
        UserError: the run has not made it.
    """
    stage = record.stages.get(asset)
    folder = Path(stage.folder if stage else "") / "model"
    if stage is None or not folder.is_dir():
        raise UserError(
            f"the run {record.run} has no {asset} model",
            got="its stages: " + ", ".join(f"{a} {s.status}" for a, s in record.stages.items()),
            do="finish it: run its command again",
        )
    return folder


def example_prompts(record: RunRecord) -> list[str]:
    """A few prompts that the models were evaluated on, in the words of their users."""
    from stages.records.schemas import Prompt
    from stages.records.tables import read_table

    prompts = read_table(Path(record.stages["prompts"].folder) / "test.parquet", Prompt)
    return [prompt.prompt[-1]["content"] for prompt in prompts[:NUM_EXAMPLES]]


def open_speaker(model: Path) -> "Speaker":
    """The model, or best-of-n where the asset stands for that."""
    from transformers.utils.logging import disable_progress_bar

    from reward.best_of import BestOfSpeaker
    from stages.lm.streaming import Speaker

    disable_progress_bar()
    chosen_by = model.parent / "best_of_n.json"
    if not chosen_by.exists():
        return Speaker(model)
    n = json.loads(chosen_by.read_text())["n"]
    return BestOfSpeaker(model, reward_model=model.parent / "reward_model", n=n)


class Listener(Protocol):
    """Who answers: a model opened here, or a server."""

    def reply(self, prompt: "list[Message]", sampling: "Sampling", seed: int) -> Iterator[str]:
        """The response so far, again and again until it is whole."""

    def unknown_words(self, text: str) -> list[str]:
        """Words of the text that it cannot read."""

    def known_words(self) -> list[str]:
        """All words that it can read, if it has a list of them."""


@dataclass
class _Talk:
    """Prompts in, two streams of words out."""

    speakers: "dict[str, Listener]"
    sampling: "Sampling"
    seed: int
    screen: Console

    def until_end_of_input(self, examples: Sequence[str]) -> None:
        """Ask for prompts; ctrl-C ends a reply, at the prompt it ends the talk, as ctrl-D does."""
        start = "Each line is a prompt of its own. ctrl-D ends the talk."
        self.screen.print(f"{start} For example:" if examples else start)
        for example in examples:
            self.screen.print(f"  {example}", style="dim", markup=False, highlight=False)
        with suppress(EOFError):
            while True:
                line = self.screen.input("[bold]you>[/bold] ")
                if line.strip():
                    self._answer_or_complain(line)
                    self.seed += 1
        self.screen.print()

    def _answer_or_complain(self, line: str) -> None:
        try:
            self.answer(line)
        except UserError as error:
            self.screen.print(str(error), style="yellow", markup=False)
        except KeyboardInterrupt:
            self.screen.print("(stopped)")

    def answer(self, text: str) -> None:
        """Stream both replies side by side; one below the other where there is no terminal.

        Raises:
            UserError: words that the models cannot read, with those they can.
        """
        first = next(iter(self.speakers.values()))
        prompt = [{"role": "user", "content": readable(text, first)}]
        streams = [s.reply(prompt, self.sampling, self.seed) for s in self.speakers.values()]
        if self.screen.is_terminal:
            with Live(console=self.screen, refresh_per_second=20) as live:
                for replies in side_by_side(streams):
                    live.update(_columns(list(self.speakers), replies))
            return
        for name, stream in zip(self.speakers, streams, strict=True):
            *_, reply = ["", *stream]
            self.screen.print(f"{name}: {reply}", markup=False)


def side_by_side(streams: Sequence[Iterator[str]]) -> Iterator[list[str]]:
    """The texts of all streams so far, one token further each time."""
    latest = [""] * len(streams)
    for texts in zip_longest(*streams):
        latest = [old if new is None else new for old, new in zip(latest, texts, strict=True)]
        yield latest


def _columns(names: Sequence[str], replies: Sequence[str]) -> Table:
    table = Table(expand=True)
    for name in names:
        table.add_column(name, ratio=1)
    table.add_row(*(reply.replace("[", r"\[") for reply in replies))
    return table


def readable(text: str, speaker: "Listener") -> str:
    """The text as the models read it: in small letters and with spaced marks where that is needed.

    Raises:
        UserError: words the tokenizer does not know, and the ones it does.
    """
    if not speaker.unknown_words(text):
        return text
    spaced = " ".join(PUNCTUATION.sub(r" \1 ", text.lower()).split())
    unknown = speaker.unknown_words(spaced)
    if not unknown:
        return spaced
    known = speaker.known_words()
    hints = [
        f"{word} (did you mean {close}?)" if (close := closest(word, known)) else word
        for word in unknown
    ]
    words = textwrap.fill(" ".join(known), width=100, initial_indent="  ", subsequent_indent="  ")
    raise UserError(
        f"the model does not know: {', '.join(unknown)}",
        got=", ".join(hints),
        do=f"use the words of its world:\n{words}",
    )
