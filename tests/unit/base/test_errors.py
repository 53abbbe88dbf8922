"""The error that people read: a short name in the front end, whole after a journey between processes, no ValueError."""

import pickle

import pytest
from mos_pack.mixofshow_core.errors import MixOfShowError
from mos_pack.mixofshow_core.training.loop import TrainingDiverged


@pytest.mark.parametrize("kind", [MixOfShowError, TrainingDiverged])
def test_the_front_end_shows_whose_error_it_is_and_not_where_its_file_lies(kind):
    assert f"{kind.__module__}.{kind.__qualname__}" == f"mixofshow.{kind.__name__}"  # as the host writes its type


def test_it_can_be_sent_to_another_process():
    sent = pickle.loads(pickle.dumps(MixOfShowError("Regions: region 'a' is gone.")))
    assert type(sent) is MixOfShowError and str(sent) == "Regions: region 'a' is gone."
    assert isinstance(pickle.loads(pickle.dumps(TrainingDiverged("nan"))), MixOfShowError)


def test_no_handler_of_wrong_values_takes_it_for_one():
    assert not issubclass(MixOfShowError, ValueError)
