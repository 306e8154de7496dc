"""Fetch the two rank files that tests of exact counts need: `python tests/support/fetch_ranks.py [FOLDER]`.

They are taken, as data, out of a public wheel (`llama-index-core`) that carries a filled tiktoken cache, so that a
package index is all the network that is needed. The wheel is unpacked into a temporary folder and thrown away; what is
kept is checked against the SHA-256 sums that the product checks too.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from ranks import default_folder, missing_from

from trio_ai_proxy.accounting.encodings import RANK_FILES

HOLDER = "llama-index-core"


def installers() -> list[list[str]]:
    """Commands that can unpack one wheel into a folder, best first. A virtual environment of uv has no own pip."""
    commands = [[sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]]
    if uv := shutil.which("uv"):
        commands.append([uv, "pip", "install", "--quiet", "--no-deps", "--python", sys.executable, "--target"])
    if python := shutil.which("python3"):
        commands.append([python, "-m", "pip", "install", "--quiet", "--no-deps", "--target"])
    return commands


def unpack_holder(folder: Path) -> None:
    """Unpack the wheel into `folder`, with the first installer that can. Exits with their complaints if none can."""
    complaints = []
    for command in installers():
        done = subprocess.run([*command, str(folder), HOLDER], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return
        complaints.append(f"{' '.join(command)}: {done.stderr.strip()}")
    sys.exit("\n".join(complaints))


def fetch(folder: Path) -> None:
    """Fill `folder` with `<encoding>.tiktoken` for each encoding that it lacks."""
    missing = missing_from(folder)
    if not missing:
        return
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        unpack_holder(Path(temporary))
        for name in missing:
            rank_file = RANK_FILES[name]
            found = [
                path
                for path in Path(temporary).rglob(rank_file.cache_name)
                if hashlib.sha256(path.read_bytes()).hexdigest() == rank_file.sha256
            ]
            if not found:
                sys.exit(f"{HOLDER} no longer carries {name}")
            shutil.copyfile(found[0], folder / f"{name}.tiktoken.new")
            (folder / f"{name}.tiktoken.new").replace(folder / f"{name}.tiktoken")


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else default_folder()
    fetch(target)
    sys.stdout.write(f"{target}\n")
