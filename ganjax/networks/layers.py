"""Layers that several networks share, and the way from a Linen module to a `Network`."""

import inspect
from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ganjax import axes, ops
from ganjax.networks.resampling import resampled_conv
from ganjax.networks.spectral import SpectralNorm
from ganjax.types import Array, DiscriminatorOutput, InputError, Network

normal_init = nn.initializers.normal(0.02)

# What running statistics keep of themselves in each training pass. A pass that starts from zeros
# stores 1 - MOMENTUM of its batch's own, which is how standing statistics are gathered.
MOMENTUM = 0.9


def as_network(module: Any) -> Network:
    """Return a `Network` as it is and turn a Linen module into one.

    The module is called as `module(inputs, labels=..., train=...)`; a parameter that its `__call__`
    does not have is left out. While training, every collection but `"params"` is mutable; the
    random streams are `"dropout"` and `"noise"`. A module with methods `map` and `synthesize` is a
    generator with styles, one with `start` and `extend` a language model.
    """
    if isinstance(module, Network):
        return module
    if not isinstance(module, nn.Module):
        raise ValueError(
            f"expected a Linen module or a ganjax.Network of two pure functions, got {module!r}"
        )
    called = module
    while isinstance(called, nn.Sequential):  # it hands its arguments to its first layer
        called = called.layers[0]
    parameters = inspect.signature(called).parameters
    takes_anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())

    def arguments(labels, train):
        given = {"labels": labels, "train": train}
        return {k: v for k, v in given.items() if takes_anything or k in parameters}

    def init(key, inputs, labels=None):
        keys = jax.random.split(key, 3)
        streams = dict(zip(("params", "dropout", "noise"), keys, strict=True))
        return module.init(streams, inputs, **arguments(labels, train=True))

    def call(method, variables, inputs, given, *, train, key):
        streams = {}
        if key is not None:
            streams = dict(zip(("dropout", "noise"), jax.random.split(key), strict=True))
        others = {name: value for name, value in variables.items() if name != "params"}
        outputs, updated = module.apply(
            variables,
            inputs,
            **given,
            rngs=streams,
            mutable=list(others) if train else [],
            method=method,
        )
        return outputs, {**others, **updated}

    def apply(variables, inputs, labels=None, *, train, key=None):
        return call(None, variables, inputs, arguments(labels, train), train=train, key=key)

    if hasattr(module, "start") and hasattr(module, "extend"):
        return Network(init, apply, **_language_model(module))
    if not (hasattr(module, "map") and hasattr(module, "synthesize")):
        return Network(init, apply)

    def map_latents(variables, latents, labels=None, *, train, key=None, truncation=1.0):
        given = {"labels": labels, "train": train, "truncation": truncation}
        return call("map", variables, latents, given, train=train, key=key)

    def synthesize(variables, styles, *, train, key=None):
        return call("synthesize", variables, styles, {}, train=train, key=key)

    return Network(init, apply, map_latents, synthesize)


def _language_model(module: nn.Module) -> dict[str, Any]:
    def start(variables, batch_size, length, labels=None):
        return module.apply(variables, batch_size, length, labels, method="start")

    def extend(variables, cache, tokens, *, train=False, key=None):
        streams = {} if key is None else {"dropout": key}
        return module.apply(variables, cache, tokens, train=train, rngs=streams, method="extend")

    numbers = ("context", "vocab_size", "num_classes")
    known = {name: getattr(module, name, None) for name in numbers}
    return {"start": start, "extend": extend, **known}


def rematerialized(network: Any) -> Network:
    """Return a network whose activations are computed again for its gradient instead of kept.

    A gradient through two networks, or through two passes of one, then holds the activations of one
    pass at a time, for one more forward pass each. Within a pass nothing is saved: a very deep
    network does better to wrap its blocks in `flax.linen.remat`.

    Args:
      network: Linen module or `Network`.

    References:
      Chen et al. 2016, Training Deep Nets with Sublinear Memory Cost, arXiv:1604.06174.
    """
    network = as_network(network)

    def apply(variables, inputs, labels=None, *, train, key=None):
        def run(variables, inputs, labels, key):
            return network.apply(variables, inputs, labels, train=train, key=key)

        return jax.checkpoint(run)(variables, inputs, labels, key)

    return network._replace(apply=apply)


def as_output(output: Array | DiscriminatorOutput) -> DiscriminatorOutput:
    """Return a discriminator's result with float32 logits (B,), whatever shape it gave them."""
    if not isinstance(output, DiscriminatorOutput):
        output = DiscriminatorOutput(logits=output)
    logits = output.logits
    if logits.ndim == 2 and logits.shape[1] == 1:
        logits = logits[:, 0]
    if logits.ndim != 1:
        raise ValueError(
            "a discriminator has to return one logit an image, shape (B,) or (B, 1), got "
            f"{logits.shape}"
        )
    return output.replace(logits=logits.astype(jnp.float32))


class Conv(nn.Module):
    """Convolution over (B, *spatial, C); `strides` and "SAME" or explicit `padding` as in `ops`.

    Attributes:
      resample: "up" repeats pixels twofold before the convolution, "down" averages blocks of two
        after it, along each dimension; both only with odd kernels, stride 1 and "SAME".
      power_iterations: of spectral normalisation in each pass; 0 for none.
    """

    features: int
    kernel_size: Sequence[int]
    strides: int = 1
    padding: ops.Padding = "SAME"
    use_bias: bool = True
    dtype: Any = jnp.float32
    kernel_init: Callable = normal_init
    resample: str | None = None
    power_iterations: int = 0

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        shape = (*self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        if self.power_iterations:
            kernel = SpectralNorm(self.power_iterations)(kernel, train=train)
        x = x.astype(self.dtype)
        if self.resample is None:
            kernel = kernel.astype(self.dtype)
            x = ops.conv(x, kernel, strides=self.strides, padding=self.padding)
        else:
            x = resampled_conv(x, kernel, self.resample)
        if self.use_bias:
            x = x + self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)
        return x


class Dense(nn.Module):
    """Linear layer on the last axis.

    Attributes:
      power_iterations: of spectral normalisation in each pass; 0 for none.
    """

    features: int
    use_bias: bool = True
    dtype: Any = jnp.float32
    kernel_init: Callable = normal_init
    power_iterations: int = 0

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        if self.power_iterations:
            kernel = SpectralNorm(self.power_iterations)(kernel, train=train)
        x = x.astype(self.dtype) @ kernel.astype(self.dtype)
        if self.use_bias:
            x = x + self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)
        return x


class ConvTranspose(nn.Module):
    """Transposed convolution up to `output_size`; (B, *spatial, C) in and out."""

    features: int
    kernel_size: Sequence[int]
    strides: int = 1
    output_size: Sequence[int] | None = None
    use_bias: bool = True
    dtype: Any = jnp.float32
    kernel_init: Callable = normal_init

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (*self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape).astype(self.dtype)
        x = ops.conv_transpose(
            x.astype(self.dtype), kernel, strides=self.strides, output_size=self.output_size
        )
        if self.use_bias:
            x = x + self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)
        return x


class BatchNorm(nn.Module):
    """Batch normalisation over the global batch, in every layout.

    Statistics are in float32; the momentum 0.9 of the running ones is 0.1 in PyTorch's terms.

    References:
      Ioffe and Szegedy 2015, arXiv:1502.03167.
    """

    dtype: Any = jnp.float32
    momentum: float = MOMENTUM
    epsilon: float = 1e-5
    scale_stddev: float = 0.02

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        def scale_init(key, shape, dtype=jnp.float32):
            return 1 + self.scale_stddev * jax.random.normal(key, shape, dtype)

        return nn.BatchNorm(
            use_running_average=not train,
            momentum=self.momentum,
            epsilon=self.epsilon,
            axis_name=axes.bound_axes() or None,
            scale_init=scale_init,
            dtype=self.dtype,
        )(x)


class LabelEmbedding(nn.Module):
    """Map labels to (B, features): integers (B,) by a table, vectors (B, num_classes) linearly.

    Attributes:
      embedding_init: of the table; by default normal with `stddev`.
      power_iterations: of spectral normalisation in each pass, with the classes as the outputs; 0
        for none.
    """

    num_classes: int
    features: int
    stddev: float = 1.0
    embedding_init: Callable | None = None
    power_iterations: int = 0

    @nn.compact
    def __call__(self, labels: Array, *, train: bool = False) -> Array:
        init = self.embedding_init or nn.initializers.normal(self.stddev)
        table = self.param("embedding", init, (self.num_classes, self.features))
        if self.power_iterations:
            table = SpectralNorm(self.power_iterations)(table.T, train=train).T
        if jnp.issubdtype(labels.dtype, jnp.integer):
            return table[labels]
        if labels.ndim != 2 or labels.shape[1] != self.num_classes:
            raise InputError(_wrong_labels(labels, self.num_classes, "B"))
        return labels @ table


def require_labels(labels: Array | None, num_classes: int) -> None:
    """Raise where labels and classes do not go together."""
    if num_classes and labels is None:
        raise ValueError(f"a network with {num_classes} classes needs labels, got None")


def check_labels(labels: Any, num_classes: int, count: int) -> Array:
    """Return labels for `count` samples as an array.

    Args:
      labels: (count,) classes, or (count, num_classes) vectors.
      num_classes: 0 for a model without classes.
      count: how many samples there are.

    Raises:
      InputError: the model has no classes, the shape is another one, or a class does not exist;
        that cannot be seen while a program is traced.
    """
    if not num_classes:
        raise InputError("labels were given, but this model was trained without classes")
    labels = jnp.asarray(labels)
    whole = jnp.issubdtype(labels.dtype, jnp.integer)
    if labels.shape != ((count,) if whole else (count, num_classes)):
        raise InputError(_wrong_labels(labels, num_classes, count))
    there = not isinstance(labels, jax.core.Tracer) and labels.is_fully_addressable
    if whole and labels.size and there:
        numbers = np.asarray(labels)
        low, high = int(numbers.min()), int(numbers.max())
        if low < 0 or high >= num_classes:
            raise InputError(
                f"labels lie between {low} and {high}, expected 0 to {num_classes - 1}"
            )
    return labels


def _wrong_labels(labels: Array, num_classes: int, count: int | str) -> str:
    return (
        f"labels have the shape {labels.shape}, expected classes ({count},), integers, or vectors "
        f"({count}, {num_classes})"
    )


def halved_sizes(size: Sequence[int], smallest: int) -> list[tuple[int, ...]]:
    """Return `size` and its halves, rounded up, until the smaller side is at most `smallest`.

    >>> halved_sizes((28, 28), 7)
    [(28, 28), (14, 14), (7, 7)]
    """
    sizes = [tuple(size)]
    while min(sizes[-1]) > smallest:
        sizes.append(tuple(-(-n // 2) for n in sizes[-1]))
    return sizes


def require_choice(name: str, value: str, choices: Collection[str]) -> None:
    """Raise an `InputError` that lists the choices where `value` is none of them."""
    if value not in choices:
        raise InputError(f"{name} has to be one of {', '.join(choices)}; got {value!r}")


def embed(table: Array, tokens: Array) -> Array:
    """Return (..., features) of tokens (...), integers, or of mixtures (..., V) of them, floats."""
    if jnp.issubdtype(tokens.dtype, jnp.integer):
        return table[tokens]
    return tokens @ table.astype(tokens.dtype)
