"""Runs of text: training in phases, going on, writing, scores, and what is refused."""

import dataclasses
import io
import json

import jax
import numpy as np
import pytest
from tiny_runs import assert_same_bits, run_cli

import ganjax
from ganjax import build, build_text, config, measure, train
from ganjax.config import (
    Config,
    Data,
    Evaluation,
    LanguageModel,
    OptimizerSettings,
    Penalty,
    Text,
    TextGAN,
    Train,
)
from ganjax.data import TextForm
from ganjax.data.tokenizers import UNKNOWN, Symbols
from ganjax.generation import GREEDY, Sampling
from ganjax.networks.conv_text import ConvText
from ganjax.networks.gpt import GPT
from ganjax.networks.recurrent import LSTM
from ganjax.networks.text import LSTMPair, RelGAN, SeqGAN
from ganjax.trained_text import TrainedText
from ganjax.types import InputError

pytest_plugins = ["tiny_runs"]
pytestmark = pytest.mark.usefixtures("quick_compilation")

LINES = "".join(f"the {animal} {verb} .\n" for animal in ["cat", "dog", "cow"] for verb in
                ["sees", "hears", "eats", "runs"]) * 8  # fmt: skip
ADAM = OptimizerSettings(learning_rate=1e-2, beta1=0.9)
PAIR = LSTMPair(width=6, embedding_dim=4, discriminator_width=5, discriminator_embedding_dim=4)


@pytest.fixture(scope="module")
def lines_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "lines.txt"
    path.write_text(LINES)
    return path


def settings_of(source, model, lines=True, steps=6, **evaluation):
    text = Text(length=6, lines=lines, tokens="words" if lines else "characters")
    return Config(
        name="tiny",
        data=Data(source=str(source), held_out=12, text=text),
        model=model,
        train=Train(
            steps=steps,
            batch_size=8,
            log_every_steps=1,
            sample_every_steps=4,
            checkpoint_every_steps=2,
        ),
        evaluation=Evaluation(num_samples=16, **evaluation),
    )


GPT_MODEL = LanguageModel(GPT(num_layers=1, heads=2, width=8), optimizer=ADAM)
MODELS = {
    "gpt": GPT_MODEL,
    "gru": LanguageModel(LSTM("gru", 2, 6, 6, tied=True, dropout=0.1), ema_half_life_images=20.0),
    "gumbel": TextGAN(PAIR, pretrain=ADAM, pretrain_steps=2, ema_half_life_images=20.0),
    "straight_through": TextGAN(
        RelGAN(head_dim=3, embedding_dim=4, representations=2, discriminator_embedding_dim=4,
               filters=((2, 3),), hidden=3),
        estimator="straight_through", loss="relativistic", discriminator_steps=2,
        pretrain=ADAM, pretrain_steps=2, final_inverse_temperature=10.0,
    ),
    "policy_gradient": TextGAN(
        SeqGAN(4, 4, discriminator_embedding_dim=4, filters=((1, 2), (2, 2), (9, 2))),
        estimator="policy_gradient", discriminator_steps=2, pretrain=ADAM, pretrain_steps=2,
        discriminator_pretrain_steps=1, num_rollouts=2,
    ),
    "wgan_gp": TextGAN(
        ConvText(4, 4, 1), loss="wasserstein", penalties={"gradient_penalty": Penalty(10.0)}
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def runs(lines_file, tmp_path_factory, quick_compilation):
    """Return what trains a model once and gives its result."""
    folder, known = tmp_path_factory.mktemp("runs"), {}

    def trained(name):
        if name not in known:
            settings = settings_of(lines_file, MODELS[name])
            known[name] = train.train(settings, str(folder / name))
        return known[name]

    return trained


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_every_model_trains_writes_and_is_scored(name, runs):
    result = runs(name)
    run = result.run
    assert len(run.read_metrics()) >= 6
    text = (run.path / "samples" / "0000006.txt").read_text()
    words = set(LINES.split())
    assert len(text.splitlines()) == 64
    assert set(text.split()) <= words
    if name != "wgan_gp":
        # Fifteen tokens: less than that has been learnt.
        assert 1.0 < result.figures["perplexity"].value < 15.0
        assert str(result.figures["perplexity"]).startswith("perplexity (12 vs held out")
    assert {"bleu_2", "bleu_5", "self_bleu_2"} <= result.figures.keys()
    assert result.step == 6
    assert 0.0 <= result.figures["bleu_2"].value <= 1.0


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_loaded_run_writes(name, runs):
    trained = ganjax.load(str(runs(name).run))
    assert trained.step == 6
    texts = trained.write(num=3, key=jax.random.key(1))
    assert len(texts) == 3
    assert set(" ".join(texts).split()) <= set(LINES.split())
    if name == "wgan_gp":
        with pytest.raises(InputError, match="leave the prompt out"):
            trained.write("the", key=jax.random.key(0))
        with pytest.raises(InputError, match="has no likelihood"):
            trained.log_likelihood("the cat")
        return
    begun = trained.write("the dog", num=2, key=jax.random.key(1))
    assert all(text.startswith("the dog") for text in begun)
    one = trained.write("the", key=jax.random.key(1), sampling=GREEDY)
    pieces = list(trained.stream("the", key=jax.random.key(1), sampling=GREEDY))
    assert "".join(pieces) == one[0]
    assert trained.log_likelihood("the cat sees .") < 0
    with pytest.raises(InputError, match=r"'tiger' .* is not among the"):
        trained.write("the tiger", key=jax.random.key(0))
    with pytest.raises(InputError, match="shorten it"):
        trained.write("the cat the cat the cat", key=jax.random.key(0))


@pytest.mark.parametrize(
    ("name", "stop"),
    [
        pytest.param("policy_gradient", 2, marks=pytest.mark.slow),
        pytest.param("policy_gradient", 4, marks=pytest.mark.slow),
        pytest.param("gumbel", 2, marks=pytest.mark.slow),
        pytest.param("straight_through", 4, marks=pytest.mark.slow),
    ],
)
def test_a_run_goes_on_exactly_where_it_was(name, stop, runs, lines_file, tmp_path, monkeypatch):
    class StopError(Exception):
        pass

    def stop_after(self, step, state):
        original(self, step, state)
        if step == stop:
            self.checkpoints.wait()
            raise StopError

    original = train._Training._save
    directory = str(tmp_path / "parts")
    with monkeypatch.context() as patch:
        patch.setattr(train._Training, "_save", stop_after)
        with pytest.raises(StopError):
            train.train(settings_of(lines_file, MODELS[name]), directory)
    # What is there can be used, of whichever phase it is.
    assert ganjax.load(directory).step == stop
    assert_same_bits(train.resume(directory).state, runs(name).state)


@pytest.fixture(scope="module")
def novel(lines_file, tmp_path_factory, quick_compilation):
    """A run on the letters of a running text."""
    directory = str(tmp_path_factory.mktemp("runs") / "novel")
    settings = settings_of(lines_file, GPT_MODEL, lines=False, every_steps=2)
    return train.train(settings, directory)


def test_letters_of_a_running_text(novel):
    assert novel.figures.keys() == {"cross_entropy", "perplexity", "bits_per_character"}
    nats = novel.figures["cross_entropy"].value
    assert novel.figures["bits_per_character"].value == pytest.approx(nats / np.log(2), rel=1e-6)
    assert novel.figures["perplexity"].value == pytest.approx(np.exp(nats), rel=1e-6)
    assert [entry["step"] for entry in novel.run.evaluations()] == [2, 4, 6]
    trained = ganjax.load(str(novel.run))
    # Beyond the six letters that it sees.
    (text,) = trained.write("the cat", key=jax.random.key(0), max_new_tokens=50)
    assert len(text) == 57
    assert text.startswith("the cat")
    pieces = list(trained.stream("the cat", key=jax.random.key(0), max_new_tokens=50))
    assert len(pieces) > 2
    assert "".join(pieces) == text


def test_the_command_that_writes(novel, tmp_path, capsys):
    run = novel.run
    arguments = ["--prompt", "the ", "--tokens", 20, "--top-p", 0.9, "--temperature", 0.8]
    assert run_cli("sample", run, *arguments, "--num", 2) == 0
    shown = capsys.readouterr().out
    first, second = shown.split("-" * 40 + "\n")
    assert first.startswith("the ")
    assert len(first) == 24 + 1
    assert first != second
    out = tmp_path / "texts.txt"
    assert run_cli("sample", run, *arguments, "--num", 3, "--out", out) == 0
    assert out.read_text().count("-" * 40) == 2


def test_beams_are_the_likeliest_continuations(novel, capsys):
    trained = ganjax.load(str(novel.run))
    found = trained.beam_search("", 3, 2, max_new_tokens=5)
    for text, score in found:
        assert score == pytest.approx(trained.log_likelihood(text) / 5, rel=1e-4)
    (greedy,) = trained.write("", key=jax.random.key(0), max_new_tokens=5, sampling=GREEDY)
    assert trained.log_likelihood(found[0][0]) >= trained.log_likelihood(greedy) - 1e-4
    arguments = ["--tokens", 5, "--num-beams", 3, "--num", 2]
    assert run_cli("sample", novel.run, *arguments) == 0
    shown = "".join(f"{text}\n({score:.4f} nats a token)\n" for text, score in found)
    assert capsys.readouterr().out == shown
    assert run_cli("sample", novel.run, *arguments, "--top-p", 0.5) == 2
    assert "--num-beams chooses none" in capsys.readouterr().err


def test_what_a_terminal_cannot_show_is_replaced(novel, monkeypatch):
    def stream(self, prompt, **settings):
        yield "naïve "
        yield "☕"

    monkeypatch.setattr(TrainedText, "stream", stream)
    screen = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", screen)
    assert run_cli("sample", novel.run) == 0
    screen.flush()
    assert screen.buffer.getvalue() == b"na?ve ?\n"


def test_texts_that_are_not_there(novel):
    trained = ganjax.load(str(novel.run))
    with pytest.raises(InputError, match="the text is empty: give it one symbol or more"):
        trained.log_likelihood("")
    assert trained.log_likelihood("t") < 0
    with pytest.raises(InputError, match="the number of texts has to be 1 or more, got 0"):
        trained.write("the", num=0, key=jax.random.key(0))


@pytest.mark.parametrize(
    ("words", "prompt", "shown"), [(True, "the  tiger", "the tiger"), (False, "t☕", "t☕")]
)
def test_a_prompt_is_shown_as_it_was_typed(words, prompt, shown):
    # The rarest are unknown.
    # Two tokens of six in either: one program serves both.
    symbols = (UNKNOWN, "the", "cat") if words else (UNKNOWN, "t", "c")
    form = TextForm(6, 9, False, 1, 2, 0, Symbols(symbols, words, 3))
    settings = Config(model=GPT_MODEL)
    model = build_text.build_model(settings, form, 0)
    state = jax.jit(model.algorithm.init)(jax.random.key(0))
    trained = TrainedText(settings, model, 0, (), state)
    asked = {"key": jax.random.key(0), "max_new_tokens": 4, "sampling": GREEDY}
    (text,) = trained.write(prompt, **asked)
    assert text.startswith(shown)
    assert "".join(trained.stream(prompt, **asked)) == text


@pytest.fixture(scope="module")
def classes(tmp_path_factory, quick_compilation):
    """Return a run of lines of two classes, which share no word."""
    folder = tmp_path_factory.mktemp("classes")
    (folder / "animals.txt").write_text("the cat sees .\nthe dog sees .\n" * 40)
    (folder / "things.txt").write_text("a stone falls\na lamp falls\n" * 40)
    network = LSTM("gru", 1, 8, 8)
    settings = settings_of(folder, LanguageModel(network, True, ADAM), steps=200)
    often = dataclasses.replace(settings.train, log_every_steps=40, checkpoint_every_steps=200)
    return train.train(dataclasses.replace(settings, train=often), str(folder / "run"))


WORDS = {"animals": {"the", "cat", "dog", "sees", "."}, "things": {"a", "stone", "lamp", "falls"}}


def test_texts_of_a_class(classes):
    trained = ganjax.load(str(classes.run))
    assert trained.class_names == ("animals", "things")
    key, usual = jax.random.key(0), {"sampling": Sampling(top_p=0.9)}
    for labels, names in (
        (None, ["animals", "things"]),
        (["things"], ["things"]),
        ([1, 1, 0], ["things", "things", "animals"]),
    ):
        for index, text in enumerate(trained.write(num=12, key=key, labels=labels, **usual)):
            assert set(text.split()) <= WORDS[names[index % len(names)]]
    assert "".join(trained.stream(key=key, label="things", **usual)).split()[0] == "a"
    ((text, _),) = trained.beam_search(label=1)
    assert text.split()[0] == "a"
    # A class that tells half of all choices: far more than one of two.
    right, wrong = (trained.log_likelihood("a lamp falls", label=n) for n in ("things", "animals"))
    assert right - wrong > 3
    with pytest.raises(InputError, match="judges a text as one of a class: give a label"):
        trained.log_likelihood("a lamp falls")
    with pytest.raises(InputError, match=r"between 0 and 1, or be a name: animals, things; got 2"):
        trained.write(key=key, labels=[2])
    # log(2) / 4 of one that knows the class.
    assert classes.figures["cross_entropy"].value < 0.4


@pytest.mark.slow
def test_commands_know_classes(classes, capsys, tmp_path):
    text = (classes.run.path / "samples" / "0000200.txt").read_text()
    assert [line.split("\t")[0] for line in text.splitlines()] == ["animals", "things"] * 32
    assert run_cli("sample", classes.run, "--num", 3, "--top-p", 0.9) == 0
    lines = capsys.readouterr().out.splitlines()[::2]
    assert [line.partition("\t")[0] for line in lines] == ["animals", "things", "animals"]
    for line in lines:
        name, _, words = line.partition("\t")
        assert set(words.split()) <= WORDS[name]
    path = tmp_path / "a.txt"
    given = ["--labels", "things,0", "--top-p", 0.9, "--out", path]
    assert run_cli("sample", classes.run, *given) == 0
    assert [line[:8] for line in path.read_text().splitlines()] == ["things\ta", "animals\t"]
    assert run_cli("sample", classes.run, "--labels", "things", "--num-beams", 2) == 0
    # More than are written at a time.
    assert run_cli("evaluate", classes.run, "--num-samples", 510, "--metrics", "distinct") == 0
    capsys.readouterr()
    for given in ([], ["--labels", "0,1"]):
        assert run_cli("sample", classes.run, *given, "--num-beams", 2) == 2
        assert "searches within one class: give --labels one" in capsys.readouterr().err
    assert run_cli("sample", classes.run, "--labels", "trees") == 2
    assert "or be a name: animals, things; got 'trees'" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gumbel", "straight_through", "policy_gradient"])
def test_games_of_classes(name, classes, tmp_path):
    folder = classes.run.path.parent
    model = dataclasses.replace(MODELS[name], conditional=True)
    settings = settings_of(folder, model)
    result = train.train(settings, str(tmp_path / "run"))
    players = result.state.players
    assert "condition" in players["generator"].params
    assert any("LabelEmbedding" in part for part in players["discriminator"].params)
    assert {"bleu_2", "perplexity"} <= result.figures.keys()
    trained = ganjax.load(str(tmp_path / "run"))
    assert len(trained.write(num=3, key=jax.random.key(0), labels=["things"])) == 3


def test_a_network_without_classes(classes):
    model = dataclasses.replace(MODELS["wgan_gp"], conditional=True)
    with pytest.raises(InputError, match="ConvText takes no classes: set"):
        build.build(settings_of(classes.run.path.parent, model))


def test_classes_that_have_changed_are_not_scored(classes, capsys):
    path = classes.run.path.parent / "animals.txt"
    other = path.rename(path.with_name("x.txt"))
    assert run_cli("evaluate", classes.run) == 2
    other.rename(path)
    assert "its names of classes is not that of the run" in capsys.readouterr().err


def test_the_name_of_a_class_is_shown_as_far_as_a_terminal_can(classes, monkeypatch):
    trained = ganjax.load(str(classes.run))
    named = dataclasses.replace(trained, class_names=("1", "café"))
    monkeypatch.setattr("ganjax.trained.load", lambda run, step: named)
    screen = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", screen)
    # What is a name and another class's number is the name.
    assert run_cli("sample", classes.run, "--labels", "1,café", "--num", 2) == 0
    screen.flush()
    lines = screen.buffer.getvalue().splitlines()[::2]
    assert [line.partition(b"\t")[0] for line in lines] == [b"1", b"caf?"]


@pytest.mark.slow
def test_the_command_that_scores(runs, capsys, lines_file):
    run = runs("gpt").run
    chosen = ["perplexity", "distinct", "bleu", "self_bleu"]
    given = ["--num-samples", 20, "--temperature", 0.5, "--reference", lines_file]
    assert run_cli("evaluate", run, "--metrics", *chosen, *given) == 0
    shown = capsys.readouterr().out
    for name in ("perplexity (12 vs held out", "distinct-2 (20", "self-BLEU-3 (20"):
        assert f"{name}, temperature 0.5)" in shown
    assert f"BLEU-2(20 vs {lines_file}, temperature 0.5)" in shown
    latest = run.evaluations()[-1]["figures"]
    assert latest["bleu_2"]["settings"] == {"temperature": 0.5}
    assert run_cli("info", run) == 0
    assert "sequences seen" in capsys.readouterr().out


@pytest.mark.slow
def test_greedy_samples_of_a_figure_are_all_alike(runs):
    figures, _ = measure.evaluate(
        str(runs("gpt").run), metrics=("self_bleu",), num_samples=8, sampling=Sampling(0.0)
    )
    assert figures["self_bleu_2"].value == pytest.approx(1.0)
    # What is not the likeliest has no chance at all: there is no perplexity to speak of.
    with pytest.raises(InputError, match="temperature above 0"):
        measure.evaluate(str(runs("gpt").run), metrics=("perplexity",), sampling=Sampling(0.0))
    figures, _ = measure.evaluate(str(runs("gpt").run), num_samples=8, sampling=Sampling(0.0))
    assert figures.keys() == {f"{name}bleu_{n}" for name in ("", "self_") for n in (2, 3, 4, 5)}


@pytest.mark.slow
def test_bits_per_character_need_characters(lines_file, tmp_path, quick_compilation):
    settings = settings_of(lines_file, GPT_MODEL, steps=2)
    text = dataclasses.replace(settings.data.text, vocab_size=4)
    settings = dataclasses.replace(settings, data=dataclasses.replace(settings.data, text=text))
    result = train.train(settings, str(tmp_path / "run"))
    assert "perplexity" in result.figures
    assert "bits_per_character" not in result.figures


@pytest.mark.slow
def test_a_run_of_an_oracle(tmp_path, quick_compilation):
    settings = settings_of("oracle", LanguageModel(SeqGAN(4, 4), optimizer=ADAM), steps=2)
    result = train.train(settings, str(tmp_path / "run"))
    assert set(result.figures) == {"cross_entropy", "perplexity", "nll_oracle", "nll_generator"}
    figures = result.figures
    assert figures["nll_generator"].value == figures["cross_entropy"].value
    assert "oracle 0, length 6" in str(result.figures["nll_oracle"])
    assert 7.0 < result.figures["nll_oracle"].value < 20.0  # log(5000) is 8.5
    trained = ganjax.load(str(result.run))
    assert all(part.isdigit() for part in trained.write(key=jax.random.key(0))[0].split())
    with pytest.raises(InputError, match="takes no text"):
        trained.write("1 2", key=jax.random.key(0))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gumbel", "policy_gradient"])
def test_a_game_may_begin_with_a_language_model(name, lines_file, tmp_path):
    model = MODELS[name]
    alone = settings_of(lines_file, LanguageModel(model.network, optimizer=ADAM), steps=2)
    first = train.train(alone, str(tmp_path / "first")).state
    settings = settings_of(lines_file, dataclasses.replace(model, pretrain_steps=0))
    there = dataclasses.replace(settings.train, init_from=str(tmp_path / "first"))
    experiment = build.build(dataclasses.replace(settings, train=there))
    phase = experiment.phases[0]
    state = phase.transfer(jax.jit(phase.algorithm.init)(jax.random.key(5)), None)
    known = first.players["generator"].params
    jax.tree.map(np.testing.assert_array_equal, state.players["generator"].params, known)
    copies = [average["params"] for average in state.ema.values()]
    copies += [state.running["rollout"]] if "rollout" in state.running else []
    assert copies
    for copy in copies:
        jax.tree.map(np.testing.assert_array_equal, copy, known)


def test_the_vocabulary_is_kept_with_the_run(runs):
    record = json.loads((runs("gpt").run.path / "config.json").read_text())
    assert record["data"]["text"]["tokenizer"]["symbols"] == sorted(set(LINES.split()))
    assert record["data"]["shape"] == [6, 3 + len(set(LINES.split()))]


@pytest.mark.parametrize(
    ("command", "arguments", "words"),
    [
        ("sample", ["--truncation", "0.5"], "--truncation is for images"),
        ("sample", ["--top-p", "1.5"], "top_p has to lie above 0"),
        ("sample", ["--out", "texts.png"], "--out texts.png ends in .png"),
        ("interpolate", [], "writes text: this is for models of images"),
        ("export", ["--out", "x.stablehlo"], "writes text: this is for models of images"),
        ("neighbors", [], "writes text: this is for models of images"),
        ("evaluate", ["--extractor", "pixels"], "--extractor is for images"),
        ("evaluate", ["--metrics", "frechet_distance"], "evaluation.metrics has to be one of"),
        ("evaluate", ["--metrics", "nll_oracle"], "nll_oracle needs the data source oracle"),
    ],
)
def test_what_a_run_of_text_refuses(command, arguments, words, runs, capsys):
    assert run_cli(command, runs("gpt").run, *arguments) == 2
    assert words in capsys.readouterr().err


def changed(settings, **fields):
    return dataclasses.replace(settings, model=dataclasses.replace(settings.model, **fields))


@pytest.mark.parametrize(
    ("name", "fields", "words"),
    [
        ("gumbel", {"pretrain_steps": 6}, "train.steps 6 has to be more than the 6"),
        ("gumbel", {"estimator": "reinforce"}, "model.estimator has to be one of"),
        ("gumbel", {"discriminator_pretrain_steps": 1}, "is for policy_gradient"),
        ("policy_gradient", {"ema_half_life_images": 9.0}, "do not go with policy_gradient"),
        ("wgan_gp", {"pretrain_steps": 2}, "is no language model"),
        ("wgan_gp", {"estimator": "policy_gradient", "penalties": {}}, "is no language model"),
        ("gumbel", {"network": GPT()}, "GPT has no discriminator"),
        ("gpt", {"network": ConvText()}, "ConvText is no language model"),
        ("gpt", {"conditional": True}, "lines.txt is one text, expected two classes or more"),
        ("gumbel", {"conditional": True}, "lines.txt is one text, expected two classes or more"),
        ("gpt", {"network": GPT(context=3)}, "context is 3, but the sequences have 6"),
        ("gpt", {"network": GPT(width=9)}, "does not divide into 4 heads"),
        ("gru", {"network": LSTM("rnn")}, "model.network.cell has to be one of"),
        ("gumbel", {"inverse_temperature": 0.0}, "inverse_temperature has to be positive"),
        ("gpt", {"network": GPT(dropout=1.5)}, "dropout has to be 0 or more and below 1, got 1.5"),
        ("gpt", {"network": GPT(dropout=1)}, "model.network.dropout has to be 0 or more and below"),
        ("gru", {"network": LSTM(dropout=-0.1)}, "model.network.dropout has to be .*, got -0.1"),
        ("policy_gradient", {"network": SeqGAN(dropout=1.0)}, "model.network.dropout has to be"),
    ],
)
def test_models_that_cannot_be_built(name, fields, words, lines_file):
    settings = changed(settings_of(lines_file, MODELS[name]), **fields)

    def start():
        jax.eval_shape(build.build(settings).model.algorithm.init, jax.random.key(0))

    with pytest.raises(InputError, match=words):
        start()


def test_a_game_needs_sequences_that_begin(lines_file):
    with pytest.raises(InputError, match=r"set data\.text\.lines"):
        build.build(settings_of(lines_file, MODELS["gumbel"], lines=False))


def test_configurations_of_text_come_back_from_json():
    for model in MODELS.values():
        settings = Config(model=model, data=Data(source="oracle", text=Text(lines=True)))
        assert config.from_json(json.loads(json.dumps(config.to_json(settings)))) == settings
