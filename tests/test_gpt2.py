"""GPT-2 against Hugging Face's implementation, and the folder it is downloaded as."""

import numpy as np
import pytest
from reference_vectors import arrays, weights

from ganjax import interop


@pytest.fixture(scope="module")
def imported():
    return interop.import_state_dict("gpt2", *weights("gpt2_tiny"))


@pytest.fixture(scope="module")
def official():
    return arrays("gpt2_tiny")


def test_logits(imported, official):
    np.testing.assert_allclose(
        imported.logits(official["input_ids"]), official["logits"], atol=1e-5
    )


def test_greedy(imported, official):
    np.testing.assert_array_equal(imported.greedy(official["input_ids"], 20), official["greedy_20"])


def test_beam_search(imported, official):
    sequences, scores = imported.beam_search(official["input_ids"], 12, num_beams=5, num_return=3)
    np.testing.assert_array_equal(sequences, official["beam5_return3_12"])
    np.testing.assert_allclose(scores, official["beam5_return3_12_scores"], atol=1e-5)
