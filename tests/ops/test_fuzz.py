"""For any shapes, compiled code neither crashes nor returns non-finite values."""

import pytest
from apart import run_apart
from fuzz import KINDS, draw_calls


def test_a_few_random_calls_of_every_kind():
    run_apart(draw_calls, list(KINDS), 40)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_random_calls(kind):
    run_apart(draw_calls, [kind], 2000)
