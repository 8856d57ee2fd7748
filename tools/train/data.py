"""The corpus: documents of text in, shuffled rows of tokens out."""

import lzma
import multiprocessing
import os

import numpy as np

PAD, EOS, BOS, UNK = 0, 1, 2, 3
SEPARATOR = "<|endoftext|>"


def read_documents(path):
    """Documents end with a line that holds only the separator; the file may be xz-compressed."""
    opener = lzma.open if path.endswith(".xz") else open
    with opener(path, "rt", encoding="utf-8", newline="\n") as file:
        text = file.read()
    documents = [part.strip("\n") for part in text.split("\n" + SEPARATOR)]
    return [document for document in documents if document]


_processor = None


def _load_processor(model_file):
    global _processor
    import sentencepiece as spm
    _processor = spm.SentencePieceProcessor(model_file=model_file)


def _encode(text):
    return np.array([BOS] + _processor.encode(text) + [EOS], dtype=np.uint16)


def encode_documents(documents, model_file, workers=None):
    """Every document as an array bos, text, eos."""
    workers = workers or min(16, os.cpu_count() or 1)
    with multiprocessing.get_context("fork").Pool(workers, _load_processor, (model_file,)) as pool:
        return pool.map(_encode, documents, chunksize=32)


def text_bytes(documents):
    return sum(len(document.encode("utf-8")) for document in documents)


class RowStream:
    """Endless batches of rows [batch, length + 1].

    Each epoch joins the documents in a new order, drops a random part of a row at the front (so
    that documents are cut in other places than last time), cuts the stream into rows and shuffles
    those. The extra column holds the last target; the next row starts with that same token.
    """

    def __init__(self, documents, batch, length, seed):
        self.documents = documents
        self.batch = batch
        self.length = length
        self.random = np.random.default_rng(seed)
        self.epoch = 0
        self.rows = None
        self.next_row = 0

    def _start_epoch(self):
        order = self.random.permutation(len(self.documents))
        stream = np.concatenate([self.documents[index] for index in order])
        stream = stream[self.random.integers(self.length):]
        count = (len(stream) - 1) // self.length
        starts = self.random.permutation(count) * self.length
        self.rows = np.lib.stride_tricks.sliding_window_view(stream, self.length + 1)[starts]
        self.next_row = 0
        self.epoch += 1

    def next(self):
        if self.rows is None or self.next_row + self.batch > len(self.rows):
            self._start_epoch()
        rows = self.rows[self.next_row:self.next_row + self.batch]
        self.next_row += self.batch
        return rows.astype(np.int64)
