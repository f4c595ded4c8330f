"""Train one experiment: fit, keep the best by validation, test it, print a table."""

import signal
import sys

from project.command_line import print_every_character

HELP = """\
usage: python -m project.train [--config FILE]... [--KEY VALUE]...

Fit a network, keep the checkpoint that validates best, test it once and print a
table. With nothing given: configs/default.yaml, a CNN on embedded digits.

examples:
  python -m project.train
  python -m project.train --config configs/mnist_cnn.yaml --data.batch_size 256
  python -m project.train --config configs/docs_transformer.yaml
  python -m project.train --config configs/trainer/ddp_cpu.yaml --seeds 0..4

keys (every argument of the class that stands there):
  --model.network CLASS       MLP, CNN, RNN, ViT, TorchvisionNetwork; for text
                              MLPLanguageModel, CausalCNN, RNNLanguageModel,
                              GPT, SinusoidalTransformer; or any import path
  --model.optimizer CLASS     any of torch.optim, or MuonAdamW
  --model.scheduler CLASS     WarmupDecay, any of torch's (in steps), or null
  --data.dataset CLASS        Digits, MNIST and its kin, CIFAR10, ImageFolder
  --data.corpus CLASS         PythonDocs, TinyShakespeare, or TextCorpus with
                              --data.corpus.path FILE_OR_FOLDER
  --data.tokenizer CLASS      ByteTokenizer, CharTokenizer, BPETokenizer
  --data.root DIR             where data lie (else $DATA_DIR, else data)
  --data.batch_size N         images or windows of a batch, on each process
  --init_from RUN             begin with its weights, or torchvision:resnet18's
  --freeze PATTERN            parameters to keep as they are, such as 'stem.*'
  --trainer.max_epochs N      also accelerator, devices, strategy, precision ...
                              (configs/trainer/: gpu, ddp, fsdp, debug, ...)
  --speed.compile true        torch.compile; also speed.matmul, speed.threads
  --best.monitor METRIC       what chooses the best; also best.mode, .patience
  --seed_everything N         seed of weights, order and augmentation
  --experiment NAME           name in the run directory, below --runs_dir DIR
  --wandb.mode MODE           online or offline: W&B, beside TensorBoard

A new optimizer or scheduler starts from its own defaults. A new network, task
or data set keeps the values you wrote whose names it shares (num_classes).

  --seeds 0..4                a run for each seed, and what they come to; also
                              --folds 0..4, with --data.num_folds 5
  --resume RUN                go on with a stopped run, exactly, where it lies;
                              with --force although it changed, with --allow
                              PACKAGE if it names classes of another package
  --help, --help all          this screen; every key of the chosen classes
  --model.network.help CLASS  every argument of a class; --print_config all YAML
  --debug                     show the traceback of an error
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return 0, or 2 when what was asked for is not possible."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments in (["--help"], ["-h"]):
        print(HELP, end="")
        return 0
    print_every_character()
    try:
        from project.training.command import command  # imports torch: not needed for the help above

        return command(arguments)
    except KeyboardInterrupt:  # before there is a run that could be saved
        return 130


if __name__ == "__main__":
    if hasattr(signal, "pthread_sigmask"):  # SLURM's warning waits until there is a run to be saved
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    sys.exit(main())
