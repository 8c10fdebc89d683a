"""Maps of tiny versions of Keras' code examples: right where the method is defined, refused by a typed error elsewhere.

What right means is in ``example_maps``, which refusals are in ``example_refusals``.
"""

import contextlib

import pytest
from example_maps import ANALYZERS, Case
from example_nets import EXAMPLES, listed
from example_refusals import REFUSED, refusal

from innv_ext.errors import InnvError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=[name for name in listed() if not EXAMPLES[name].rare])
def case(request):
    """One model at a time."""
    return Case(request.param)


@pytest.mark.parametrize("analyzer", ANALYZERS)
def test_a_map_is_right_or_refused(case, analyzer):
    if analyzer == "grad_cam" and not case.one.maps:
        pytest.skip("no feature maps")
    if analyzer == "rc_rde" and not (case.one.dense or refusal(case.one, analyzer)):
        pytest.skip("slow; others stand for it")
    reason = refusal(case.one, analyzer)
    if reason is None:
        assert case.problems(analyzer) == []
    elif not case.one.coupled:
        with pytest.raises(InnvError) as raised:
            case.problems(analyzer)
        assert reason[0].lower() in str(raised.value).lower(), reason[1]
    else:  # an error, or a warning
        with contextlib.suppress(InnvError):
            assert case.problems(analyzer) == [], reason[1]


def test_the_table_of_refusals_has_only_models_that_there_are():
    assert set(REFUSED) <= set(listed())
