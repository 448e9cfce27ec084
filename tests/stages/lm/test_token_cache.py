"""Documents from the cache are those that `encode_document` gives, whoever wrote them and when."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from stages.contracts import Context, InterruptedRunError
from stages.lm import token_cache
from stages.lm.token_cache import entries_of_other_tables, tokenized_documents
from stages.lm.tokens import encode_document
from stages.lm.training import batch_indices
from stages.lm.vocabulary import bpe_tokenizer, word_tokenizer
from stages.records.schemas import Text
from stages.records.tables import write_table
from tests.stages.lm.token_writer import WORDS

ROOT = Path(__file__).parents[3]


@pytest.fixture
def tokenizer():
    return word_tokenizer([WORDS])


@pytest.fixture
def texts(tmp_path) -> list[str]:
    rng = Random(0)
    texts = [" ".join(rng.choices(WORDS.split(), k=rng.randint(1, 9))) for _ in range(200)]
    texts[5] = "unknown words"
    write_table(tmp_path / "text.parquet", [Text(text=text) for text in texts])
    return texts


def documents_of(folder: Path, tokenizer, name: str = "text.parquet"):
    context = Context.at(folder / "stage")
    context.cache = folder / "cache"
    return tokenized_documents(folder / name, tokenizer, context)


def entries(folder: Path) -> list[Path]:
    return [path for path in (folder / "cache" / "tokens").iterdir() if path.suffix != ".lock"]


@pytest.mark.parametrize(
    "make", [lambda: word_tokenizer([WORDS]), lambda: bpe_tokenizer([WORDS], 300)]
)
def test_documents_are_those_of_encode_document(make, texts, tmp_path, monkeypatch):
    monkeypatch.setattr(token_cache, "BATCH_DOCUMENTS", 7)
    tokenizer = make()
    documents, expected = (
        documents_of(tmp_path, tokenizer),
        [encode_document(tokenizer, t) for t in texts],
    )
    assert list(documents) == expected
    assert documents[-1] == expected[-1]
    assert documents[3:6] == expected[3:6]
    assert documents.tokens.tolist() == [token for document in expected for token in document]
    with pytest.raises(IndexError):
        documents[200]


def test_a_table_is_tokenised_once_whatever_it_is_called(texts, tokenizer, tmp_path, monkeypatch):
    first = list(documents_of(tmp_path, tokenizer))
    shutil.copy(tmp_path / "text.parquet", tmp_path / "copy.parquet")
    monkeypatch.setattr(token_cache, "_encoded", lambda *_: pytest.fail("tokenised again"))
    assert list(documents_of(tmp_path, word_tokenizer([WORDS]), "copy.parquet")) == first


def test_another_text_or_tokenizer_is_another_entry(texts, tokenizer, tmp_path):
    documents_of(tmp_path, tokenizer)
    documents_of(tmp_path, word_tokenizer([WORDS, "one more"]))
    write_table(tmp_path / "other.parquet", [Text(text=text) for text in reversed(texts)])
    documents_of(tmp_path, tokenizer, "other.parquet")
    assert len(entries(tmp_path)) == 3


def test_a_stream_resumes_where_it_was(texts, tokenizer, tmp_path):
    """What step s reads is a function of (seed, s): after k steps the rest is as ever."""

    def steps(numbers):
        documents = documents_of(tmp_path, tokenizer)
        return [[documents[i] for i in batch_indices(len(documents), 16, 3, s)] for s in numbers]

    whole = steps(range(30))  # more than two passes
    assert steps(range(11)) + steps(range(11, 30)) == whole
    assert {tuple(d) for step in whole[:13] for d in step} == {
        tuple(encode_document(tokenizer, text)) for text in texts
    }


def test_a_stop_leaves_nothing_half_written(texts, tokenizer, tmp_path):
    context = Context.at(tmp_path / "stage")
    context.cache, context.should_stop = tmp_path / "cache", lambda: True
    with pytest.raises(InterruptedRunError):
        tokenized_documents(tmp_path / "text.parquet", tokenizer, context)
    assert entries(tmp_path) == []


def start(folder: Path, *arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "tests.stages.lm.token_writer", str(folder), *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_two_processes_write_one_entry(texts, tokenizer, tmp_path):
    writers = [start(tmp_path), start(tmp_path)]
    said = {writer.communicate(timeout=100)[0] for writer in writers}
    assert [writer.returncode for writer in writers] == [0, 0]
    documents = documents_of(tmp_path, tokenizer)
    assert said == {f"{len(documents)} {sum(map(sum, documents))}\n"}
    assert len(entries(tmp_path)) == 1


def test_a_writer_that_was_killed_is_forgotten(texts, tokenizer, tmp_path):
    killed = start(tmp_path, "kill")
    assert killed.wait(timeout=100) == -signal.SIGKILL
    (left,) = entries(tmp_path)
    assert left.suffix == ".tmp"
    assert (left / "tokens.bin").exists()
    assert list(documents_of(tmp_path, tokenizer)) == [encode_document(tokenizer, t) for t in texts]
    (whole,) = entries(tmp_path)
    assert whole.suffix == ""


def test_entries_belong_to_a_table(texts, tokenizer, tmp_path):
    import hashlib

    documents_of(tmp_path, tokenizer)
    cache = tmp_path / "cache"
    sha256 = hashlib.sha256((tmp_path / "text.parquet").read_bytes()).hexdigest()
    assert entries_of_other_tables(cache, [sha256, "0" * 64]) == []
    assert set(entries(tmp_path)) <= set(entries_of_other_tables(cache, ["0" * 64]))
    assert entries_of_other_tables(tmp_path / "nowhere", []) == []
