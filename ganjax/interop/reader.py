"""Official files, read without PyTorch and without running what is in them.

NVIDIA's `.pkl` files hold whole networks, each with the source code of its class: the state is
taken and the code is not looked at. R3GAN's are the same without the code. BigGAN-PyTorch's `.pth`
files hold one network's tensors each. What a file does not say is read off the shapes.
"""

import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from ganjax.interop import shapes
from ganjax.interop.torch_files import open_file
from ganjax.interop.unpickle import DamagedError, Record, as_array
from ganjax.types import InputError

_DEEPEST = 64  # modules within modules
_MOST = 200_000  # modules, tensors and attributes of a network
_NETWORKS = ("G_ema", "G", "D")


class OfficialFile(NamedTuple):
    """What an official file holds.

    Attributes:
      architecture: a key of `ganjax.interop.ARCHITECTURES`.
      config: its settings, by the official names.
      networks: tensors by official name, for each of "G", "D" and "G_ema" that there is; the last
        is the running average of the generator.
    """

    architecture: str
    config: dict[str, Any]
    networks: dict[str, dict[str, np.ndarray]]

    def state_dict(self, *, ema: bool = True) -> dict[str, np.ndarray]:
        """Return tensors with the prefixes `G.` and `D.`, as `import_state_dict` takes them.

        Args:
          ema: whether the generator is its running average, where there is one.
        """
        generators = ("G_ema", "G") if ema else ("G", "G_ema")
        chosen = next((name for name in generators if name in self.networks), None)
        parts = {"G.": self.networks.get(chosen, {}), "D.": self.networks.get("D", {})}
        return {prefix + name: a for prefix, part in parts.items() for name, a in part.items()}


def read(path: str | os.PathLike) -> tuple[str, dict[str, Any], dict[str, np.ndarray]]:
    """Read the architecture, the settings and the weights of an official `.pkl`, `.pth` or `.pt`.

    Nothing in the file is run, whatever it is: a pickle that asks for anything but arrays, dicts
    and the classes of layers is refused.

    Returns:
      (architecture, config, state_dict), what `ganjax.interop.import_state_dict` takes. The
      generator is its running average where the file has one.

    Raises:
      InputError: there is no such file, it is damaged, it asks for a name that is not allowed, or
        it holds none of the architectures that can be imported.
    """
    official = read_file(path)
    return official.architecture, official.config, official.state_dict()


def read_file(
    path: str | os.PathLike, *, discriminator: str | os.PathLike | None = None
) -> OfficialFile:
    """Read an official file with every network in it.

    Args:
      path: the file.
      discriminator: another file that holds the discriminator, as BigGAN-PyTorch writes them.

    Returns:
      An `OfficialFile`.

    Raises:
      InputError: as for `read`.
    """
    networks, attributes = _networks(path)
    if discriminator is not None:
        more, more_attributes = _networks(discriminator)
        if "D" not in more:
            raise InputError(f"{os.fspath(discriminator)} holds no discriminator")
        networks, attributes = {**networks, "D": more["D"]}, {**attributes, **more_attributes}
    try:
        architecture = shapes.architecture_of(networks)
        config = shapes.CONFIGS[architecture](networks, attributes)
    except (LookupError, ValueError, TypeError, ArithmeticError) as error:
        if isinstance(error, InputError):
            raise InputError(f"{os.fspath(path)}: {error}") from error
        raise InputError(
            f"{os.fspath(path)} has the names of a known network, but not its shapes "
            f"({type(error).__name__}: {error})"
        ) from error
    return OfficialFile(architecture, config, networks)


def read_tensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Return the tensors of a `.pth`, `.pt` or `.pkl` by name, whatever network they are of.

    Nothing in the file is run, as in `read`.

    Raises:
      InputError: there is no such file, it is damaged, or asks for a name that is not allowed.
    """
    try:
        return flattened(open_file(path))[0]
    except DamagedError as error:
        raise InputError(f"{os.fspath(path)} cannot be read: {error}") from error


def _networks(path) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, dict[str, Any]]]:
    """Return tensors, and attributes that are no tensors, by name for each network in a file."""
    content = open_file(path)
    try:
        parts = dict(_parts(content))
        found = {name: flattened(part) for name, part in parts.items()}
    except DamagedError as error:
        raise InputError(f"{os.fspath(path)} cannot be read: {error}") from error
    networks = {name: tensors for name, (tensors, _) in found.items() if tensors}
    if not networks:
        raise InputError(
            f"{os.fspath(path)} holds no network; expected a dict with G, D or G_ema, a network, "
            "or a state dict"
        )
    return networks, {name: attributes for name, (_, attributes) in found.items()}


def _parts(content: Any) -> Iterator[tuple[str, Any]]:
    """Yield each network in a file with its name."""
    if isinstance(content, dict):
        content = {key: value for key, value in content.items() if isinstance(key, str)}
        named = [name for name in _NETWORKS if isinstance(content.get(name), dict | Record)]
        if named:
            yield from ((name, content[name]) for name in named)
            return
        prefixed = [name for name in content if name[:2] in ("G.", "D.")]
        if prefixed:
            for part in ("G", "D"):
                yield part, {n[2:]: content[n] for n in prefixed if n[:2] == f"{part}."}
            return
    tensors, _ = flattened(content)
    yield shapes.part_of(tensors), content


def flattened(value: Any) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the tensors of a network or a state dict by name, and its plain attributes."""
    tensors: dict[str, np.ndarray] = {}
    attributes: dict[str, Any] = {}
    left = [_MOST]

    def visit(value: Any, prefix: str, depth: int) -> None:
        state = module_state(value)
        if state is None:
            return
        groups = [state, *(state.get(name) for name in ("_parameters", "_buffers", "_modules"))]
        # One module can be in many places, with all that it holds.
        left[0] -= sum(len(group) for group in groups if isinstance(group, dict))
        if depth > _DEEPEST or left[0] < 0:
            raise DamagedError("its modules lie within each other without end")
        hidden = state.get("_non_persistent_buffers_set")
        hidden = hidden if isinstance(hidden, set) else ()
        for group in ("_parameters", "_buffers"):
            for name, tensor in _items(state.get(group)):
                array = as_array(tensor)
                if array is not None and not (group == "_buffers" and name in hidden):
                    tensors[prefix + name] = array
        for name, attribute in _items(state):
            if not name.startswith("_") and _is_plain(attribute):
                attributes[prefix + name] = attribute
        for name, module in _items(state.get("_modules")):
            if module is not None:
                visit(module, f"{prefix}{name}.", depth + 1)

    if isinstance(value, Record):
        visit(value, "", 0)
    else:
        for name, tensor in _items(value):
            array = as_array(tensor)
            if array is not None:
                tensors[name] = array
    # What wraps a network around itself, such as for several devices, adds to every name.
    for wrapper in ("module.", "Model."):
        if tensors and all(name.startswith(wrapper) for name in tensors):
            tensors = {name.removeprefix(wrapper): a for name, a in tensors.items()}
            attributes = {name.removeprefix(wrapper): a for name, a in attributes.items()}
    return tensors, attributes


def module_state(value: Any) -> dict[str, Any] | None:
    """Return the attributes of a network that was stored whole, or None for anything else."""
    if not isinstance(value, Record):
        return None
    state = value.state
    if state is None and value.arguments and isinstance(value.arguments[0], dict):
        state = value.arguments[0].get("state")  # NVIDIA's, beside the source code
    return state if isinstance(state, dict) else None


def _items(value: Any) -> list[tuple[str, Any]]:
    if not isinstance(value, dict):
        return []
    return [(name, item) for name, item in value.items() if isinstance(name, str)]


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str)
