"""Configurations: through JSON and back, and a sentence for whatever cannot be meant."""

import dataclasses
import json

import pytest

from ganjax import checks, config, plain
from ganjax.config import GAN, VAE, Config, Data, OptimizerSettings, Penalty, Train
from ganjax.networks.dcgan import DCGAN
from ganjax.networks.mlp import MLP
from ganjax.types import InputError

EXAMPLES = {
    "plain": Config(model=GAN()),
    "mlp": Config(
        model=GAN(
            network=MLP(generator_hidden=(3,), discriminator_hidden=()),
            penalties={"r1": Penalty(2.0, 16), "r2": Penalty()},
            generator=OptimizerSettings(name="sgd", clip_norm=1.0, warmup_steps=3),
        ),
        data=Data(image_size=(3, 4), channels=1),
        train=Train(init_from="there", platform="cpu"),
    ),
    "vae": Config(model=VAE(likelihood="gaussian", ema_half_life_images=10.0)),
}
SHIPPED = sorted(config.shipped())


def through_json(settings):
    return config.from_json(json.loads(json.dumps(config.to_json(settings))))


@pytest.mark.parametrize("name", EXAMPLES)
def test_through_json_and_back(name):
    assert through_json(EXAMPLES[name]) == EXAMPLES[name]


@pytest.mark.parametrize("network", config.NETWORKS)
@pytest.mark.parametrize("model", config.MODELS)
def test_every_model_and_network_goes_through_json(model, network):
    settings = Config(model=config.MODELS[model](network=config.NETWORKS[network]()))
    assert through_json(settings) == settings


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_ones_load_and_go_through_json(name):
    settings = config.load_file(name)
    assert settings.name == name
    assert through_json(settings) == settings
    checks.check(settings)


def test_quickstart_is_shipped():
    assert "quickstart" in SHIPPED


def edited(path, value):
    tree = json.loads(json.dumps(config.to_json(EXAMPLES["mlp"])))
    *parents, last = path.split(".")
    place = tree
    for name in parents:
        place = place[name]
    place[last] = value
    return tree


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("train.setps", 1, "there is no field 'train.setps'; did you mean 'train.steps'?"),
        ("trian", {}, "there is no field 'trian'; did you mean 'train'?"),
        (
            "model.network.latent_dims",
            3,
            "there is no field 'model.network.latent_dims'; did you mean "
            "'model.network.latent_dim'?",
        ),
        (
            "model.penalties.r1.wieght",
            3.0,
            "there is no field 'model.penalties.r1.wieght'; did you mean "
            "'model.penalties.r1.weight'?",
        ),
        ("qqqq", 1, "there is no field 'qqqq', see --help for those there are"),
        ("train.steps", 1.5, "train.steps is 1.5, expected int"),
        ("train.steps", True, "train.steps is True, expected int"),
        ("train.steps", None, "train.steps is None, expected int"),
        ("train.steps", "9", "train.steps is '9', expected int"),
        ("data.source", 3, "data.source is 3, expected str"),
        ("model.share_fakes", 1, "model.share_fakes is 1, expected bool"),
        ("model.ema_half_life_images", "x", "model.ema_half_life_images is 'x', expected float"),
        ("data.image_size", [1], "data.image_size is [1], expected (int, int)"),
        ("data.image_size", [1, "2"], "data.image_size is '2', expected int"),
        (
            "model.network.generator_hidden",
            3,
            "model.network.generator_hidden is 3, expected (int, ...)",
        ),
        ("model.penalties", [], "model.penalties is [], expected a mapping"),
        ("train", 3, "train is 3, expected a mapping"),
        ("model", 3, "model is 3, expected a mapping with a type: gan, vae"),
        (
            "model.type",
            "gam",
            "expected gan or vae or language_model or text_gan; did you mean gan?",
        ),
        ("model.network.type", "dcgna", "did you mean dcgan?"),
    ],
)
def test_what_does_not_fit_has_its_sentence(path, value, sentence):
    with pytest.raises(InputError) as info:
        config.from_json(edited(path, value))
    assert sentence in str(info.value)
    assert "\n" not in str(info.value)


def test_no_mapping_and_no_model():
    with pytest.raises(InputError, match="the configuration is 3, expected a mapping"):
        config.from_json(3)
    with pytest.raises(InputError, match=r"^the field 'model' is missing$"):
        config.from_json({"name": "x"})


def test_whole_numbers_are_numbers():
    settings = config.from_json(edited("model.ema_half_life_images", 3))
    assert isinstance(settings.model.ema_half_life_images, float)


def changed(**changes):
    """Return the example with fields set, `train__steps=3` for train.steps."""
    settings = EXAMPLES["mlp"]
    for path, value in changes.items():
        *parents, last = path.split("__")
        places = [settings]
        for name in parents:
            places.append(getattr(places[-1], name))
        for name, place in zip([last, *reversed(parents)], reversed(places), strict=True):
            value = dataclasses.replace(place, **{name: value})
        settings = value
    return settings


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"train__steps": 0}, "train.steps has to be 1 or more, got 0"),
        ({"train__batch_size": 0}, "train.batch_size has to be 1 or more, got 0"),
        ({"train__micro_batches": -1}, "train.micro_batches has to be 1 or more, got -1"),
        ({"train__log_every_steps": 0}, "train.log_every_steps has to be 1 or more, got 0"),
        ({"train__sample_every_steps": 0}, "train.sample_every_steps has to be 1 or more"),
        ({"train__checkpoint_every_steps": 0}, "train.checkpoint_every_steps has to be 1 or more"),
        ({"train__keep_last": 0}, "train.keep_last has to be 1 or more, got 0"),
        ({"train__keep_best": -1}, "train.keep_best has to be 0 or more, got -1"),
        ({"train__seed": -1}, "train.seed has to be 0 or more, got -1"),
        ({"evaluation__num_samples": 0}, "evaluation.num_samples has to be 2 or more, got 0"),
        ({"evaluation__metrics": ("fid",)}, "evaluation.metrics has to be one of frechet_distance"),
        ({"evaluation__best_metric": "fid"}, "evaluation.best_metric has to be one of"),
        (
            {"evaluation__best_metric": "recall", "evaluation__metrics": ("kernel_distance",)},
            "evaluation.best_metric is recall, which none of evaluation.metrics gives",
        ),
        ({"evaluation__every_steps": 0}, "evaluation.every_steps has to be 1 or more, or None"),
        (
            {"train__batch_size": 6, "train__micro_batches": 4},
            "train.batch_size 6 does not divide into 4 micro-batches",
        ),
        (
            {"data__resize": "crob"},
            "data.resize is 'crob', expected crop or stretch or pad; did you mean crop?",
        ),
        ({"data__memory": "disk"}, "data.memory is 'disk', expected auto or device or stream"),
        ({"train__precision": "float16"}, "train.precision is 'float16', expected float32 or"),
        ({"train__layout": "pmap"}, "train.layout is 'pmap', expected jit or shard_map"),
        (
            {"model__generator__name": "adamw"},
            "model.generator.name is 'adamw', expected adam or rmsprop or sgd; did you mean adam?",
        ),
        (
            {"model__discriminator__schedule": "linaer"},
            "model.discriminator.schedule is 'linaer', expected constant or linear or cosine; did "
            "you mean linear?",
        ),
        (
            {"model__generator__learning_rate": 0.0},
            "model.generator.learning_rate has to be positive, got 0.0",
        ),
        (
            {"model__discriminator__learning_rate": float("nan")},
            "model.discriminator.learning_rate is nan, expected a finite number",
        ),
    ],
)
def test_check(changes, sentence):
    with pytest.raises(InputError) as info:
        checks.check(changed(**changes))
    assert sentence in str(info.value)


def test_check_knows_the_optimizer_of_a_vae():
    settings = Config(model=VAE(optimizer=OptimizerSettings(learning_rate=-1.0)))
    with pytest.raises(InputError, match=r"model.optimizer.learning_rate has to be positive"):
        checks.check(settings)


def test_examples_pass_the_check():
    for settings in EXAMPLES.values():
        checks.check(settings)


def test_field_names():
    names = plain.field_names(EXAMPLES["mlp"])
    assert {
        "name",
        "data.source",
        "model.network.generator_hidden",
        "model.penalties.r1.weight",
        "model.generator.learning_rate",
        "evaluation.ema",
    } <= set(names)
    assert len(names) == len(set(names))


def test_the_nearest_field_is_found_by_its_last_part():
    names = plain.field_names(EXAMPLES["mlp"])
    assert "did you mean 'train.batch_size'?" in plain.unknown_field("batch_size", names)
    assert "did you mean" not in plain.unknown_field("zzz.zzz", names)


def write(path, text):
    path.write_text(text)
    return path


GOOD = "from ganjax.config import GAN, Config\ndef get_config():\n    return Config(model=GAN())\n"


def test_load_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "mine.py", GOOD)
    assert config.load_file(str(path)) == config.load_file("mine.py") == Config(model=GAN())
    # One's own file comes before a shipped one of that name.
    write(tmp_path / "quickstart.py", GOOD)
    assert config.load_file("quickstart.py") == Config(model=GAN())


@pytest.mark.parametrize("name", ["quickstart", "quickstart.py", "configs/quickstart.py"])
def test_shipped_by_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert config.load_file(name).name == "quickstart"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("quickstrat", "there is no configuration 'quickstrat'; did you mean quickstart?"),
        ("zzz", "there is no configuration 'zzz'; shipped ones: "),
        ("/quickstart.py", "there is no configuration '/quickstart.py'"),
        ("other/quickstart.py", "there is no configuration 'other/quickstart.py'"),
        ("a.json", "a.json is no Python file; a configuration defines get_config()"),
        ("empty.py", "empty.py does not define get_config() -> ganjax.config.Config"),
        ("wrong.py", "get_config() of wrong.py returned DCGAN, not a Config"),
    ],
)
def test_load_file_has_sentences(name, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.json", "{}")
    write(tmp_path / "empty.py", "")
    write(
        tmp_path / "wrong.py",
        "from ganjax.networks.dcgan import DCGAN as get_config\n",
    )
    with pytest.raises(InputError) as info:
        config.load_file(name)
    assert sentence in str(info.value)


def test_configurations_are_hashable_parts():
    assert hash(DCGAN()) == hash(DCGAN())
    assert dataclasses.is_dataclass(Config)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"penalties": {"r1": config.Penalty(weight=0.0, final_weight=1.0)}},
            "model.penalties.r1 goes from weight 0.0",
        ),
        ({"ema_burn_in": True}, "model.ema_burn_in needs model.ema_half_life_images"),
        ({"burn_in_steps": 0}, "model.burn_in_steps has to be 1 or more, or None; got 0"),
        ({"ema_start_steps": -1}, "model.ema_start_steps has to be 0 or more, got -1"),
        (
            {"generator": config.OptimizerSettings(schedule_steps=0)},
            "model.generator.schedule_steps has to be 1 or more",
        ),
    ],
)
def test_schedules_are_checked(changes, sentence):
    with pytest.raises(InputError, match=sentence):
        checks.check(config.Config(model=config.GAN(**changes)))
