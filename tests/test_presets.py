"""The presets are the columns of the paper's Table 7, and each of them makes a model that exports."""

import json
import subprocess
import sys
from functools import partial

import pytest
import torch
from typer.testing import CliRunner

from mindscaip.cli import app
from mindscaip.config import Config, load_config, preset_names
from mindscaip.graph.neighbors import neighbor_list
from mindscaip.model.backbone import MinDScAIP
from mindscaip.model.exported import ExportedPotential
from mindscaip.model.parameters import parameters_by_room
from mindscaip.training.stages import stages_of
from tests.golden.cases import model_path
from tests.models import ELEMENTS, random_structure

# The columns of Table 7, in its order; of "(a)b" a is the value of the pre-training, b that of the fine-tuning.
COLUMNS = [
    *("spice-direct-force", "spice-grad-knn", "spice-grad-diffknn", "spice-small", "spice-medium", "spice-large"),
    *("spice-weight-decay", "spice-smearing", "spice-temperature", "spice-smear-temp"),
    *("mptrj-weak", "mptrj-medium", "mptrj-strong", "mptrj-final-60m"),
]
SAME_IN_ALL = {
    "model.hidden_factor": 2,
    "model.num_layers": 8,
    "model.graph.k": 30,
    "model.graph.d0": 0.2,
    "model.graph.beta": 10,
    "model.graph.cutoff": 6,
    "model.num_radial": 128,
    "model.l_max": 5,
    "training.warmup_epochs": 1,
    "training.ema_decay": 0.999,
    "training.gradient_clip": 100,
    "training.loss.energy": 1,
}
ROWS = {
    "model.embed_dim": [512, 512, 512, 128, 256, 512, 512, 512, 512, 512, 256, 256, 256, 512],
    "model.num_heads": [32, 32, 32, 8, 16, 32, 32, 32, 32, 32, 16, 16, 16, 32],
    "model.graph.kind": ["knn", "knn"] + ["diffknn"] * 12,
    "model.gamma": [1, 1, 1, 1, 1, 1, 1, 5, 1, 5, 1, 5, 10, 10],
    "model.temperature": [1, 1, 1, 1, 1, 1, 1, 1, 10, 10, 1, 5, 10, 10],
    "model.head": ["direct"] + ["conservative"] * 13,
    "training.batch_size": [128] * 10 + [256] * 4,
    "training.weight_decay": [1e-3] * 6 + [5e-2] * 4 + [1e-3, 1e-2, 5e-2, 1e-2],
    "training.warmup_factor": [0.2] * 10 + [0.0] * 4,
    "training.epochs": [100] * 10 + [40] * 4,
    "training.loss.forces": [2] * 10 + [4] * 4,
    "training.loss.stress": [0] * 10 + [10] * 4,
    "pretraining.epochs": [0] * 10 + [60] * 4,
}
IN_PARENTHESES = {
    "epochs": [60] * 4,
    "batch_size": [256, 256, 256, 128],
    "warmup_factor": [0.2] * 4,
    "warmup_epochs": [1] * 4,
    "weight_decay": [1e-3, 1e-2, 5e-2, 1e-2],
    "ema_decay": [0.999] * 4,
    "gradient_clip": [100] * 4,
    "loss.energy": [1] * 4,
    "loss.forces": [2] * 4,
}
SIZES = {"small": 3.8e6, "medium": 15e6, "large": 60e6}


def value(config: Config, key: str):
    for part in key.split("."):
        config = getattr(config, part)
    return config


def model_of(name: str) -> MinDScAIP:
    torch.manual_seed(0)
    return MinDScAIP(load_config([f"preset={name}"]).model, ELEMENTS, dict.fromkeys(ELEMENTS, 0.0))


def test_every_column_is_a_preset_and_nothing_else_is():
    assert set(preset_names()) == {*COLUMNS, *SIZES, "tiny"}


@pytest.mark.parametrize("column", range(len(COLUMNS)), ids=COLUMNS)
def test_values_of_the_table(column: int):
    config = load_config([f"preset={COLUMNS[column]}"])
    expected = {**SAME_IN_ALL, **{key: row[column] for key, row in ROWS.items()}}
    assert {key: value(config, key) for key in expected} == expected


@pytest.mark.parametrize("column", range(4), ids=COLUMNS[10:])
def test_values_in_parentheses(column: int):
    """Except for the stress, which a model with direct forces does not have."""
    first, second = stages_of(load_config([f"preset={COLUMNS[10 + column]}"]))
    assert (first.head, second.head) == ("direct", "conservative")
    assert first.corruption is not None
    expected = {key: row[column] for key, row in IN_PARENTHESES.items()}
    assert {key: value(first.settings, key) for key in expected} == expected


@pytest.mark.parametrize("name", SIZES)
def test_sizes_and_short_names(name: str):
    assert load_config([f"preset={name}"]) == load_config([f"preset=spice-{name}"])
    rooms = parameters_by_room(model_of(name))
    assert sum(rooms.values()) == pytest.approx(SIZES[name], rel=0.03)
    assert list(rooms) == ["embedding", "attention", "edge feed-forward", "atom feed-forward", "heads"]
    width = load_config([f"preset={name}"]).model.embed_dim
    # Eight layers of two attentions with four D x D maps each, and a norm before each.
    assert rooms["attention"] == 8 * 2 * (4 * width**2 + width)


CHILD = """
import sys
sys.modules["mindscaip"] = None
import torch
for line in sys.stdin:
    path, arguments, answer = line.split()
    module = torch.jit.load(path)
    torch.save(module(*torch.load(arguments, weights_only=True)), answer)
    print("done", flush=True)
"""
"""Runs the files that it is told of, in a process that cannot import mindscaip."""


@pytest.fixture(scope="module")
def elsewhere():
    command = [sys.executable, "-c", CHILD]
    with subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        yield child
        child.stdin.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*COLUMNS, *SIZES, "tiny"} - {f"spice-{size}" for size in SIZES}))
def test_the_exported_file_reproduces_the_eager_model_elsewhere(name: str, tmp_path, elsewhere):
    """In float64, so that nothing but rounding is allowed; spice-small and the like are small and the like."""
    model = model_of(name).set_precision(torch.float64)
    structure = random_structure(6, size=3.0)
    edges = neighbor_list(structure, model.list_cutoff)
    arguments = (torch.from_numpy(structure.numbers), torch.from_numpy(edges.index), torch.from_numpy(edges.vectors))
    eager = ExportedPotential(model).eval()
    path = tmp_path / "model.pt"
    torch.jit.save(torch.jit.script(eager), str(path))
    torch.save(arguments, tmp_path / "arguments")
    elsewhere.stdin.write(f"{path} {tmp_path / 'arguments'} {tmp_path / 'answer'}\n")
    elsewhere.stdin.flush()
    assert elsewhere.stdout.readline() == "done\n"
    path.unlink()  # up to half a gigabyte
    expected = eager(*arguments)
    assert expected[0].abs().sum() > 0
    for ours, theirs in zip(expected, torch.load(tmp_path / "answer", weights_only=True), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-10, atol=1e-12)


def test_info_counts_by_room():
    run = partial(CliRunner().invoke, app)
    model = str(model_path("float64"))
    answer = json.loads(run(["info", model, "--json"]).stdout)
    assert sum(answer["parameters_by_room"].values()) == answer["contract"]["parameters"]
    printed = run(["info", model]).stdout
    for room, count in answer["parameters_by_room"].items():
        assert room in printed
        assert f"{count:,}" in printed
