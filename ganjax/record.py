"""What a run's config.json says of how it was started, and comparing that."""

import json
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

from ganjax import config
from ganjax.build import describe_data
from ganjax.checkpoint_files import all_agree, of_first
from ganjax.experiment import Experiment
from ganjax.run import device_name, versions
from ganjax.types import InputError


def check_alike(experiment: Experiment, command: str) -> None:
    """Raise where several processes are about to do different things together."""
    about = json.dumps(record_of(experiment) | {"device": None, "command": command}, sort_keys=True)
    digest = zlib.crc32(about.encode()) >> 1  # int32
    if not all_agree(of_first(digest) == digest):
        raise InputError(
            "the processes were started with different settings, data or versions; give all of "
            "them the same command"
        )


def differences(before: Any, after: Any, name: str = "") -> Iterator[str]:
    """Yield what has another value, such as `train.seed was 0 and is 1`."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in before.keys() & after.keys():
            yield from differences(before[key], after[key], f"{name}.{key}" if name else key)
    elif before != after:
        yield f"{name} was {before} and is {after}"


def record_of(experiment: Experiment) -> dict[str, Any]:
    """Return what config.json says: settings, data, versions and device."""
    return {
        "config": config.to_json(experiment.config),
        "data": describe_data(experiment.train, experiment.model.num_classes),
        "versions": versions(),
        "device": device_name(),
    }
