"""A training run, its tracking store included, on disks that are too small for it, and then on one that is not.

    sudo python experiments/reliability/full_disk.py

Needs root on Linux: it mounts a file system in memory. Prints a line for each size: the exit status, whether a
traceback was shown, and the message.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

SIZES = ("1m", "2m", "4m", "6m", "64m")
COMMAND = [
    sys.executable, "-m", "omniner.run", "data.size={train: 96, dev: 32, test: 40}", "trainer.max_epochs=2",
    "trainer.batch_size=16", "trainer.threads=1", "metrics.bootstrap=20",
]  # fmt: skip


def main() -> None:
    """Mount, run at each size, unmount."""
    with tempfile.TemporaryDirectory() as name:
        disk = Path(name)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZES[0]}", "tmpfs", name], check=True)
        try:
            for size in SIZES:
                subprocess.run(["mount", "-o", f"remount,size={size}", name], check=True)
                done = subprocess.run(COMMAND, cwd=disk, capture_output=True, text=True, check=False)
                said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
                traceback = "yes" if "Traceback" in done.stderr else "no"
                print(f"{size}: exit {done.returncode}, traceback {traceback}, {' | '.join(said) or 'finished'}")
        finally:
            subprocess.run(["umount", "-l", name], check=True)


if __name__ == "__main__":
    main()
