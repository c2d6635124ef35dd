"""Only remembered requests are repeats.

Repeats after a crash or a hang-up are tested in test_crashes and test_disk.
"""

from apm_analytics.ingest.kinds import fingerprint
from apm_analytics.ingest.receiver.repeats import Repeats


def test_only_what_was_remembered_is_a_repeat() -> None:
    seen = Repeats()
    assert not seen.taken(b"one")
    seen.remember(fingerprint(b"one"))
    assert seen.taken(b"one") and not seen.taken(b"two") and not seen.taken(b"longer")
