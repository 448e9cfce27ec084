"""`serve-reward`: what is served, to whom; and a real server from its start to its end."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from pipeline.commands.serve_reward import find_model, main
from pipeline.executors.protocol import Status
from pipeline.listening import check_port, find_token
from pipeline.summary import RunRecord, StageRecord, write_run
from reward.config import ModelTerm, RewardConfig
from reward.endpoint_config import RemoteConfig
from reward.model import load_reward_model, load_reward_tokenizer
from reward.remote import RemoteReward
from reward.scoring import score_responses
from reward.text_rewards import RewardError
from stages.contracts import Context, UserError
from stages.lm.loading import load_tokenizer
from stages.lm.tokens import decode_response, encode_prompt, encode_response
from stages.records.schemas import Message
from stages.step3_policy.ppo.data import load_data
from stages.step3_policy.ppo.loading import load_roles
from stages.step3_policy.ppo.loop import PpoLoop, make_experience
from tests.stages.step3_policy.ppo.small_ppo import folders_of, small_config, write_inputs

PROMPTS = [
    [{"role": "user", "content": "write about the cat"}],
    [{"role": "system", "content": "the dog"}, {"role": "user", "content": "count one"}],
    [{"role": "user", "content": "list ball , box"}],
    [{"role": "user", "content": "write"}],
]
RESPONSES = ["the cat is red .", "one two three", "", "ball box box box"]
FINISHED = [True, False, True, False]


@pytest.fixture
def no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REWARD_TOKEN", raising=False)


def test_a_token_is_made_once_and_only_its_owner_reads_it(no_token: None, tmp_path: Path) -> None:
    path = tmp_path / "new" / "token"
    token, export = find_token("REWARD_TOKEN", path)
    assert len(token) >= 40
    assert path.stat().st_mode & 0o777 == 0o600
    assert export == f"export REWARD_TOKEN=$(cat {path})"
    assert token not in export
    assert find_token("REWARD_TOKEN", path) == (token, export)


def test_a_token_that_others_may_read_is_refused(no_token: None, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("x")
    path.chmod(0o640)
    with pytest.raises(UserError, match="may be read by others"):
        find_token("REWARD_TOKEN", path)
    path.chmod(0o600)
    path.write_text("\n")
    with pytest.raises(UserError, match="is empty"):
        find_token("REWARD_TOKEN", path)


def test_the_environment_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OTHER_TOKEN", " abc ")
    assert find_token("OTHER_TOKEN", tmp_path / "token") == ("abc", "")
    assert not (tmp_path / "token").exists()


def test_a_port_that_is_taken_is_told_before_ray_starts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"nothing can listen at 127.0.0.1:{port}"):
            check_port("127.0.0.1", port)
    check_port("127.0.0.1", port)


def test_a_model_folder_is_known_by_its_content(tmp_path: Path) -> None:
    (tmp_path / "rm").mkdir()
    (tmp_path / "rm" / "config.json").write_text("{}")
    folder, about = find_model(str(tmp_path / "rm"), tmp_path)
    assert (folder, about["name"]) == (tmp_path / "rm", "rm")
    (tmp_path / "rm" / "model.safetensors").write_text("weights")
    assert find_model(str(tmp_path / "rm"), tmp_path)[1]["fingerprint"] != about["fingerprint"]


def test_a_run_without_a_reward_model_is_refused(no_token: None, tmp_path: Path) -> None:
    (tmp_path / "tiny-0").mkdir()
    stages = {"sft": StageRecord(status=Status.DONE, folder=str(tmp_path))}
    write_run(tmp_path / "tiny-0", RunRecord(run="tiny-0", stages=stages))
    with pytest.raises(UserError, match="tiny-0 has no reward_model"):
        main(["tiny-0", "--runs-dir", str(tmp_path)])
    with pytest.raises(UserError, match="there is no such run"):
        main(["other", "--runs-dir", str(tmp_path)])


@dataclass(kw_only=True)
class Started:
    process: subprocess.Popen[str]
    url: str
    folder: Path
    log: Path


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any) -> dict[str, Path]:
    """PPO's upstream assets; a context of 64 tokens."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from stages.lm.loading import save_model

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tiny_tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        bos_token_id=tiny_tokenizer.bos_token_id,
        eos_token_id=tiny_tokenizer.eos_token_id,
        pad_token_id=tiny_tokenizer.pad_token_id,
    )
    folder = tmp_path_factory.mktemp("assets")
    save_model(LlamaForCausalLM(config), tiny_tokenizer, folder / "ppo_init" / "model")
    return write_inputs(folder / "ppo_init", folder)


@pytest.fixture(scope="module")
def server(
    inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Started, str]]:
    """A batch is four rows, or what came within nine seconds; a request may take five."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    scratch, folder = tmp_path_factory.mktemp("serving"), inputs["reward_model"] / "model"
    options = f"--port {port} --threads 1 --batch-size 4 --batch-wait-s 9 --deadline-s 5"
    command = [sys.executable, "-m", "pipeline", "serve-reward", str(folder)]
    command += [*options.split(), "--token-file", str(scratch / "token")]
    environment = {name: v for name, v in os.environ.items() if name != "REWARD_TOKEN"}
    log = scratch / "log"
    with log.open("w") as file:
        process = subprocess.Popen(
            command, env=environment, stdout=file, stderr=subprocess.STDOUT, text=True
        )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for_health(process, url, log)
        started = Started(process=process, url=url, folder=folder, log=log)
        yield started, (scratch / "token").read_text().strip()
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def wait_for_health(process: subprocess.Popen[str], url: str, log: Path) -> None:
    """Only 200 counts: while Ray Serve starts its proxy, it answers otherwise."""
    for _ in range(240):
        assert process.poll() is None, log.read_text()
        try:
            if httpx.get(f"{url}/health", timeout=2).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    raise AssertionError(log.read_text())


Rows = tuple[list[list[Message]], list[str], list[bool]]
ROWS: Rows = (PROMPTS, RESPONSES, FINISHED)


def local_scores(folder: Path, rows: Rows) -> list[float]:
    """What the model in the folder gives, asked in this process."""
    model, tokenizer = load_reward_model(folder), load_reward_tokenizer(folder)
    prompts, responses = [], []
    for prompt, response, finished in zip(*rows, strict=True):
        prompts.append(encode_prompt(tokenizer, prompt))
        responses.append(encode_response(tokenizer, response, finished=finished))
    scores: list[float] = score_responses(
        model.scores, prompts, responses, tokenizer.pad_token_id
    ).tolist()
    return scores


@pytest.mark.ray
@pytest.mark.timeout(300)
def test_ppo_learns_from_a_served_reward_model(
    server: tuple[Started, str],
    inputs: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An iteration whose scores are the local model's of the same texts; those of responses that
    have no special token in them, which text does not hold, are those of the same tokens, too."""
    started, token = server
    monkeypatch.setenv("REWARD_TOKEN", token)
    remote = RemoteConfig(weight=1.0, url=started.url, batch_size=4)
    config = small_config(reward=RewardConfig(model=ModelTerm(weight=1e-9), remote=remote))
    start = inputs["ppo_init"] / "model"
    tokenizer, context = load_tokenizer(start), Context.at(tmp_path)
    loop = PpoLoop(
        roles=load_roles(config, folders_of(inputs)),
        data=load_data(config, tokenizer, inputs["prompts"], inputs["text"], context),
        config=config,
        context=context,
    )
    prompts, rollouts = loop.sample(0)
    experience = make_experience(loop.roles, prompts, rollouts, config, 0.0)
    texts = [decode_response(tokenizer, tokens) for tokens in rollouts.tokens]
    expected = local_scores(started.folder, (prompts.messages, texts, rollouts.finished))
    assert experience.parts["remote"].tolist() == pytest.approx(expected, abs=1e-6)
    same = [
        row
        for row, (text, finished) in enumerate(zip(texts, rollouts.finished, strict=True))
        if encode_response(tokenizer, text, finished=finished) == list(rollouts.tokens[row])
    ]
    assert same
    torch.testing.assert_close(
        experience.parts["remote"][same], experience.parts["model"][same], rtol=0, atol=1e-6
    )
    figures = loop.iterate(0, 0.02)
    assert figures["rollout/reward/remote_mean"] == pytest.approx(sum(expected) / 8, abs=1e-6)


@pytest.mark.ray
@pytest.mark.timeout(300)
def test_a_server_from_start_to_end(
    server: tuple[Started, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    started, token = server
    monkeypatch.setenv("REWARD_TOKEN", token)
    fingerprint = find_model(str(started.folder), started.folder)[1]["fingerprint"]
    client = RemoteReward(RemoteConfig(url=started.url, model=fingerprint, retries=0))

    expected = local_scores(started.folder, ROWS)
    assert len(set(expected)) == 4
    scores = client(*ROWS)  # four rows fill the batch: nobody waits
    assert scores == pytest.approx(expected, abs=1e-6)

    reversed_rows = PROMPTS[::-1] * 2, RESPONSES[::-1] * 2, FINISHED[::-1] * 2
    by_two = RemoteReward(RemoteConfig(url=started.url, retries=0, batch_size=2))
    assert by_two(*reversed_rows) == pytest.approx(expected[::-1] * 2, abs=1e-6)

    with pytest.raises(RewardError, match=r"1 try.*504.*not scored within 5 s"):
        client(PROMPTS[:1], RESPONSES[:1], FINISHED[:1])  # alone it waits nine seconds for others
    with pytest.raises(RewardError, match=r"422.*at most 64"):
        client(PROMPTS[:1], ["cat " * 99], [True])
    monkeypatch.setenv("REWARD_TOKEN", token[:-1])
    wrong = RemoteReward(RemoteConfig(url=started.url))
    with pytest.raises(RewardError, match=r"1 try.*401"):
        wrong(*ROWS)

    said = started.log.read_text()
    assert f"reward.remote.url={started.url} reward.remote.model={fingerprint}" in said
    assert token not in said

    started.process.send_signal(signal.SIGTERM)
    assert started.process.wait(60) == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{started.url}/health")
