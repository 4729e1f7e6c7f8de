"""Virtual environments of the scripts here: each holds exactly the packages of a file of requirements; made once."""

import fcntl
import hashlib
import os
import subprocess
import sys
from pathlib import Path

CACHE = Path(os.environ.get("FOREBAY_CACHE") or Path.home() / ".cache" / "forebay")


def python(requirements):
    """The interpreter of the environment with these requirements, in $FOREBAY_CACHE or ~/.cache/forebay."""
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()[:12]
    directory = CACHE / f"python-{digest}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / "python.lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (directory / "complete").exists():
            subprocess.run([sys.executable, "-m", "venv", "--clear", directory], check=True)
            pip = [directory / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check"]
            subprocess.run([*pip, "-r", requirements], check=True, stdout=sys.stderr)
            (directory / "complete").touch()
    return directory / "bin" / "python"
