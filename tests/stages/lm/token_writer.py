"""A process that tokenises a table into a cache: `token_writer.py FOLDER [kill]`."""

import os
import signal
import sys
from pathlib import Path

from stages.contracts import Context
from stages.lm import token_cache
from stages.lm.vocabulary import word_tokenizer

WORDS = "the cat saw a dog and a hat"


def main(folder: Path, killed: bool) -> None:
    if killed:
        token_cache.BATCH_DOCUMENTS = 10
        encode, batches = token_cache._encoded, iter(range(3))

        def encoded(*arguments):
            for documents in encode(*arguments):
                yield documents
                if next(batches, None) is None:
                    os.kill(os.getpid(), signal.SIGKILL)

        token_cache._encoded = encoded
    context = Context.at(folder / f"process{os.getpid()}")
    context.cache = folder / "cache"
    (folder / f"ready{os.getpid()}").touch()
    while not killed and len(list(folder.glob("ready*"))) < 2:
        pass
    documents = token_cache.tokenized_documents(
        folder / "text.parquet", word_tokenizer([WORDS]), context
    )
    print(len(documents), sum(map(sum, documents)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), "kill" in sys.argv)
