"""Real processes, hit by signals at random moments, end as one never stopped."""

import pytest

from tests.helpers.kill_campaign import Campaign


@pytest.mark.slow(reason="a campaign: tests/train/test_loop.py kills runs every day")
def test_a_run_hit_again_and_again_ends_as_one_never_stopped(tmp_path):
    """Longer campaigns: python -m tests.helpers.kill_campaign."""
    campaign = Campaign(tmp_path / "campaign", seed=1)
    while campaign.hits.total() < 2 and not campaign.faults:
        campaign.live(2)
    assert not campaign.faults, "\n".join(campaign.faults)
