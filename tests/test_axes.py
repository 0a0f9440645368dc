"""On one device; what several devices compute together is compared in test_sharding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from ganjax import axes, sharding


@pytest.fixture(scope="module")
def mesh():
    return sharding.make_mesh(jax.devices()[:1])


def spread(function, mesh, check_vma=True):
    """Wrap a function of no arguments in a shard_map over one device."""
    return jax.shard_map(
        function, mesh=mesh, in_specs=(), out_specs=PartitionSpec(), check_vma=check_vma
    )


def test_axes_are_bound_inside_shard_map_and_pmap_only(mesh):
    seen = {}

    def look(where):
        seen[where] = axes.bound_axes()
        return jnp.zeros(())

    look("outside")
    jax.jit(lambda: look("jit"))()
    jax.vmap(lambda x: x + look("vmap"), axis_name="seeds")(jnp.zeros(2))
    spread(lambda: look("shard_map"), mesh)()
    spread(
        lambda: jax.lax.scan(lambda c, _: (c, look("scan inside")), 0, None, length=2)[1].sum(),
        mesh,
    )()
    jax.pmap(lambda x: x + look("pmap"), axis_name="data")(jnp.zeros(1))
    with jax.set_mesh(mesh):
        jax.jit(lambda: look("jit with a mesh"))()
    assert seen == {
        "outside": (),
        "jit": (),
        "vmap": (),
        "jit with a mesh": (),
        "shard_map": ("data",),
        "scan inside": ("data",),
        "pmap": ("data",),
    }


@pytest.mark.parametrize("check_vma", [True, False])
def test_one_device_computes_what_none_does(mesh, check_vma):
    x = jnp.arange(6.0).reshape(3, 2)

    def everything():
        def loss(w, x):
            return jnp.mean((x @ w) ** 2), {"x": jnp.sum(x)}

        (value, auxiliary), gradient = axes.value_and_grad(loss)(jnp.ones(2), x)
        return {
            "value": value,
            "auxiliary": auxiliary,
            "gradient": gradient,
            "mean": axes.global_mean({"a": jnp.float32(3)}),
            "shares": jnp.float32(axes.num_shares()),
        }

    plain = everything()
    np.testing.assert_allclose(
        plain["gradient"], jax.grad(lambda w: jnp.mean((x @ w) ** 2))(np.ones(2))
    )
    jax.tree.map(np.testing.assert_allclose, jax.jit(spread(everything, mesh, check_vma))(), plain)


def test_a_draw_is_that_of_the_sampler(mesh):
    def sample(key, n):
        return {"z": jax.random.normal(key, (n, 3)), "index": jnp.arange(n)}

    key = jax.random.key(0)
    expected = sample(key, 4)
    drawn = jax.shard_map(
        lambda key: axes.draw(sample, key, 4),
        mesh=mesh,
        in_specs=PartitionSpec(),
        out_specs=PartitionSpec("data"),
    )(key)
    for ours in (axes.draw(sample, key, 4), drawn):
        jax.tree.map(np.testing.assert_array_equal, ours, expected)


def test_all_finite_looks_at_every_float():
    tree = {"w": jnp.ones(3), "half": jnp.ones(2, jnp.bfloat16), "n": jnp.arange(2)}
    assert axes.all_finite(tree)
    assert axes.all_finite({"n": jnp.arange(2), "key": jax.random.key(0)})
    assert not axes.all_finite({**tree, "w": tree["w"].at[1].set(jnp.nan)})
    assert not axes.all_finite({**tree, "half": tree["half"].at[0].set(-jnp.inf)})
