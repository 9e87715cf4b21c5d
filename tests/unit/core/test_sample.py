"""The sample of a shadow: a share of the ids, whatever their pace, and the same for everybody."""

from __future__ import annotations

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbus.core.sample import PRIME, in_sample, residue, residues
from pbus.storage.sqlite_shadows import is_sampled

MS = st.integers(0, (1 << 43) - 1)
SEQUENCE = st.integers(0, (1 << 20) - 1)


@pytest.mark.parametrize("step_ms", [1, 7, 100, 1000, 60_000])
@pytest.mark.parametrize("share", [0.01, 0.3])
def test_sample_is_its_share_of_the_ids_at_any_pace(share: float, step_ms: int) -> None:
    ids = [f"{1_790_000_000_000 + n * step_ms}-0" for n in range(20_000)]
    mine = sum(in_sample(one, residues(share)) for one in ids)

    assert abs(mine / len(ids) - share) < 0.1 * share + 0.002


@pytest.mark.parametrize("share", [0.01, 0.3])
def test_sample_is_its_share_of_the_ids_of_one_millisecond(share: float) -> None:
    mine = sum(in_sample(f"1790000000000-{n}", residues(share)) for n in range(20_000))

    assert abs(mine / 20_000 - share) < 0.1 * share + 0.002


def test_sample_of_everything_has_all_and_the_smallest_has_some() -> None:
    assert (residues(1.0), residues(0.0001), residues(1e-9)) == (PRIME, 100, 1)
    assert all(in_sample(f"{n}-{n}", PRIME) and in_sample(f"{n}-{n}", 0) for n in range(1000))


@given(MS, SEQUENCE)
def test_residue_fits_what_a_lua_number_holds(ms: int, sequence: int) -> None:
    assert 0 <= residue(ms, sequence) < PRIME
    assert PRIME * PRIME < 2**53


@given(MS, SEQUENCE, st.integers(1, PRIME))
def test_sqlite_draws_the_same_sample(ms: int, sequence: int, sample: int) -> None:
    db = apsw.Connection(":memory:")
    told = db.execute(f"SELECT {is_sampled('?1', '?2')}", (ms << 20 | sequence, sample)).get

    assert bool(told) == in_sample(f"{ms}-{sequence}", sample)


@given(MS, SEQUENCE, st.integers(1, PRIME - 1))
def test_larger_sample_has_all_of_a_smaller_one(ms: int, sequence: int, sample: int) -> None:
    job = f"{ms}-{sequence}"

    assert not in_sample(job, sample) or in_sample(job, sample + 1)
