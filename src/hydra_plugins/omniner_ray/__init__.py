"""Hydra launcher `ray`: runs the jobs of a sweep on a Ray cluster, or on one started on this machine for the sweep.

Hydra finds launchers only in `hydra_plugins` and imports them at every start, so Ray itself is imported on use. A job
is a Ray task that does what it does under any launcher (`omniner.runs.sweep.run_child`): a child process, a folder that
all machines see, a record in it. Ray assigns GPUs to a job (`children.gpus`) and restarts it if its worker is lost; the
child then continues from its last checkpoint.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, configure_log, filter_overrides, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

_OURS = "OMNINER_"  # variables of the environment that tell a job of its sweep


ConfigStore.instance().store(
    group="hydra/launcher",
    name="ray",
    node={
        "_target_": "hydra_plugins.omniner_ray.RayLauncher",
        # arguments of `ray.init`: address=auto is the cluster that this machine belongs to; without, one is made here,
        # of as many jobs at a time as it has CPUs for
        "init": {"address": None, "num_cpus": None},
        "job": {"num_cpus": 1},  # what each job needs: arguments of a task's `options`
        "retries": 3,  # how often a job whose worker is lost is started again
    },
    provider="omniner",
)


class RayLauncher(Launcher):
    """Runs the jobs of a sweep as tasks of Ray.

    Args:
        init, job, retries: as they are stored above.
    """

    def __init__(self, init: DictConfig, job: DictConfig, retries: int) -> None:
        self._init, self._job, self._retries = init, job, retries
        self._config: DictConfig
        self._context: HydraContext
        self._task: TaskFunction

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what Hydra knows."""
        self._context, self._task, self._config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run jobs, and wait for all of them.

        Args:
            job_overrides: of each job.
            initial_job_idx: the number of the first.
        """
        setup_globals()
        configure_log(self._config.hydra.hydra_logging, self._config.hydra.verbose)
        ray = _start(OmegaConf.to_container(self._init, resolve=True))
        wanted = OmegaConf.to_container(self._job, resolve=True)
        assert isinstance(wanted, dict)
        gpus = _gpus(ray, self._config.children.gpus)
        there = {name: value for name, value in os.environ.items() if name.startswith(_OURS)}
        task = ray.remote(_run_job).options(
            **{"num_gpus": gpus, "max_retries": self._retries, "runtime_env": {"env_vars": there}, **wanted}
        )
        shared = ray.put((self._context, self._config, self._task, Singleton.get_state(), str(Path.cwd())))
        jobs = [task.remote(shared, number, list(each)) for number, each in enumerate(job_overrides, initial_job_idx)]
        try:
            return [_result(ray, job, overrides) for job, overrides in zip(jobs, job_overrides, strict=True)]
        except BaseException:  # told to stop: so are they, and what they have saved stays
            for job in jobs:
                ray.cancel(job, force=True)
            raise


def _start(settings: Any) -> Any:
    """Import Ray and connect it, unless an earlier round of this sweep has.

    Raises:
        UserError: Ray is not installed, or the cluster does not answer.
    """
    from omniner.errors import UserError, one_line

    # a job without GPUs of its own sees all of them, as under any launcher; Ray would hide them
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise UserError("hydra/launcher", "Ray is not installed", "pip install 'omniner[ray]'") from error
    if not ray.is_initialized():
        try:
            alone = {} if settings.get("address") else {"include_dashboard": False}
            ray.init(**{"logging_level": "WARNING", **alone, **settings})
        except Exception as error:  # of many kinds, by what is wrong with address or arguments
            found = f"Ray cannot start ({one_line(error)})"
            raise UserError("hydra.launcher.init", found, "Check its address and arguments.") from error
    return ray


def _gpus(ray: Any, wanted: int) -> int:
    """Return how many GPUs a job asks for: none where the cluster has none, as on a machine without any."""
    from omniner.runs.children import check_gpu_count

    there = int(ray.cluster_resources().get("GPU", 0))
    check_gpu_count(wanted, there)
    return wanted if there else 0


def _run_job(shared: Any, number: int, overrides: list[str]) -> JobReturn:
    """Do a job, in a process of Ray."""
    context, config, task, state, folder = shared
    os.chdir(folder)  # the same place on every machine of a cluster: a shared file system
    setup_globals()
    Singleton.set_state(state)
    own = context.config_loader.load_sweep_config(config, overrides)
    with open_dict(own):
        own.hydra.job.id, own.hydra.job.num = f"{own.hydra.job.name}_{number}", number
    HydraConfig.instance().set_config(own)
    return run_job(
        hydra_context=context,
        config=own,
        task_function=task,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )


def _result(ray: Any, job: Any, overrides: Sequence[str]) -> JobReturn:
    """Wait for a job; one whose workers were all lost has failed, and its siblings go on."""
    try:
        found: JobReturn = ray.get(job)
    except ray.exceptions.RayError as error:
        found = JobReturn(overrides=filter_overrides(list(overrides)), status=JobStatus.FAILED)
        found.return_value = error
    return found
