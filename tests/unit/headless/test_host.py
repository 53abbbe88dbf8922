"""A worker with another host or pack is refused by name."""

import pytest
from mos_pack.headless.host import check_versions
from mos_pack.mixofshow_core.errors import MixOfShowError

ASKED = {"host": "0.3.75", "pack": "0.1.0", "torch": "2.13.0+cpu"}


def test_a_worker_with_other_versions_is_refused_by_name():
    check_versions(ASKED, dict(ASKED), "the worker on 10.0.0.5")
    for found, words in (
        (ASKED | {"pack": "0.2.0"}, "the worker on 10.0.0.5 has pack 0.2.0, not 0.1.0: install the same there"),
        (ASKED | {"host": ""}, "the worker on 10.0.0.5 has host unknown, not 0.3.75: "),
        (ASKED | {"host": "0.4.0", "torch": "2.9.0"}, "has host 0.4.0, not 0.3.75; torch 2.9.0, not 2.13.0+cpu: "),
    ):
        with pytest.raises(MixOfShowError) as refused:
            check_versions(ASKED, found, "the worker on 10.0.0.5")
        assert words in str(refused.value) and str(refused.value).count(", not") == len(words.split(", not")) - 1
