"""The write-ahead journal of the receiver.

In:  the bytes of requests.
Out: segments on the disk before a request is acknowledged; their entries after a crash.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
