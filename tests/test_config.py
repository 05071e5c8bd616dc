"""Configuration: later arguments win, mistakes are named."""

import pytest

from mindscaip.config import Config, describe_config, load_config, load_preset, parse_config, preset_names
from mindscaip.errors import MindscaipError


def test_files_presets_and_overrides_merge_in_order(tmp_path):
    (tmp_path / "run.yaml").write_text("model:\n  embed_dim: 32\n  graph: {k: 12}\ntraining: {epochs: 3}\n")
    config = load_config([str(tmp_path / "run.yaml"), "model.graph.k=7", "data.train=x.xyz", "model.num_heads=4"])
    assert (config.model.embed_dim, config.model.graph.k, config.training.epochs) == (32, 7, 3)
    assert config.model.graph.cutoff == 6.0
    assert config.data.train == "x.xyz"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["model.embed_dims=3"], "unknown configuration key 'model.embed_dims' .did you mean 'embed_dim'"),
        (["model.graph.cutof=3"], "unknown configuration key 'model.graph.cutof' .did you mean 'cutoff'"),
        (["modle.embed_dim=3"], "unknown configuration key 'modle' .did you mean 'model'"),
        (["model.embed_dim=wide"], "'model.embed_dim' = 'wide'"),
        (["training.epochs=-1"], "'training.epochs' = -1"),
        (["model.head=both"], "'model.head' = 'both'"),
        (["model.num_heads=7"], "embed_dim = 128 is not divisible by num_heads = 7"),
        (["preset=smal"], "no preset named 'smal' .did you mean 'small'"),
        (["nowhere.yaml"], r"nowhere\.yaml: no such configuration file"),
        (["model.embed_dim=[1"], "is not a YAML value"),
        (["model=3"], "'model' = 3"),
    ],
)
def test_mistakes_are_named(arguments, sentence):
    with pytest.raises(MindscaipError, match=sentence):
        load_config(arguments)


def test_a_list_is_not_a_configuration(tmp_path):
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(MindscaipError, match="found a list"):
        load_config([str(tmp_path / "list.yaml")])


def test_every_preset_is_a_configuration():
    assert {"small", "medium", "large"} <= set(preset_names())
    for name in preset_names():
        parse_config(load_preset(name))


def test_the_description_parses_back_to_the_configuration(tmp_path):
    config = load_config(["preset=small", "data.train=a.xyz", "training.max_minutes=3"])
    (tmp_path / "described.yaml").write_text(describe_config(config))
    assert load_config([str(tmp_path / "described.yaml")]) == config
    assert load_config([]) == Config()
