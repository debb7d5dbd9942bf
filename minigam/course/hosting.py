"""Where the project is hosted, and the links that follow from it: badges for Colab and Binder.

REPOSITORY and TAG are the one setting. While REPOSITORY is empty, no badge is written, because it
would lead nowhere, and Colab installs a wheel that the reader has uploaded.
"""

from pathlib import Path
from urllib.parse import quote

import minigam

REPOSITORY = ""  # "owner/name" on GitHub
ADDRESS = f"https://github.com/{REPOSITORY}" if REPOSITORY else ""
TAG = f"v{minigam.__version__}"
COLAB = "colab"  # folder in notebooks/ of the copies with gaps; never the solved ones


def requirement() -> str:
    """Return what pip installs: this version, from the tag of the repository, or else its wheel, uploaded."""
    if not REPOSITORY:  # nobody has published the name, so it would be somebody else's package
        return f"./minigam-{minigam.__version__}-py3-none-any.whl[notebooks]"
    return f"minigam[notebooks] @ git+{ADDRESS}@{TAG}"


def install_cell() -> str:
    """Return the code of the first cell on Colab. It does nothing where minigam is installed."""
    how = "" if REPOSITORY else " Upload the wheel first: python -m hatchling build -t wheel makes it."
    return (
        f"# Installs minigam where it is missing, for instance on Colab.{how}\n"
        "from importlib.util import find_spec\n\n"
        'if find_spec("minigam") is None:\n'
        f'    %pip install --quiet "{requirement()}"'
    )


def badges(source: Path) -> str:
    """Return Markdown of the two badges that open a notebook's copy with gaps, or "" without a repository."""
    if not REPOSITORY:
        return ""
    path = quote(f"notebooks/{COLAB}/{source.stem}.ipynb")
    colab = f"https://colab.research.google.com/github/{REPOSITORY}/blob/{TAG}/{path}"
    binder = f"https://mybinder.org/v2/gh/{REPOSITORY}/{TAG}?labpath={quote(path, safe='')}"
    return (
        f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({colab}) "
        f"[![Open in Binder](https://mybinder.org/badge_logo.svg)]({binder})"
    )
