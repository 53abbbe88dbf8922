"""2,000 mutated files per reader, with kept seeds. MIXOFSHOW_FUZZ=200000 makes it a campaign."""

import os

import pytest
from mos_tests.unit.formats import fuzz_formats

COUNT = int(os.environ.get("MIXOFSHOW_FUZZ", "2000"))
CORPORA = fuzz_formats.corpora()


@pytest.mark.parametrize("reader", list(CORPORA))
def test_mutated_files_are_read_or_refused(reader, tmp_path):
    outcome = fuzz_formats.attack(reader, CORPORA[reader], COUNT, tmp_path)
    # Both must happen, else the mutations are too mild or the reader refuses everything.
    assert min(outcome.values()) >= COUNT // 200, outcome
