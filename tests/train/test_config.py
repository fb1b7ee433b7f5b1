"""Settings: types, bounds, and hints for misspelled names."""

import pytest

from nestling.core.error import UserError
from nestling.train import TrainConfig, make_job, train_config


def test_integers_are_accepted_for_floats():
    config = train_config({"learning_rate": 1, "max_norm": None, "schedule": "wsd"})
    assert config == TrainConfig(learning_rate=1.0, max_norm=None, schedule="wsd")
    assert isinstance(config.learning_rate, float)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lerning_rate": 1e-3}, "did you mean 'learning_rate'"),
        ({"steps": "ten"}, "type int"),
        ({"steps": True}, "type int"),
        ({"steps": 0}, "at least 1"),
        ({"carry": 1}, "type bool"),
        ({"schedule": "linear"}, "cosine, wsd, constant"),
        ({"warmup": 2.0}, "fraction"),
        ({"learning_rate": 0.0}, "more than 0"),
        ({"learning_rate": float("nan")}, "more than 0"),
    ],
)
def test_a_wrong_setting_is_named(settings, message):
    with pytest.raises(UserError, match=message):
        train_config(settings)


def test_tokens_per_step_count_one_stream():
    config = TrainConfig(batch_size=8, sequence_length=128, accumulation=3)
    assert config.tokens_per_step == 384


def test_job_separates_settings_from_model_options():
    job = make_job({"steps": 5, "num_hidden_layers": 1}, preset="transformer-tiny")
    assert job.train.steps == 5 and dict(job.model) == {"num_hidden_layers": 1}


@pytest.mark.parametrize(
    ("name", "meant"), [("btach_size", "batch_size"), ("num_hiden_layers", "num_hidden_layers")]
)
def test_misspelled_name_is_matched_against_both(name, meant):
    with pytest.raises(UserError, match=f"did you mean '{meant}'"):
        make_job({name: 3}, preset="transformer-tiny")
