"""`python -m omniner.child config.yaml`: a run of a configuration that is whole already, started by another run.

It is `omniner.run` without Hydra: the file holds what `config.to_yaml` wrote, so that nothing has to be said again in
overrides. The life of the run, its messages and its exit status are those of `omniner.run`. Lightning starts further
ranks of a distributed child with the same command.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from omniner import config as configs
from omniner import processes, run
from omniner.errors import UserError


def main() -> None:
    """The command line of a child."""
    from hydra.core.utils import configure_log

    signal.signal(signal.SIGTERM, run.on_sigterm)
    processes.stop_with_parent()
    configure_log(configs.job_logging())
    try:
        run.execute(configs.read(Path(sys.argv[1])))
    except UserError as error:
        sys.exit(run.report(error))
    except KeyboardInterrupt as error:
        sys.exit(run.stopped_status(error))


if __name__ == "__main__":
    main()
