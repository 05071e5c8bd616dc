"""Typed configuration: a YAML file, presets and ``key=value`` overrides, with unknown keys refused by name.

Every key is documented here, once; ``mindscaip train --help`` points to this list.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mindscaip.errors import MindscaipError, did_you_mean


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class GraphConfig(_Section):
    """Which neighbours an atom sees, and with what weight (paper, Section 4.2)."""

    kind: Literal["diffknn", "knn"] = Field("diffknn", description="differentiable kNN, or hard kNN (ablation)")
    ranking: Literal["source", "mutual"] = Field("source", description="rank in source windows, or in both windows")
    rank_function: Literal["bump", "sigmoid"] = Field("bump", description="soft step of Eq. 6; only the bump is exact")
    k: int = Field(30, ge=1, description="number of neighbours of Eq. 7")
    cutoff: float = Field(6.0, gt=0, description="r_c of Eq. 8, A")
    d0: float = Field(0.2, gt=0, description="width of the soft step of Eq. 6, A")
    beta: float = Field(10.0, gt=0, description="sharpness of the log-sum-exp of Eq. 8")


class ModelConfig(_Section):
    """The backbone (paper, Section 4 and Table 7)."""

    graph: GraphConfig = GraphConfig()
    embed_dim: int = Field(128, ge=1, description="width D of a token")
    num_layers: int = Field(8, ge=1, description="number of blocks")
    num_heads: int = Field(8, ge=1, description="attention heads; embed_dim is a multiple of it")
    hidden_factor: int = Field(2, ge=1, description="edge feed-forward: D -> factor * D -> D")
    atom_hidden_factor: int = Field(8, ge=1, description="the same for the self tokens, which are few")
    num_radial: int = Field(128, ge=2, description="number of Gaussians on [0, r_c]")
    gamma: float = Field(1.0, gt=0, description="smearing scale: Gaussian width over spacing")
    l_max: int = Field(5, ge=0, le=8, description="highest degree of the spherical harmonics")
    temperature: float = Field(1.0, gt=0, description="attention temperature tau")
    head: Literal["conservative", "direct"] = Field("conservative", description="forces by gradient, or as an output")

    @model_validator(mode="after")
    def _heads_divide_width(self) -> ModelConfig:
        if self.embed_dim % self.num_heads:
            raise ValueError(f"embed_dim = {self.embed_dim} is not divisible by num_heads = {self.num_heads}")
        return self


class DataConfig(_Section):
    """Where the structures come from, and which of them validate."""

    train: str | list[str] = Field("", description="training structures: .h5 store or extended xyz; several: [A, B]")
    val: str | list[str] = Field("", description="validation structures; empty: split off the training files")
    split: Literal["random", "group", "composition"] = Field(
        "random", description="rule when val is empty: by structure, or molecule (group) or formula in one part"
    )
    split_file: str = Field("", description="instead: text file of what validates, a group or an index per line")
    val_fraction: float = Field(0.05, gt=0, lt=1, description="part of the training files that the rule takes")
    max_train: int | None = Field(None, ge=1, description="use only this many training structures, chosen at random")
    isolated: str = Field("", description="extended xyz of isolated atoms; empty: the data's, else a fit; none: a fit")
    energy_key: str | None = Field(None, description="name of the energy in extended xyz; None: known names")
    forces_key: str | None = Field(None, description="name of the forces in extended xyz; None: known names")
    stress_key: str | None = Field(None, description="name of the stress in extended xyz; None: known names")
    cache_mb: float = Field(256.0, ge=0, description="memory for neighbour lists kept from epoch to epoch, MB")
    workers: int = Field(0, ge=0, description="processes that prepare batches; 0: a thread of the training process")

    @model_validator(mode="before")
    @classmethod
    def _earlier_name(cls, values: Any) -> Any:
        """Runs of before ``split`` say ``split_by_group``."""
        if isinstance(values, dict) and "split_by_group" in values:
            values = dict(values)
            if values.pop("split_by_group"):
                values["split"] = "group"
        return values

    @property
    def train_files(self) -> list[str]:
        return [self.train] if isinstance(self.train, str) and self.train else list(self.train)

    @property
    def val_files(self) -> list[str]:
        return [self.val] if isinstance(self.val, str) and self.val else list(self.val)


class LossConfig(_Section):
    """Weights of ``|dE|/N`` per structure (eV/atom), ``||dF||_2`` per atom (eV/A), ``|dS|`` (eV/A^3)."""

    energy: float = Field(1.0, ge=0, description="weight of the energy")
    forces: float = Field(2.0, ge=0, description="weight of the forces")
    stress: float = Field(0.0, ge=0, description="weight of the stress; needs stress labels")


class TrainingConfig(_Section):
    """The optimisation (paper, Table 7; the learning rate is ours, the paper does not give one)."""

    loss: LossConfig = LossConfig()
    epochs: int = Field(100, ge=1, description="passes over the training structures")
    max_minutes: float | None = Field(None, gt=0, description="stop after this wall time; the schedule fits it")
    batch_size: int = Field(16, ge=1, description="structures per step, over all processes")
    batch_atoms: int | None = Field(None, ge=1, description="instead: atoms per step at most, over all processes")
    learning_rate: float = Field(1e-3, gt=0, description="highest learning rate, after the warm-up")
    final_learning_rate: float = Field(0.01, ge=0, le=1, description="floor of the cosine over learning_rate")
    weight_decay: float = Field(1e-3, ge=0, description="not applied to norms, biases and embeddings")
    warmup_epochs: float = Field(1.0, ge=0, description="epochs of linear rise; at most 5 % of max_minutes")
    warmup_factor: float = Field(0.2, ge=0, le=1, description="learning rate at step 0 over learning_rate")
    ema_decay: float = Field(0.999, ge=0, lt=1, description="of the moving average of the weights, which is exported")
    gradient_clip: float = Field(100.0, gt=0, description="largest norm of the gradient")
    rotate: bool = Field(True, description="rotate every training structure at random: how the model learns symmetry")
    precision: Literal["32-true", "bf16-mixed"] = Field("32-true", description="of the linear maps of the blocks")
    seed: int = Field(0, ge=0, description="of weights, order, rotations and noise")
    val_every: int = Field(1, ge=1, description="epochs between validations")
    checkpoint_every: int = Field(1, ge=1, description="epochs between checkpoints")
    checkpoint_minutes: float = Field(15.0, gt=0, description="minutes between checkpoints within a long epoch")
    max_loss_jump: float = Field(1e3, gt=1, description="stop if the loss exceeds its running mean by this factor")
    loggers: list[Literal["tensorboard", "wandb"]] = Field([], description="beside curves.csv")


class PretrainingConfig(_Section):
    """Direct forces and denoising (DeNS) before the training proper; what is None is as in the training."""

    epochs: int = Field(0, ge=0, description="passes with direct forces before the training; 0: no pre-training")
    max_minutes: float | None = Field(None, gt=0, description="end the pre-training after this wall time; null: never")
    loss: LossConfig = Field(LossConfig(), description="stress: not here, a direct model has none")
    batch_size: int | None = Field(None, ge=1, description="structures per step")
    batch_atoms: int | None = Field(None, ge=1, description="atoms per step at most")
    learning_rate: float | None = Field(None, gt=0, description="highest learning rate")
    final_learning_rate: float | None = Field(None, ge=0, le=1, description="floor of the cosine over learning_rate")
    warmup_epochs: float | None = Field(None, ge=0, description="epochs of linear rise of the learning rate")
    warmup_factor: float | None = Field(None, ge=0, le=1, description="learning rate at step 0 over learning_rate")
    dens_probability: float = Field(0.5, ge=0, le=1, description="part of the steps that denoise")
    dens_sigma: float = Field(0.1, gt=0, description="standard deviation of the noise on each coordinate, A")
    dens_atoms: float = Field(1.0, gt=0, le=1, description="part of the atoms of such a step that are moved")
    dens_weight: float = Field(
        1.0, ge=0, description="weight of the error of the noise over dens_sigma, times the RMS force"
    )

    @model_validator(mode="after")
    def _no_stress(self) -> PretrainingConfig:
        if self.loss.stress > 0:
            raise ValueError("loss.stress is above 0, but direct forces come without a stress; leave it at 0")
        return self


class SmoothnessConfig(_Section):
    """Smoothness of the averaged weights along bond scans while they are trained; without ``scans`` nothing is scored.

    The rules of ``select`` are defined in :mod:`mindscaip.training.smoothness`.
    """

    scans: str = Field("", description="bond scans to score: packed .h5 or folder; empty: no scores")
    num_scans: int | None = Field(4, ge=1, description="so many scans, the smallest of each bond type first; null: all")
    stride: int = Field(1, ge=1, description="only every so many frames; above 1 fsd is that of the coarser grid")
    dense: int = Field(1, ge=1, description="geometries per frame interval, for fsd_intrinsic")
    nve_steps: int = Field(
        100, ge=0, description="steps of constant-energy dynamics from each scan's molecule; 0: none"
    )
    nve_timestep: float = Field(0.5, gt=0, description="fs")
    nve_temperature: float = Field(300.0, ge=0, description="of the initial velocities, K")
    every: int = Field(10, ge=1, description="epochs between scores, at least")
    max_fraction: float | None = Field(
        0.05, gt=0, description="scores wait until they cost at most this part of the training time; null: no clock"
    )
    select: Literal["validation", "within", "weighted"] = Field(
        "validation", description="best checkpoint by validation errors alone, or by a rule that counts smoothness"
    )
    metric: Literal["fsd", "fsd_intrinsic"] = Field("fsd_intrinsic", description="what the rule counts, 1/A")
    tolerance: float = Field(
        0.1, ge=0, description="within: least metric of all scores times 1 + tolerance is the limit"
    )
    weight: float = Field(
        0.01, ge=0, description="weighted: eV A per unit of the metric, added to the validation score"
    )


class Config(_Section):
    """A whole run."""

    run: str = Field("runs/mindscaip", description="folder of checkpoints, curves and record")
    start_from: str = Field(
        "", description="run, or checkpoint in one, whose averaged weights are the start; model.* comes from it"
    )
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    pretraining: PretrainingConfig = PretrainingConfig()
    training: TrainingConfig = TrainingConfig()
    smoothness: SmoothnessConfig = SmoothnessConfig()
    accelerator: str = Field("auto", description="cpu, cuda or auto")
    devices: int = Field(
        1, ge=1, description="processes per machine, one device each; torchrun and srun decide it themselves"
    )
    num_nodes: int = Field(1, ge=1, description="machines; torchrun and srun decide it themselves")


def preset_names() -> list[str]:
    """Names of the configurations shipped with the package."""
    names = [entry.name for entry in resources.files("mindscaip.presets").iterdir()]
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def load_preset(name: str) -> dict[str, Any]:
    """The keys that a preset sets, those of the preset that it names as ``base`` included.

    Raises:
        MindscaipError: no such preset; names the nearest one.
    """
    if name not in preset_names():
        raise MindscaipError(
            f"no preset named {name!r}{did_you_mean(name, preset_names())}; known: {', '.join(preset_names())}"
        )
    own = yaml.safe_load((resources.files("mindscaip.presets") / f"{name}.yaml").read_text()) or {}
    base = own.pop("base", None)
    values = load_preset(base) if base is not None else {}
    _merge(values, own)
    return values


def load_config(arguments: list[str]) -> Config:
    """Build a configuration from YAML files, ``preset=NAME`` and ``dotted.key=value``, later ones winning.

    Raises:
        MindscaipError: a file is missing or not YAML, a key is unknown, a value has the wrong type or range.
    """
    merged: dict[str, Any] = {}
    for argument in arguments:
        key, equals, text = argument.partition("=")
        if not equals:
            _merge(merged, _read_yaml(Path(argument)))
        elif key == "preset":
            _merge(merged, load_preset(text))
        else:
            try:
                value = yaml.safe_load(text) if text else ""
            except yaml.YAMLError:
                raise MindscaipError(f"{argument}: {text!r} is not a YAML value") from None
            _merge(merged, _nest(key.split("."), value))
    return parse_config(merged)


def parse_config(values: dict[str, Any]) -> Config:
    """Check nested keys and values.

    Raises:
        MindscaipError: names the key, the value, and the nearest known key.
    """
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise MindscaipError(_sentence(error)) from None


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise MindscaipError(f"{path}: no such configuration file (give a YAML file, preset=NAME or key=value)")
    try:
        values = yaml.safe_load(path.read_text()) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise MindscaipError(f"{path}: not a YAML file: {str(error).splitlines()[0]}") from None
    if not isinstance(values, dict):
        raise MindscaipError(f"{path}: expected 'key: value' lines, found a {type(values).__name__}")
    return values


def _nest(keys: list[str], value: Any) -> dict[str, Any]:
    for key in reversed(keys):
        value = {key: value}
    return value


def _merge(into: dict[str, Any], other: dict[str, Any]) -> None:
    for key, value in other.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def _sentence(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        section: Any = Config
        for part in first["loc"][:-1]:
            section = section.model_fields[part].annotation
        return f"unknown configuration key {where!r}{did_you_mean(str(first['loc'][-1]), section.model_fields)}"
    message = first["msg"].removeprefix("Value error, ")
    return f"configuration key {where!r} = {first['input']!r}: {message}" if where else message


def describe_config(config: Config) -> str:
    """The configuration as YAML, with each key's description beside it."""
    return "\n".join(_describe(config, "")) + "\n"


def _describe(section: BaseModel, indent: str) -> list[str]:
    lines = []
    for name, info in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            lines += [f"{indent}{name}:", *_describe(value, indent + "  ")]
        else:
            text = yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()
            lines.append(f"{indent}{name}: {text}" + (f"  # {info.description}" if info.description else ""))
    return lines
