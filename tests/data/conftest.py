import os
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def real_data():
    """The folder of the data sets that do not come with the package."""
    default = Path(__file__).parents[2].parent / "shared" / "data"
    folder = Path(os.environ.get("GANJAX_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real data: set GANJAX_DATA ({folder} is no folder)")
    return folder


@pytest.fixture
def generator():
    return np.random.default_rng(0)
