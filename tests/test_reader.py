"""Official files are read without PyTorch, and nothing in any file is run."""

import io
import os
import pickle
import random
import struct
import zipfile

import numpy as np
import official_files
import pytest
import reference_vectors
from official_files import Persistent, Tensor, dumps, module_state, row_of_pickles, zip_archive

from ganjax import interop
from ganjax.types import InputError

NAMES = ["r3gan_cond16", "stylegan2_cond32", "biggan_cifar32"]


def halves(state_dict):
    """Return the tensors of the generator and of the discriminator."""
    return (
        {name[2:]: a for name, a in state_dict.items() if name[:2] == prefix}
        for prefix in ("G.", "D.")
    )


@pytest.fixture(scope="module")
def r3gan():
    return reference_vectors.weights("r3gan_cond16")


@pytest.fixture
def write(tmp_path):
    def write(data, name="file.pkl"):
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return write


def nvidia(state_dict, attributes=None, **settings):
    generator, discriminator = halves(state_dict)
    attributes = attributes or {}
    given = {"D": attributes.get("D"), "G": attributes.get("G"), "G_ema": attributes.get("G")}
    tensors = {"G": generator, "D": discriminator, "G_ema": generator}
    networks = {
        name: Persistent(name, module_state(tensors[name], given[name], **settings))
        for name in tensors
    }
    return {**networks, "augment_pipe": None, "training_set_kwargs": {"path": "x.zip"}}


def assert_equal(read, expected):
    assert set(read) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(read[name], array, err_msg=name)


def test_a_network_with_source_code(r3gan, write):
    config, state_dict = r3gan
    architecture, found, read = interop.read(write(dumps(nvidia(state_dict))))
    assert architecture == "r3gan"
    for name in ("widths", "cardinality", "blocks", "c_dim", "z_dim", "resampling_filter"):
        assert found[name] == config[name], name
    assert_equal(read, state_dict)
    imported = interop.import_state_dict(architecture, found, read)
    assert_equal(imported.to_state_dict(imported), state_dict)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_every_protocol(r3gan, write, protocol):
    _, state_dict = r3gan
    few = {name: a for name, a in state_dict.items() if name[:2] == "D."}
    read = interop.read(write(dumps(nvidia(few)["D"], protocol)))
    assert_equal(read[2], few)


def test_networks_without_source_code_and_with_a_wrapper(r3gan, write):
    """As R3GAN's own training writes them: plain classes, a model within a model."""
    generator, _ = halves(r3gan[1])

    class Module:
        def __init__(self, state):
            self.__dict__.update(state)

    module = module_state(
        {f"Model.{name}": a for name, a in generator.items()}, make=lambda _, s: Module(s)
    )
    with official_files.pretended(training__networks__Generator=Module):
        read = interop.read(write(dumps({"G_ema": Module(module), "G": None, "D": None})))
    assert_equal(read[2], {f"G.{name}": a for name, a in generator.items()})


@pytest.mark.parametrize("save", [zip_archive, row_of_pickles], ids=["zip", "before zip"])
def test_state_dicts(r3gan, write, save):
    _, state_dict = r3gan
    tensors = {name: Tensor(array) for name, array in state_dict.items()}
    assert_equal(interop.read(write(save(tensors)))[2], state_dict)
    generator, discriminator = halves(tensors)
    assert_equal(interop.read(write(save({"G": generator, "D": discriminator})))[2], state_dict)
    # One file a network, as BigGAN-PyTorch writes them.
    alone = {f"module.{name}": tensor for name, tensor in discriminator.items()}
    expected = {name: a for name, a in state_dict.items() if name[:2] == "D."}
    assert_equal(interop.read(write(save(alone)))[2], expected)
    both = interop.read_file(write(save(generator)), discriminator=write(save(alone), "D.pth"))
    assert_equal(both.state_dict(), state_dict)


@pytest.mark.parametrize("name", NAMES)
def test_the_settings_of_every_architecture_are_read_off(name, write):
    if not (reference_vectors.DIRECTORY / f"{name}.npz").exists():
        pytest.skip(f"{name}.npz is not here")
    config, state_dict = reference_vectors.weights(name)
    attributes = {"D": {"b4.mbstd.group_size": 4}, "G": {"synthesis.b32.conv1.conv_clamp": None}}
    state_dict = {n: a.astype(np.float32) for n, a in state_dict.items()}
    architecture, found, read = interop.read(
        write(dumps(nvidia(state_dict, attributes if "style" in name else None)))
    )
    assert_equal(read, state_dict)
    ignored = {"source", "note", "tensor_layout", "seed", "sn", "c_embedding"}
    for field, value in config.items():
        if field not in ignored and not field.startswith(("seed_", "bn_", "sn_")):
            assert found[field] == value, field
    interop.import_state_dict(architecture, found, read)


def test_the_running_average_is_what_generates(r3gan, write):
    _, state_dict = r3gan
    networks = nvidia(state_dict)
    average = {name: 2 * a for name, a in next(halves(state_dict)).items()}
    for name in [n for n in average if n.endswith("Kernel")]:
        average[name] = average[name] / 2
    networks["G_ema"] = Persistent("G_ema", module_state(average))
    official = interop.read_file(write(dumps(networks)))
    name = "G.AggregationLayer.Layer.weight"
    np.testing.assert_array_equal(official.state_dict()[name], 2 * state_dict[name])
    np.testing.assert_array_equal(official.state_dict(ema=False)[name], state_dict[name])


class Evil:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


ATTACKS = {
    "a command": (Evil(os.system, "touch {file}"), "posix.system"),
    "an expression": (Evil(eval, "open('{file}', 'w')"), "builtins.eval"),
    "a file": (Evil(open, "{file}", "w"), "_?io.open"),
    "an attribute": (Evil(getattr, 1, "real"), "builtins.getattr"),
    "an import": (Evil(__import__, "antigravity"), "builtins.__import__"),
    "within a dict": ({"G": {"weight": [Evil(os.system, "touch {file}")]}}, "posix.system"),
    "within a call": (Evil(dict, Evil(os.system, "touch {file}")), "posix.system"),
    "a partial": (Evil(__import__("functools").partial, print, 1), "functools.partial"),
}


def with_file(value, file):
    """Fill in the file that a successful attack would make."""
    if isinstance(value, Evil):
        function, arguments = value.call
        return Evil(function, *(with_file(a, file) for a in arguments))
    if isinstance(value, dict):
        return {key: with_file(item, file) for key, item in value.items()}
    if isinstance(value, list):
        return [with_file(item, file) for item in value]
    return value.replace("{file}", str(file)) if isinstance(value, str) else value


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("attack", ATTACKS)
def test_what_asks_for_more_than_arrays_is_refused(attack, protocol, write, tmp_path):
    value, name = ATTACKS[attack]
    made = tmp_path / "made"
    data = pickle.dumps(with_file(value, made), protocol).replace(b"__builtin__", b"builtins")
    if protocol < 4:
        name = name.replace("builtins.", "(builtins|__builtin__).")
    with pytest.raises(InputError, match=f"cannot be read: it asks for .*{name}.*nothing in it"):
        interop.read(write(data))
    assert not made.exists()


@pytest.mark.parametrize("save", [zip_archive, row_of_pickles])
def test_within_a_container_as_well(save, write, tmp_path):
    made = tmp_path / "made"
    with pytest.raises(InputError, match=r"posix.system"):
        interop.read(write(save({"weight": with_file(ATTACKS["a command"][0], made)})))
    assert not made.exists()


def test_the_storage_within_a_pickle_is_read_as_strictly(write, r3gan):
    inner = pickle.dumps(official_files.MAGIC, 2) + pickle.dumps(official_files.PROTOCOL, 2)
    inner += pickle.dumps({"little_endian": True}, 2) + pickle.dumps(Evil(os.system, "true"), 2)

    class Hidden:
        def __reduce__(self):
            return official_files.FROM_BYTES, (inner,)

    with pytest.raises(InputError, match=r"posix.system"):
        interop.read(write(dumps({"G": {"weight": Hidden()}})))


def test_the_source_code_in_a_file_is_never_run(r3gan, write, tmp_path):
    made = tmp_path / "made"
    _, state_dict = r3gan
    networks = nvidia(state_dict)
    for network in networks.values():
        if isinstance(network, Persistent):
            network.meta["module_src"] = f"open({str(made)!r}, 'w')"
    interop.read(write(dumps(networks)))
    assert not made.exists()


def test_setting_attributes_of_what_the_reader_has_does_nothing(write):
    """The instruction BUILD gives an object a state; here nothing has any that matters."""
    before = dict(vars(interop.reader))
    data = (
        b"\x80\x02cdnnlib.util\nEasyDict\n}U\x06readerK\x01sb"  # a name's own attributes
        b"0ccollections\nOrderedDict\n)R}U\x06updateK\x01sb."
    )
    with pytest.raises(InputError, match="holds no network"):
        interop.read(write(data))
    assert dict(vars(interop.reader)) == before


HUGE = (1 << 62).to_bytes(8, "little")
BROKEN = {
    "nothing": b"",
    "text": b"this is no pickle, but a sentence.",
    "an unfinished pickle": b"\x80\x04]q\x00",
    "an empty stack": b"\x80\x02R.",
    "a mark that is not there": b"\x80\x02e.",
    "bytes without end": b"\x80\x04\x8e" + HUGE + b"abc.",
    "a text without end": b"\x80\x04\x8d" + HUGE + b"abc.",
    "a number without end": b"\x80\x02\x8b\xff\xff\xff\x7f1.",
    "a memo without end": b"\x80\x02Nr\xff\xff\xff\x7f.",
    "an extension": b"\x80\x02\x82\x01.",
    "bytes by number": pickle.dumps(Evil(bytearray, 1 << 60), 2),
    "an array of objects": pickle.dumps(np.array([None]), 2),
    "a zip of something else": b"PK\x03\x04" + bytes(100),
    "a picture": b"\x89PNG\r\n\x1a\n" + bytes(64),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_file_is_a_sentence(what, write):
    path = write(BROKEN[what])
    with pytest.raises(InputError, match=r"cannot be read|holds no network") as error:
        interop.read(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_a_sentence(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        interop.read(tmp_path / "none.pkl")
    with pytest.raises(InputError, match="cannot be read"):
        interop.read(tmp_path)


def formats(state_dict):
    few = {n: a for n, a in list(state_dict.items())[:4]}
    tensors = {name: Tensor(array) for name, array in few.items()}
    yield dumps({"D": Persistent("D", module_state({n[2:]: a for n, a in few.items()}))})
    yield zip_archive(tensors)
    yield row_of_pickles(tensors)


def test_damage_of_any_kind_is_a_sentence(r3gan, write):
    """A file that was cut short or changed is refused, or read as something else; never a crash."""
    dice = random.Random(0)
    sentences = []
    for data in formats(r3gan[1]):
        for trial in range(150):
            changed = bytearray(data)
            if trial % 3 == 0:
                del changed[dice.randrange(len(changed)) :]
            else:
                # Most of a file is numbers; the beginning and the end are what can break.
                for _ in range(3):
                    place = min(int(dice.expovariate(1 / 400)), len(changed) - 1)
                    place = place if dice.random() < 0.5 else len(changed) - 1 - place
                    changed[place] = dice.randrange(256)
            try:
                interop.read(write(bytes(changed)))
            except InputError as error:
                sentences.append(str(error))
    broken = [sentence for sentence in sentences if "cannot be read" in sentence]
    assert len(broken) > 200
    assert len(broken) < len(sentences)  # some changes only change a name or a number
    assert not any("\n" in sentence for sentence in sentences)


def tensor_pickle(shape, strides, offset):
    """Return a zip archive with one tensor over a storage of four numbers."""
    tensor = Tensor(np.zeros(4, np.float32))
    storage = tensor.storage

    class View:
        def __reduce__(self):
            return official_files.REBUILD, (storage, offset, shape, strides, False, {})

    return zip_archive({"AggregationLayer.Layer.weight": View()})


@pytest.mark.parametrize(
    ("shape", "strides", "offset"),
    [
        ((5,), (1,), 0),
        ((4,), (1,), 1),
        ((2, 2), (3, 1), 1),
        ((1 << 40,), (0,), 0),
        ((2, 2), (1 << 62, 1), 0),
        ((4,), (-1,), 3),
        ((4, 1), (1,), 0),
        ((0, 1 << 62), (1, 1), 0),
    ],
)
def test_a_tensor_stays_within_its_storage(shape, strides, offset, write):
    with pytest.raises(InputError):
        interop.read(write(tensor_pickle(shape, strides, offset)))


def test_a_compressed_archive_is_refused(write):
    data = zip_archive({"a": Tensor(np.zeros(10_000, np.float32))}, zipfile.ZIP_DEFLATED)
    with pytest.raises(InputError, match="is compressed"):
        interop.read(write(data))


def test_a_storage_that_claims_more_than_the_file_has(write):
    data = bytearray(row_of_pickles({"a": Tensor(np.zeros(4, np.float32))}))
    assert struct.pack("<q", 4) in data
    place = data.rindex(struct.pack("<q", 4))
    data[place : place + 8] = struct.pack("<q", 1 << 40)
    with pytest.raises(InputError, match="not of the size"):
        interop.read(write(bytes(data)))


def test_modules_within_each_other_end(write):
    state = {"_modules": {}, "_parameters": {}}
    module = Persistent("Loop", state)
    state["_modules"]["again"] = module
    # A pickle of a call cannot hold its own result, but its state can be set afterwards.
    file = io.BytesIO()
    file.write(b"\x80\x02}(U\x01Gctraining.networks\nGenerator\n)R}U\x08_modules}U\x05again")
    file.write(b"ctraining.networks\nGenerator\n)Rq\x01}U\x08_modules}U\x05againh\x01ssbssbu.")
    with pytest.raises(InputError, match="without end"):
        interop.read(write(file.getvalue()))


def test_other_networks_are_named(write):
    other = {"synthesis.input.freqs": np.zeros(3, np.float32)}
    with pytest.raises(InputError, match="StyleGAN3"):
        interop.read(write(dumps({"G_ema": Persistent("Generator", module_state(other))})))
    other = {"conv.weight": Tensor(np.zeros(3, np.float32))}
    with pytest.raises(InputError, match=r"first names are conv\.weight"):
        interop.read(write(zip_archive(other)))


def test_files_that_pytorch_itself_writes(r3gan, write, tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch writes the files of this test")
    _, state_dict = r3gan
    tensors = {name: torch.from_numpy(array.copy()) for name, array in state_dict.items()}
    path = tmp_path / "saved.pth"
    torch.save(tensors, path)
    assert_equal(interop.read(path)[2], state_dict)
    torch.save(tensors, path, _use_new_zipfile_serialization=False)
    assert_equal(interop.read(path)[2], state_dict)
    generator, discriminator = halves(tensors)
    parameters = {n: torch.nn.Parameter(t) for n, t in generator.items()}
    path.write_bytes(pickle.dumps({"G": parameters, "D": discriminator}))
    assert_equal(interop.read(path)[2], state_dict)
    # A transposed view, a half-precision tensor and one of two that share a storage.
    name = "AggregationLayer.Layer.weight"
    shared = torch.stack([generator[name], generator[name] * 2])
    generator[name] = shared[1].to(torch.bfloat16)
    other = "EmbeddingLayer.weight"
    generator[other] = generator[other].t().contiguous().t()
    torch.save(generator, path)
    read = interop.read(path)[2]
    expected = generator[name].float().numpy()
    np.testing.assert_array_equal(read[f"G.{name}"].astype(np.float32), expected)
    np.testing.assert_array_equal(read[f"G.{other}"], state_dict[f"G.{other}"])


def test_modules_that_pytorch_itself_writes(write):
    torch = pytest.importorskip("torch", reason="PyTorch writes the files of this test")
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4))
    content = interop.torch_files.open_file(write(pickle.dumps({"G": module})))
    tensors, attributes = interop.reader.flattened(content["G"])
    assert_equal(tensors, {name: t.numpy() for name, t in module.state_dict().items()})
    assert attributes["0.out_channels"] == 4
