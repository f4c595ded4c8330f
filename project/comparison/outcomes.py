"""What a model made of each example of a split, kept to compare two models example by example.

`outcomes.npz` in a run directory holds, of the best checkpoint, for each split that was measured:
of images `labels`, `predicted`, `confidence` and `losses`, one of each an image; of a text
`losses`, one a token after the first, nats. All in the order of the data.
"""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from project.whole_files import replace_bytes

if TYPE_CHECKING:  # read without torch, which takes seconds to import
    from torch import Tensor

FILE = "outcomes.npz"
Outcomes = dict[str, NDArray[Any]]


def save_outcomes(directory: Path, split: str, outcomes: "dict[str, Tensor]") -> None:
    """Put the outcomes of a split into the file of a run, beside those of other splits."""
    kept = read(directory, lambda name: split_of(name) != split)
    kept |= {f"{split}/{name}": values.cpu().numpy() for name, values in outcomes.items()}
    content = io.BytesIO()
    np.savez_compressed(content, **kept)  # type: ignore[arg-type]
    replace_bytes(directory / FILE, content.getvalue())


def load_outcomes(directory: Path, split: str) -> Outcomes:
    """Return the outcomes of a split, empty where there are none."""
    found = read(directory, lambda name: split_of(name) == split)
    return {name.split("/")[1]: values for name, values in found.items()}


def read(directory: Path, wanted: Callable[[str], bool]) -> Outcomes:
    path = directory / FILE
    if not path.is_file():
        return {}
    try:
        with np.load(path) as file:
            return {name: file[name] for name in file.files if wanted(name)}
    except (zipfile.BadZipFile, ValueError, OSError, EOFError):  # damaged: as if there were none
        return {}


def split_of(name: str) -> str:
    return name.split("/")[0]
