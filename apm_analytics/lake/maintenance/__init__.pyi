from . import compact_process as compact_process
from . import compaction as compaction
from . import erasure as erasure
from . import lean as lean
from . import retention as retention
from . import verify as verify
