"""What every network service of the project shares.

In:  connections, tokens, compressed request bodies.
Out: authenticated senders, bounded bytes, refusals as HTTP and gRPC state them.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
