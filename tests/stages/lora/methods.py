"""Every method of the group `peft` through every stage: what docs/peft.md's table is made of.

A cell runs a stage on the small world and looks at what it published, or is the reason for which it
was refused.
"""

import json
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
)

from reward.model import load_reward_model
from reward.scoring import score_responses
from stages.contracts import Report, UserError
from stages.lm.batching import collate
from stages.lm.loading import load_causal_lm, load_tokenizer, save_model
from stages.lm.peft.adapters import load_adapted, merged_weights, network_of
from stages.lm.peft.config import PeftConfig, PeftKind
from stages.lm.peft.folders import ADAPTER, is_merged
from stages.lm.peft.methods import is_bias
from stages.lm.process import prepare_process
from stages.step1_sft import ppo_init
from stages.step1_sft.config import PpoInitConfig
from stages.step1_sft.sequences import read_demonstrations
from stages.step1_sft.validation import token_figures
from stages.step2_reward.config import RewardModelConfig
from stages.step2_reward.starting import Folders, read_comparisons
from stages.step3_policy import dpo, preference_learning
from stages.step3_policy.config import DpoConfig, Optimizer
from stages.step3_policy.ppo import stage as ppo
from stages.step3_policy.ppo.config import Select
from tests.stages.lora.chain import (
    ShouldStop,
    context_at,
    never,
    ppo_config,
    ppo_inputs,
    run_reward_model,
    run_sft,
    sft_config,
)

SETTINGS: dict[PeftKind, dict[str, Any]] = {
    **{kind: {"rank": 4, "alpha": 8.0} for kind in PeftKind if kind.is_low_rank},
    **{kind: {"num_virtual_tokens": 4} for kind in PeftKind if kind.adds_tokens},
    PeftKind.prefix: {"num_virtual_tokens": 4, "encoder_hidden_size": 8},
}
METHODS = {
    "none": PeftKind.none,
    "bitfit, gpt2": PeftKind.bitfit,
    "bitfit, llama": PeftKind.bitfit,
    **{kind.value: kind for kind in PeftKind if kind.has_adapter},
}
FOLDER = "model/"  # of SFT and the reward model, opened without this project
STAGES = ("sft", "ppo_init", "reward_model", "ppo", "dpo")
TOKENS = torch.arange(5, 25)[None]
Weights = dict[str, torch.Tensor]


def settings(kind: PeftKind) -> PeftConfig:
    return PeftConfig(kind=kind, **SETTINGS.get(kind, {}))


def gpt2_world(world: Path, folder: Path) -> Path:
    """The same with a GPT-2 as its base, every layer with a bias that is not 0."""
    folder.mkdir(parents=True)
    for name in ("demonstrations", "text", "prompts", "comparisons"):
        (folder / name).symlink_to(world / name)
    tokenizer = load_tokenizer(world / "base" / "model")
    torch.manual_seed(3)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=16,
        n_layer=2,
        n_head=2,
        n_positions=64,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=False,
    )
    save_model(GPT2LMHeadModel(config).eval(), tokenizer, folder / "base" / "model")
    return folder


class Chain:
    """The stages of one method, each run when its result is first asked for."""

    def __init__(self, method: str, world: Path, folder: Path) -> None:
        self.kind, self.folder = METHODS[method], folder
        self.world = gpt2_world(world, folder / "world") if "gpt2" in method else world
        self.stage: Callable[[str], Report] = cache(self._run)

    def cell(self, stage: str) -> str:
        """works, or why it was refused. Fails where it should work and does not."""
        try:
            if stage == FOLDER:
                self.stage("reward_model")
                return self._opens_alone()
            report = self.stage(stage)
        except UserError as refusal:
            return f"refused: {refusal.what}"
        {
            "sft": self._check_fine_tuned,
            "ppo_init": self._check_fine_tuned,
            "reward_model": self._check_reward_model,
            "ppo": self._check_ppo,
            "dpo": self._check_dpo,
        }[stage](stage, report)
        return "works"

    def out(self, stage: str) -> Path:
        return self.folder / stage / "out"

    # Running

    def _run(self, stage: str) -> Report:
        needed = {"reward_model": ["sft"], "dpo": ["sft"], "ppo": ["ppo_init", "reward_model"]}
        for other in needed.get(stage, []):
            self.stage(other)
        run: Callable[[], Report] = getattr(self, f"_run_{stage}")
        return run()

    def _run_sft(self) -> Report:
        return self.run_sft(never)

    def run_sft(self, should_stop: ShouldStop) -> Report:
        peft, place = settings(self.kind), self.folder / "sft"
        return run_sft(self.world, place, should_stop, peft=peft, residual_dropout=0.0)

    def _run_ppo_init(self) -> Report:
        config = PpoInitConfig(
            lr=2e-2,
            epochs=1,
            batch_size=4,
            microbatch_size=2,
            residual_dropout=0.0,
            log_every=1,
            peft=settings(self.kind),
        )
        prepare_process(config.threads, config.seed)
        read = {name: self.world / name for name in ("base", "demonstrations", "text")}
        context = context_at(self.folder / "ppo_init")
        return ppo_init.run(config, **read, out=self.out("ppo_init"), context=context)

    def _run_reward_model(self) -> Report:
        place = self.folder / "reward_model"
        return run_reward_model(
            self.world, self.out("sft"), place, **self.reward_settings(), epochs=1.0
        )

    def reward_settings(self) -> dict[str, Any]:
        taken = settings(self.kind).positions_taken
        return {"peft": self.kind, "max_length": 64 - taken}

    def _run_ppo(self) -> Report:
        read = ppo_inputs(self.world, self.out("ppo_init"), self.out("reward_model"))
        if not self.kind.has_adapter:
            del read["base"]
        config = ppo_config(peft=self.kind, select=Select.last, iterations=2)
        prepare_process(config.threads, config.seed)
        return ppo.run(config, **read, out=self.out("ppo"), context=context_at(self.folder / "ppo"))

    def _run_dpo(self) -> Report:
        config = self.dpo_config()
        prepare_process(config.threads, config.seed)
        return dpo.run(
            config,
            sft=self.out("sft"),
            comparisons=self.world / "comparisons",
            out=self.out("dpo"),
            context=context_at(self.folder / "dpo"),
            base=self.world / "base" if self.kind.has_adapter else None,
        )

    def dpo_config(self) -> DpoConfig:
        return DpoConfig(
            lr=1e-2,
            batch_size=4,
            microbatch_size=4,
            warmup_steps=0,
            optimizer=Optimizer.adamw,
            log_every=1,
            max_pairs=1,
            max_length=60,
            peft=self.kind,
        )

    # Looking at what was published

    def _check_fine_tuned(self, stage: str, report: Report) -> None:
        """Its validation loss is the one that was measured on the model in training."""
        self._check_policy(stage, self.world / "base" / "model")
        folder = self.out(stage) / "model"
        tokenizer, config = load_tokenizer(folder), sft_config(peft=settings(self.kind))
        table = self.world / "demonstrations" / "validation.parquet"
        rows, _ = read_demonstrations(config, tokenizer, table)
        figures = token_figures(load_causal_lm(folder), rows, tokenizer.pad_token_id)
        assert abs(figures.loss - report.metrics["validation_loss"]) < 1e-4

    def _check_dpo(self, stage: str, report: Report) -> None:
        """Likewise, with the log-ratios to SFT."""
        start = self.out("sft") / "model"
        self._check_policy(stage, start)
        folder, config = self.out(stage) / "model", self.dpo_config()
        tokenizer = load_tokenizer(folder)
        table = self.world / "comparisons" / "validation.parquet"
        heldout, _ = preference_learning.read_comparisons(config, tokenizer, table, None)
        logprobs = [
            dpo.completion_logprobs(load_causal_lm(model), heldout, tokenizer.pad_token_id)
            for model in (folder, start)
        ]
        figures = dpo.validation_figures(heldout, *logprobs, config)
        assert abs(figures["loss/validation"] - report.metrics["validation_loss"]) < 1e-4
        assert report.metrics["validation_loss"] < math.log(2)

    def _check_ppo(self, stage: str, report: Report) -> None:
        """The critic learnt too: its gradients are numbers above 0."""
        self._check_policy(stage, self.out("ppo_init") / "model")
        norms = [line["grad_norm/critic"] for line in self._journal(stage) if "loss/value" in line]
        assert norms
        assert all(0 < norm < math.inf for norm in norms)
        assert all(math.isfinite(value) for value in report.metrics.values())

    def _check_reward_model(self, stage: str, _report: Report) -> None:
        """Its scores are those that were measured on the model in training."""
        self._check_losses(stage)
        folder, start = self.out(stage) / "model", self.out("sft") / "model"
        model = load_reward_model(folder)
        config = RewardModelConfig(**self.reward_settings())
        data = read_comparisons(
            config, Folders(start=start, comparisons=self.world / "comparisons")
        )
        pairs = [(ranked.prompt, r) for ranked in data.validation for r in ranked.responses]
        scores = score_responses(model.scores, *map(list, zip(*pairs, strict=True)), 0)
        saved = np.load(self.out(stage) / "scores.npz")["completions"]
        assert np.allclose(scores.numpy(), saved, atol=1e-4)
        weights = dict(model.network.named_parameters())
        self._check_changed({n: w for n, w in weights.items() if "score" not in n}, start, True)

    @torch.no_grad()
    def _opens_alone(self) -> str:
        """Whether Transformers alone opens SFT and the reward model as what they are."""
        sft, judge = self.out("sft") / "model", self.out("reward_model") / "model"
        plain = AutoModelForCausalLM.from_pretrained(sft)(TOKENS).logits
        same = torch.allclose(plain, load_causal_lm(sft)(TOKENS).logits, atol=1e-5)
        batch = collate([TOKENS[0].tolist()], [[6, 7]], 0)
        model = AutoModelForSequenceClassification.from_pretrained(judge)
        score = model(batch.input_ids).logits[:, 0]
        scores_same = torch.allclose(score, load_reward_model(judge).raw_scores(batch), atol=1e-5)
        assert same is scores_same
        return "yes" if same else "with the adapter"

    def _check_policy(self, stage: str, start: Path) -> None:
        self._check_losses(stage)
        folder = self.out(stage) / "model"
        self._check_changed(dict(load_causal_lm(folder).named_parameters()), start)
        if self.kind.has_adapter:
            self._check_adapter(folder)
        moved = load_causal_lm(folder)(TOKENS).logits - load_causal_lm(start)(TOKENS).logits
        assert moved.abs().max() > 1e-3

    def _check_losses(self, stage: str) -> None:
        losses = [
            value
            for line in self._journal(stage)
            for name, value in line.items()
            if name.startswith("loss/")
        ]
        assert losses
        assert all(map(math.isfinite, losses))

    def _check_changed(self, weights: Weights, start: Path, of_decoder: bool = False) -> None:
        """Of the weights on disk those were trained that the method trains."""
        model = load_causal_lm(start)
        before = dict((model.base_model if of_decoder else model).named_parameters())
        prefix = f"{model.base_model_prefix}." if of_decoder else ""
        own = {name.removeprefix(prefix): weight for name, weight in weights.items()}
        changed = {
            name
            for name, weight in own.items()
            if name not in before or not torch.equal(weight, before[name])
        }
        assert changed, "nothing was trained"
        assert all(self._may_change(name) for name in changed), sorted(changed)

    def _may_change(self, name: str) -> bool:
        if self.kind.adds_tokens:
            return "virtual_tokens" in name
        if self.kind is PeftKind.ia3:
            return name.split(".")[-2] in ("k_proj", "v_proj", "down_proj")
        if self.kind.merges:
            return "_proj" in name
        return self.kind is PeftKind.none or is_bias(name)

    def _check_adapter(self, folder: Path) -> None:
        """Base and adapter compute what the folder does; with virtual tokens in PEFT's own way."""
        assert is_merged(folder / ADAPTER) is self.kind.merges
        found = load_causal_lm(folder)(TOKENS).logits
        if self.kind.merges:
            network = network_of(load_adapted(self.world / "base" / "model", folder))
            expected = network(TOKENS).logits
            published = dict(load_causal_lm(folder).named_parameters())
            for name, weight in merged_weights(network).items():  # what vLLM is sent
                assert torch.allclose(weight, published[name], atol=1e-5)
        else:
            expected = by_peft_alone(self.world / "base" / "model", folder)
        assert torch.allclose(found, expected, atol=1e-4)

    def _journal(self, stage: str) -> list[dict[str, float]]:
        text = (self.folder / stage / "metrics.jsonl").read_text()
        return [json.loads(line)["values"] for line in text.splitlines()]


@torch.no_grad()
def by_peft_alone(base: Path, folder: Path) -> torch.Tensor:
    """Logits of the base with the folder's adapter, without this project."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), folder / "adapter"
    )
    logits = model.eval()(input_ids=TOKENS, attention_mask=torch.ones_like(TOKENS)).logits
    return logits[:, -TOKENS.shape[1] :]
