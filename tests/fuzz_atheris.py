"""Coverage-guided fuzzing of the parsers of bytes, with atheris (`pip install atheris`).

    python tests/fuzz_atheris.py PARSER [-max_total_time=60] [-rss_limit_mb=2048] [CORPUS ...]

PARSER is one of those in `parsers`. It ends with the first input that gives anything but a result
or a sentence, and writes it to a file; the options are libFuzzer's. Not run by pytest.
"""

import contextlib
import json
import os
import sys
import tempfile
import warnings
from pathlib import Path

INSTRUMENTED = ["ganjax.files", "ganjax.data", "ganjax.interop", "ganjax.plain", "ganjax.config"]
INSTRUMENTED += ["pickletools", "numpy.lib", "zipfile", "gzip", "safetensors"]
# In memory where the system has such a place.
ROOM = "/dev/shm" if Path("/dev/shm").is_dir() else None
FOLDER = Path(tempfile.mkdtemp(dir=ROOM))


def in_file(name, reader):
    def parse(content):
        path = FOLDER / name
        path.write_bytes(content)
        reader(path)

    return parse


def parsers():
    """Return name -> (parser, name in READERS whose good files it begins with)."""
    from ganjax import config
    from ganjax.data import load
    from ganjax.data.tokenizers import from_json
    from ganjax.files import parse_json
    from ganjax.interop.export import load_weights
    from ganjax.interop.reader import read
    from ganjax.types import InputError

    def configuration(content):
        value = parse_json(content, "config.json")
        value = value if isinstance(value, dict) else {"config": value}
        with contextlib.suppress(InputError):
            from_json(value)
        config.from_json(value.get("config"))

    def safetensors(content):
        (FOLDER / "config.json").write_text("{}")
        (FOLDER / "generator.safetensors").write_bytes(content)
        load_weights(FOLDER)

    def data(path):
        load(str(path), held_out=0)

    return {
        "pickle": (in_file("a.pkl", read), "pickle"),
        "torch": (in_file("a.pth", read), "torch_zip"),
        "npy": (in_file("a.npy", data), "npy"),
        "npz": (in_file("a.npz", data), "npz"),
        "idx": (in_file("a-idx3-ubyte", data), "idx"),
        "configuration": (configuration, "configuration"),
        "safetensors": (safetensors, "export"),
    }


def main(name, *options):
    import atheris

    with atheris.instrument_imports(include=INSTRUMENTED):
        from fuzz_readers import READERS

        from ganjax.types import InputError

        parser, seeds = parsers()[name]

    def one(content):
        try:
            parser(content)
        except InputError as error:
            if "\n" in str(error):
                raise AssertionError(f"no good sentence: {error}") from error

    corpus = Path(tempfile.mkdtemp(dir=ROOM))
    contents = [content for files in READERS[seeds].seeds() for content in files.values()]
    for number, content in enumerate(contents):
        (corpus / str(number)).write_bytes(content)
    warnings.simplefilter("ignore")
    defaults = ["-timeout=10", "-rss_limit_mb=2048", "-max_len=20000", "-print_final_stats=1"]
    os.chdir(FOLDER)
    atheris.Setup([sys.argv[0], *defaults, *options, str(corpus)], one)
    print(json.dumps({"parser": name, "seeds": len(contents)}), flush=True)
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
