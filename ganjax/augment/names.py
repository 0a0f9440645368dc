"""The augmentations by name."""

from collections.abc import Callable, Mapping

from ganjax.augment.ada import ada, scheduled
from ganjax.augment.base import Augment, compose, horizontal_flip
from ganjax.augment.diff_augment import diff_augment
from ganjax.types import InputError


def _r3gan() -> Augment:
    return scheduled("r3gan", 0.55, 20_000_000)  # the paper's setting for CIFAR-10


AUGMENTATIONS: dict[str, Callable[[], Augment]] = {
    "flip": horizontal_flip,
    "diff_augment": diff_augment,
    "ada": ada,
    "r3gan": _r3gan,
}


def from_names(
    names: str, builders: Mapping[str, Callable[[], Augment]] = AUGMENTATIONS
) -> Augment:
    """Return the augmentations of names joined by "+", one after another.

    Args:
      names: keys of `builders`, such as "flip+ada".
      builders: what makes each of them.

    Raises:
      InputError: for a name that is none of them.

    >>> len(from_names("flip+ada").init())
    2
    """
    parts = [name.strip() for name in names.split("+")]
    for name in parts:
        if name not in builders:
            raise InputError(
                f"an augmentation is one of {', '.join(builders)}, or several joined by +; "
                f"got {name!r} in {names!r}"
            )
    augments = [builders[name]() for name in parts]
    return augments[0] if len(augments) == 1 else compose(*augments)
