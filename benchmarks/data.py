"""Short rows through the generic format and tokenisation, beside `datasets`: one JSON line.

    python benchmarks/data.py --rows 1000000

Rows of JSON lines, drawn from the seed, become token ids on disk in two ways, each in a process of
its own and in turn: ours (generic format, text table, token cache) and `load_dataset` with a
batched `map` (num_proc=1: fast tokenizers use all cores by themselves). Both write the same tokens,
which is checked. rows_s: rows a second from the file to the tokens; peak_mb: VmHWM of the process,
imports included. `--rules` sends ours through the data rules as well (identical rows, long common
prefix, near duplicates, split).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

WAYS = ("ours", "datasets")
VOCABULARY, TRAINED_ON = 4096, 5000


def main() -> None:
    """Write the rows, run each way in a process, print."""
    options = parse()
    if options.way:
        print(json.dumps(WAY[options.way](Path(options.folder), options.rules)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_rows(folder, options.rows, options.seed)
        found = {way: in_process(way, folder, options) for way in WAYS}
    if not options.rules:
        assert found["ours"]["tokens"] == found["datasets"]["tokens"]
    print(json.dumps({"rows": options.rows, "cores": os.cpu_count(), **found}))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rules", action="store_true")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    return parser.parse_args()


def in_process(way: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, __file__, "--way", way, "--folder", str(folder)]
    done = subprocess.run(
        command + ["--rules"] * options.rules, stdout=subprocess.PIPE, check=True, text=True
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found | {"rows_s": round(options.rows / found["wall_s"])}


def write_rows(folder: Path, rows: int, seed: int) -> None:
    """`rows.jsonl`, and a tokenizer of byte pairs trained on its first rows."""
    from stages.lm.vocabulary import bpe_tokenizer

    with (folder / "rows.jsonl").open("w") as file:
        for text in bodies(rows, seed):
            file.write(json.dumps({"id": "x", "body": text}) + "\n")
    bpe_tokenizer(bodies(TRAINED_ON, seed), VOCABULARY).save_pretrained(folder / "tokenizer")


def bodies(rows: int, seed: int) -> Iterator[str]:
    """Texts of 5 to 40 words; the words are made up, the frequent ones short."""
    rng = Random(seed)
    letters = "etaoinshrdlucmfw"
    words = ["".join(rng.choices(letters, k=2 + i // 900)) for i in range(9000)]
    for _ in range(rows):
        drawn = (int(9000 * rng.random() ** 3) for _ in range(rng.randint(5, 40)))
        yield " ".join(words[i] for i in drawn) + "."


def ours(folder: Path, rules: bool) -> dict[str, Any]:
    from transformers import AutoTokenizer

    from stages.contracts import Context
    from stages.lm.token_cache import tokenized_documents
    from stages.records.reading import read_source
    from stages.records.schemas import Text
    from stages.records.sources import SourceConfig
    from stages.records.tables import write_table
    from stages.step0_data.rules.config import RulesConfig
    from stages.step0_data.rules.ledger import Sourced
    from stages.step0_data.rules.prepare import prepare

    tokenizer, table = (
        AutoTokenizer.from_pretrained(folder / "tokenizer"),
        folder / "out" / "train.parquet",
    )
    started = time.perf_counter()
    source = SourceConfig(path=str(folder / "rows.jsonl"), columns={"text": "body"})
    records = read_source(source, Text)
    if rules:
        chosen = RulesConfig(prefix_characters=100, near_duplicates=0.8)
        prepare((Sourced(record=r) for r in records), Text, chosen, 0, table.parent)
    else:
        write_table(table, records)
    read = time.perf_counter() - started
    documents = tokenized_documents(table, tokenizer, Context.at(folder / "context"))
    return figures(started, len(documents.tokens)) | {"read_s": round(read, 1)}


def with_datasets(folder: Path, rules: bool) -> dict[str, Any]:
    import datasets
    from transformers import AutoTokenizer

    del rules
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    datasets.disable_progress_bars()
    start, end = [tokenizer.bos_token_id], [tokenizer.eos_token_id]

    def encode(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        ids = tokenizer(batch["body"], add_special_tokens=False)["input_ids"]
        return {"input_ids": [start + tokens + end for tokens in ids]}

    started = time.perf_counter()
    rows = datasets.load_dataset(
        "json",
        data_files=str(folder / "rows.jsonl"),
        split="train",
        cache_dir=str(folder / "hf"),
    )
    read = time.perf_counter() - started
    encoded = rows.map(encode, batched=True, remove_columns=rows.column_names)
    wall = figures(started, 0)
    tokens = sum(len(column.flatten()) for column in encoded.data["input_ids"].chunks)
    return wall | {"tokens": tokens, "read_s": round(read, 1)}


WAY = {"ours": ours, "datasets": with_datasets}


def figures(started: float, tokens: int) -> dict[str, Any]:
    """Wall time since `started`, and the peak of this process."""
    status = Path("/proc/self/status").read_text()
    peak = int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
    wall = round(time.perf_counter() - started, 1)
    return {"wall_s": wall, "peak_mb": round(peak / 1024), "tokens": tokens}


if __name__ == "__main__":
    main()
