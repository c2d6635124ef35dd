"""Jobs that rewrite the lake: compaction, retention, erasure; and verification.

`compaction` holds the lock and the rewriting step that the other jobs share.

In:  a lake.
Out: the same lake with other parts; each job may be killed at any moment and run again.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
