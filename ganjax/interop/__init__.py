"""Official weights in, portable artefacts out.

`read` opens an official `.pkl` or `.pth` without PyTorch and without running what is in it,
`import_state_dict` turns official tensors into networks of this library, and `ImportedGAN` runs
them and names its tensors officially again. `save_weights` writes a generator as safetensors,
`save_program` as a StableHLO program that runs without this library.
"""

from ganjax.interop.export import (
    load_imported,
    load_program,
    load_weights,
    save_imported,
    save_imported_program,
    save_program,
    save_weights,
)
from ganjax.interop.gpt2 import ImportedLanguageModel, import_gpt2, read_gpt2
from ganjax.interop.imported import ARCHITECTURES, ImportedGAN, import_state_dict, networks
from ganjax.interop.layouts import Entry
from ganjax.interop.reader import OfficialFile, read, read_file, read_tensors

__all__ = [
    "ARCHITECTURES",
    "Entry",
    "ImportedGAN",
    "ImportedLanguageModel",
    "OfficialFile",
    "import_gpt2",
    "import_state_dict",
    "load_imported",
    "load_program",
    "load_weights",
    "networks",
    "read",
    "read_file",
    "read_gpt2",
    "read_tensors",
    "save_imported",
    "save_imported_program",
    "save_program",
    "save_weights",
]
