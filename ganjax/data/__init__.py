"""Data: sources of examples, and which of them are in which batch."""

from ganjax.data.batching import BatchStream, batch_indices
from ganjax.data.dataset import Dataset
from ganjax.data.oracle import Oracle
from ganjax.data.points import GRID_CENTERS, GRID_STD, RING_CENTERS, RING_STD
from ganjax.data.sources import DATASETS, load
from ganjax.data.text import TextDataset, TextForm, load_text
from ganjax.data.tfds_prepare import prepare
from ganjax.data.tokenizers import Tokenizer, build_tokenizer

__all__ = [
    "DATASETS",
    "GRID_CENTERS",
    "GRID_STD",
    "RING_CENTERS",
    "RING_STD",
    "BatchStream",
    "Dataset",
    "Oracle",
    "TextDataset",
    "TextForm",
    "Tokenizer",
    "batch_indices",
    "build_tokenizer",
    "load",
    "load_text",
    "prepare",
]
