"""What may be typed, what it becomes, and what is said when it is wrong."""

from pathlib import Path

import jsonargparse._typehints as typehints
import pytest

import project.models
from project import configuration
from project.configuration import (
    CONFIGS,
    PACKAGE,
    PARTS,
    ProjectCLI,
    UsageError,
    class_help,
    experiment_name,
    fast_precision,
    help_of_everything,
    project_classes,
)


def network(*arguments: str):
    return ProjectCLI([*arguments]).config.model.init_args.network


def optimizer(*arguments: str):
    return ProjectCLI([*arguments]).config.model.init_args.optimizer


def refusal(*arguments: str) -> str:
    with pytest.raises(UsageError) as error:
        ProjectCLI([*arguments])
    assert "\n" not in str(error.value)
    return str(error.value)


def test_the_private_functions_that_are_extended_are_still_there() -> None:
    """A new jsonargparse that renames them must fail here, not in a user's run."""
    assert callable(typehints.resolve_class_path_by_name)
    assert callable(typehints.discard_init_args_on_class_path_change)
    assert callable(typehints.import_object)  # limited by project/checkpoints/loading.py


def test_nothing_typed_is_the_default_experiment() -> None:
    config = ProjectCLI([]).config
    assert config.model.init_args.network.class_path == "project.models.cnn.CNN"
    assert config.data.init_args.dataset.class_path == "project.data.image_sets.Digits"
    assert config.experiment == "default"


def test_bare_names_mean_our_classes_first() -> None:
    assert network("--model.network", "RNN").class_path == "project.models.rnn.RNN"
    assert network("--model.network=MLP").class_path == "project.models.mlp.MLP"
    assert network("--model.network", "torch.nn.Identity").class_path == "torch.nn.Identity"


def test_a_new_network_keeps_the_sizes_that_were_written() -> None:
    assert network("--model.network", "ViT").init_args.image_size == 8


def test_a_new_optimizer_starts_from_its_own_defaults() -> None:
    assert optimizer().init_args.weight_decay == 0.05
    sgd = optimizer("--model.optimizer", "SGD")
    assert sgd.class_path == "torch.optim.SGD"
    assert (sgd.init_args.weight_decay, sgd.init_args.momentum, sgd.init_args.lr) == (0, 0, 1e-3)
    sgd = optimizer("--model.optimizer", "SGD", "--model.optimizer.lr", "0.5")
    assert (sgd.init_args.weight_decay, sgd.init_args.lr) == (0, 0.5)


def test_nothing_of_the_optimizer_slips_in_from_a_saved_configuration(tmp_path: Path) -> None:
    cli = ProjectCLI([])
    cli.parser.save(cli.config, str(tmp_path / "config.yaml"), skip_unset=False)
    sgd = optimizer("--config", str(tmp_path / "config.yaml"), "--model.optimizer", "SGD")
    assert sgd.init_args.weight_decay == 0
    schedule = ProjectCLI(
        ["--model.scheduler", "CosineAnnealingLR", "--model.scheduler.T_max", "9"]
    ).config.model.init_args.scheduler
    assert schedule.init_args.T_max == 9


def test_a_saved_configuration_gives_the_same_configuration(tmp_path: Path) -> None:
    first = ProjectCLI(["--model.network", "RNN", "--trainer.max_epochs", "3"])
    first.parser.save(first.config, str(tmp_path / "config.yaml"), skip_unset=False)
    again = ProjectCLI(["--config", str(tmp_path / "config.yaml")])
    assert first.config.as_dict() | {"config": None} == again.config.as_dict() | {"config": None}


def test_files_stack_and_a_profile_alone_stands_on_the_default(tmp_path: Path) -> None:
    profile = tmp_path / "short.yaml"
    profile.write_text("trainer: {max_epochs: 1}\n")
    config = ProjectCLI(["--config", str(profile)]).config
    assert config.trainer.max_epochs == 1
    assert config.experiment == "default"
    mnist = str(CONFIGS / "mnist_mlp.yaml")
    config = ProjectCLI(["--config", mnist, "--config", str(profile)]).config
    assert config.trainer.max_epochs == 1
    assert config.experiment == experiment_name(["--config", mnist]) == "mnist_mlp"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--model.network.widht", "3"], "--model.network.widht of CNN; did you mean width?"),
        (["--trainer.max_epoch", "3"], "--trainer.max_epoch; did you mean --trainer.max_epochs?"),
        (["--model.network", "CNM"], "--model.network: no class 'CNM'; did you mean CNN?"),
        (["--model.optimiser", "SGD"], "--model.optimiser of ImageClassification; did you mean"),
        (["--model.optimizer.lr", "fast"], "--model.optimizer.lr: expected float, got 'fast'"),
        (["--trainer.max_epochs", "three"], "--trainer.max_epochs: expected int, got 'three'"),
        (["--model.scheduler", "StepLR"], "not set: --model.scheduler.step_size"),
        (["--best.mode", "most"], "--best.mode: 'most' is not one of min, max"),
        (["--config", "mnist_cmn.yaml"], "'mnist_cmn.yaml'; did you mean configs/mnist_cnn.yaml?"),
        (["nonsense"], "unknown option nonsense"),
        (["--model.optimizer.weight_deca", "1"], "of AdamW; did you mean weight_decay?"),
        (["--model.scheduler.warmpu", "1"], "of WarmupDecay; did you mean warmup?"),
        (["--data.augment.rotate_degree", "5"], "of Augmentation; did you mean rotate_degrees?"),
        (["--data.dataset.splt", "x"], "--data.dataset.splt of Digits"),
    ],
)
def test_a_wrong_word_is_answered_in_one_line(arguments, says) -> None:
    assert says in refusal(*arguments)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("trainer: {max_epochs: [}", "cannot be read"),
        ("just words", "holds no keys"),
        ("model: {class_path: ImageClassification, init_args: {network: CNN}}", "not set: --data"),
        ("trainr: {max_epochs: 3}", "did you mean --trainer.max_epochs?"),
        ("trainer: {max_epochs: three}", "--trainer.max_epochs: expected int, got 'three'"),
    ],
)
def test_a_wrong_file_is_answered_in_one_line(content, says, tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(content)
    assert says in refusal("--config", str(path))


def test_help_of_a_class_lists_its_arguments() -> None:
    text = class_help("model.network", "RNN")
    assert "--model.network.cell {elman,gru,lstm}" in text
    assert "--model.optimizer.momentum" in class_help("model.optimizer", "SGD")
    assert "--model.optimizer" in class_help("model", "ImageClassification")
    assert "--trainer.callbacks.decay" in class_help("trainer.callbacks", "EMAWeightAveraging")
    with pytest.raises(UsageError, match="no class 'RNM'; did you mean RNN"):
        class_help("model.network", "RNM")


def test_help_of_everything_has_the_keys_of_the_chosen_classes() -> None:
    text = help_of_everything(ProjectCLI(["--model.network", "ViT"]))
    for key in ("trainer.max_epochs", "best.patience", "model.label_smoothing",
                "model.network.patch_size", "model.optimizer.weight_decay",
                "model.scheduler.warmup", "data.batch_size", "data.augment.flip"):  # fmt: skip
        assert f"--{key}" in text


def test_plateau_is_the_one_that_names_its_metric() -> None:
    config = ProjectCLI(
        ["--model.scheduler", "ReduceLROnPlateau", "--model.scheduler.monitor", "val/loss"]
    ).config
    path = config.model.init_args.scheduler.class_path
    assert path == "lightning.pytorch.cli.ReduceLROnPlateau"


def test_augmentation_can_be_switched_off() -> None:
    assert ProjectCLI(["--data.augment", "null"]).config.data.init_args.augment is None


@pytest.mark.parametrize(
    ("accelerator", "able_to", "precision"),
    [
        ("cpu", {"avx512_bf16": True}, "bf16-mixed"),
        ("auto", {"amx_bf16": True}, "bf16-mixed"),
        ("cpu", {"avx512_f": True, "avx512_bf16": False}, "32-true"),
        ("tpu", {"avx512_bf16": True}, "32-true"),
        ("mps", {"avx512_bf16": True}, "32-true"),
    ],
)
def test_bf16_only_where_it_is_fast(accelerator, able_to, precision, monkeypatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: able_to)
    assert fast_precision(accelerator) == precision


def test_names_of_our_public_classes_are_unique() -> None:
    files = [f for part in PARTS for f in (PACKAGE / part).glob("*.py")]
    names = [line.split("class ")[1].split("(")[0].rstrip(":\n") for file in files
             for line in file.read_text().splitlines()
             if line.startswith("class ") and not line.startswith("class _")]  # fmt: skip
    assert len(names) == len(set(names)) == len(project_classes())


ABSTRACT = "from abc import ABC, abstractmethod\n"
CLASS = "from torch import nn\nclass Mistaken({}):\n    {}\n"


@pytest.mark.parametrize(
    ("name", "source", "says"),
    [
        ("missing", "import torchh", "project/models/missing.py, line 1: ModuleNotFoundError"),
        ("undefined", "\n\nx = y", "project/models/undefined.py, line 3: NameError: name 'y'"),
        (
            "deep",
            "def f():\n    raise TypeError('deep')\n\nf()",
            "project/models/deep.py, line 2: TypeError: deep",
        ),
        ("elsewhere", "import re\nre.compile('(')", "project/models/elsewhere.py, line 2: "),
        ("other", CLASS.format("object", "pass"), "--model.network: project.models.other.Mistaken"),
        (
            "partial",
            ABSTRACT + CLASS.format("nn.Module, ABC", "@abstractmethod\n    def a(self): ..."),
            "Mistaken lacks a method",
        ),
    ],
)
def test_a_mistake_in_a_file_of_ones_own_is_told_with_its_place(
    name, source, says, tmp_path: Path, monkeypatch
) -> None:
    refusal("--nothing=1")  # bare names are learnt once, before the package is another one
    folder = tmp_path / "project" / "models"
    folder.mkdir(parents=True)
    (folder / f"{name}.py").write_text(source)
    monkeypatch.setattr(configuration, "PACKAGE", tmp_path / "project")
    monkeypatch.setattr(project.models, "__path__", [*project.models.__path__, str(folder)])
    assert says in refusal(f"--model.network=project.models.{name}.Mistaken")


@pytest.mark.parametrize(
    ("source", "says"), [("\n\nx = 1 / 0\n", "3: ZeroDivisionError"), ("\nx = (", "2: SyntaxError")]
)
def test_a_mistake_in_what_a_file_imports_is_told_with_its_place(
    source, says, tmp_path: Path, monkeypatch
) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "outer.py").write_text("from project.models.inner import x\nclass Mistaken: ...")
    (folder / "inner.py").write_text(source)
    monkeypatch.setattr(configuration, "PACKAGE", folder)
    monkeypatch.setattr(project.models, "__path__", [*project.models.__path__, str(folder)])
    with pytest.raises(ValueError, match=f"^project/inner.py, line {says}"):
        class_help("model.network", "project.models.outer.Mistaken")


def test_a_module_that_is_not_there_holds_no_class() -> None:
    said = refusal("--model.network=project.models.nope.RNM")
    assert said == "--model.network: no class 'project.models.nope.RNM'; did you mean RNN?"
    assert refusal("--model.network=nope.Net") == "--model.network: no class 'nope.Net'"


def test_a_file_that_is_no_python_is_named_with_its_line(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "project" / "data" / "half.py"
    path.parent.mkdir(parents=True)
    path.write_text("x = 1\nclass Half(:\n")
    monkeypatch.setattr(configuration, "PACKAGE", tmp_path / "project")
    with pytest.raises(UsageError, match=r"^project/data/half.py, line 2: invalid syntax"):
        project_classes()
