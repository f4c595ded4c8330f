"""Train an experiment on a Ray cluster, by Ray Train: an example to copy for those who have one.

    pip install 'ray[train]'
    python configs/ray/train.py --config configs/mnist_cnn.yaml --experiment mine

Ray places the processes, starts them again when one of them or its node dies, and keeps the last
two checkpoints, one an epoch, in `runs/ray/<experiment>`, which all nodes must share. The training
goes on from the end of the last epoch that Ray had heard of (it asks now and then: one killed right
after its first epochs began anew). So does the same command typed again; another training needs
another `--experiment`.

This is Ray's training and not `project.train`: no run directory (run.json, metrics.csv, a table;
`project.compare` does not see it), no early stop, best checkpoint or test, no stop in the middle of
an epoch, and nothing that holds a training that goes on to be the one that was begun.

No test covers it, since Ray is none of the project's dependencies. It was run by hand on 2026-11-26
with ray 2.60.0, lightning 2.6.6 and torch 2.15.0 on two CPU workers: to its end, and with a worker
killed after 12 of 60 epochs, which came to the figures of the undisturbed training. Not on GPUs,
nor on several nodes.
"""

import sys
from pathlib import Path

import ray.train
from lightning.pytorch import Trainer
from ray.train.lightning import (
    RayDDPStrategy,
    RayLightningEnvironment,
    RayTrainReportCallback,
    prepare_trainer,
)
from ray.train.torch import TorchTrainer

from project.checkpoints.resume_point import StepSeed
from project.configuration import ProjectCLI
from project.optimization.initial_weights import prepare_network

WORKERS = 2
USE_GPU = False


def train(settings: dict[str, list[str]]) -> None:
    """Train in one worker; the arguments are those of `project.train`."""
    cli = ProjectCLI(settings["arguments"])
    checkpoint = ray.train.get_checkpoint()
    prepare_network(cli, is_restored=checkpoint is not None)
    own = {
        "strategy": RayDDPStrategy(),
        "plugins": [RayLightningEnvironment()],
        "callbacks": [
            *(cli.config_init.trainer.callbacks or []),
            StepSeed(int(cli.config.seed_everything)),
            RayTrainReportCallback(),
        ],
        "accelerator": "auto" if USE_GPU else "cpu",
        "devices": "auto",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
    }
    trainer = prepare_trainer(Trainer(**{**cli.config_init.trainer, **own}))
    if checkpoint is None:
        trainer.fit(cli.model, cli.datamodule)
        return
    with checkpoint.as_directory() as directory:
        last = Path(directory, RayTrainReportCallback.CHECKPOINT_NAME)
        trainer.fit(cli.model, cli.datamodule, ckpt_path=last, weights_only=True)


if __name__ == "__main__":
    arguments = sys.argv[1:]
    result = TorchTrainer(
        train,
        train_loop_config={"arguments": arguments},
        scaling_config=ray.train.ScalingConfig(num_workers=WORKERS, use_gpu=USE_GPU),
        run_config=ray.train.RunConfig(
            name=str(ProjectCLI(arguments).config.experiment),
            storage_path=str(Path("runs", "ray").absolute()),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
            failure_config=ray.train.FailureConfig(max_failures=3),
        ),
    ).fit()
    print(result.metrics)
    print(result.checkpoint)
