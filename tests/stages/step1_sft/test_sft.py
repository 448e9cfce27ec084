"""The SFT stage: epochs kept, the best chosen, and the same weights however often it is stopped."""

import json

import pytest

from stages.contracts import Context, InterruptedRunError
from stages.lm import trl_runs
from stages.lm.loading import load_causal_lm, model_hash
from stages.lm.peft.config import PeftKind
from stages.lm.process import prepare_process
from stages.step1_sft import sft
from stages.step1_sft.config import SftConfig

CONFIG = SftConfig(
    lr=5e-3,
    epochs=3,
    batch_size=4,
    microbatch_size=2,
    residual_dropout=0.2,
    log_every=3,
    checkpoint_every=4,
)  # 22 demonstrations: epochs end after steps 6, 11 and 17


def run_stage(folder, base, demonstrations, should_stop=lambda: False):
    prepare_process(CONFIG.threads, CONFIG.seed)
    context = Context.at(folder)
    context.should_stop = should_stop
    return sft.run(
        CONFIG, base=base, demonstrations=demonstrations, out=folder / "out", context=context
    )


def curves(folder):
    """What the journal holds, without the clock."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for record in records:
        del record["time"], record["values"]["time/step_s"]
    return records


def hashes(folder):
    return {
        path.name: model_hash(path)
        for path in [folder / "out" / "model", *sorted((folder / "out" / "epochs").iterdir())]
    }


@pytest.fixture
def whole(tmp_path, tiny_model_folder, demonstrations):
    report = run_stage(tmp_path / "whole", tiny_model_folder, demonstrations)
    return tmp_path / "whole", report


def test_every_epoch_is_kept_and_the_best_is_the_model(whole):
    folder, report = whole
    epochs = sorted(path.name for path in (folder / "out" / "epochs").iterdir())
    assert epochs == ["epoch_01", "epoch_02", "epoch_03"]
    losses = {
        record["step"]: record["values"]["loss/validation"]
        for record in curves(folder)
        if "loss/validation" in record["values"]
    }
    assert list(losses) == [6, 11, 17]
    assert losses[17] < losses[6]
    best = min(losses.values())
    assert report.metrics["validation_loss"] == best
    chosen = list(losses.values()).index(best) + 1
    assert report.metrics["selected_epoch"] == chosen
    assert hashes(folder)["model"] == hashes(folder)[f"epoch_{chosen:02d}"]
    load_causal_lm(folder / "out" / "model")


def test_the_saved_config_is_the_bases(whole, tiny_model_folder):
    """Fails if the trainer's own settings stay in it: without a cache, generation crawls."""
    saved = json.loads((whole[0] / "out" / "model" / "config.json").read_text())
    assert saved == json.loads((tiny_model_folder / "model" / "config.json").read_text())


def test_the_epoch_of_lowest_validation_loss_is_chosen(tmp_path, tiny_model, tiny_tokenizer):
    """Fails if the last or the first epoch is taken, or the highest loss."""
    keeper = sft.EpochKeeper(
        tmp_path / "epochs", [1, 2, 3], [], tiny_tokenizer, tmp_path, PeftKind.none
    )
    for epoch, loss in enumerate([0.9, 0.4, 0.6], start=1):
        folder = tmp_path / "epochs" / f"epoch_{epoch:02d}"
        folder.mkdir(parents=True)
        (folder / "validation.json").write_text(json.dumps({"loss": loss, "accuracy": 0.0}))
    assert keeper.best() == 2
    keeper.publish(2, tmp_path / "out")
    assert json.loads((tmp_path / "out/model/validation.json").read_text())["loss"] == 0.4


@pytest.mark.parametrize("stop_after", [3, 6, 13])
def test_stopped_and_run_again_ends_with_the_same_weights(
    whole, tmp_path, tiny_model_folder, demonstrations, stop_after
):
    """Within an epoch, at its end, in a later one. Fails if the generators are not restored
    (dropout), if data restarts, or if the schedule does."""
    folder, asked = tmp_path / "stopped", iter(range(1, 100))
    with pytest.raises(InterruptedRunError):
        run_stage(folder, tiny_model_folder, demonstrations, lambda: next(asked) >= stop_after)
    assert not (folder / "out").exists()
    run_stage(folder, tiny_model_folder, demonstrations)
    assert hashes(folder) == hashes(whole[0])
    assert curves(folder)[-1] == curves(whole[0])[-1]


@pytest.mark.parametrize("crash_in_save", [1, 2])
def test_a_crash_in_a_save_falls_back_to_the_checkpoint_before(
    whole, tmp_path, tiny_model_folder, demonstrations, monkeypatch, crash_in_save
):
    """The first save leaves no checkpoint at all, the second the first."""
    folder, saves = tmp_path / "crashed", iter(range(1, 100))

    def crash(checkpoint):
        if next(saves) == crash_in_save:
            (checkpoint / "model.safetensors").write_bytes(b"half")
            raise RuntimeError("killed")
        mark_complete(checkpoint)

    mark_complete = trl_runs.mark_complete
    monkeypatch.setattr(trl_runs, "mark_complete", crash)
    with pytest.raises(RuntimeError, match="killed"):
        run_stage(folder, tiny_model_folder, demonstrations)
    run_stage(folder, tiny_model_folder, demonstrations)
    assert hashes(folder) == hashes(whole[0])
    assert curves(folder) == curves(whole[0])


def test_a_try_that_died_after_training_only_publishes(
    whole, tmp_path, tiny_model_folder, demonstrations, monkeypatch
):
    """Between the last step and the end: training continues from the last checkpoint."""
    folder = tmp_path / "late"
    monkeypatch.setattr(sft, "link_folder", fail)
    with pytest.raises(OSError, match="disk"):
        run_stage(folder, tiny_model_folder, demonstrations)
    monkeypatch.undo()
    run_stage(folder, tiny_model_folder, demonstrations)
    assert hashes(folder) == hashes(whole[0])
    assert curves(folder) == curves(whole[0])


def fail(*_):
    raise OSError("disk full")
