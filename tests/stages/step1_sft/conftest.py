"""Small demonstrations and text in the words of the tiny tokenizer."""

import random

import pytest

from stages.records.schemas import Demonstration, Text
from stages.records.tables import write_table

NOUNS = ["cat", "dog", "ball", "box"]


def make_demonstrations(count, seed):
    generator = random.Random(seed)
    return [
        Demonstration(
            prompt=[{"role": "user", "content": f"write about the {noun}"}],
            response=" ".join([f"the {noun} is red ."] * generator.randint(1, 3)),
        )
        for noun in generator.choices(NOUNS, k=count)
    ]


@pytest.fixture
def demonstrations(tmp_path):
    folder = tmp_path / "demonstrations"
    write_table(folder / "train.parquet", make_demonstrations(22, seed=0))
    write_table(folder / "validation.parquet", make_demonstrations(6, seed=1))
    return folder


@pytest.fixture
def text(tmp_path):
    folder = tmp_path / "text"
    documents = [Text(text=f"the {a} and the {b} .") for a in NOUNS for b in NOUNS]
    write_table(folder / "train.parquet", documents)
    write_table(folder / "validation.parquet", documents[:3])
    return folder
