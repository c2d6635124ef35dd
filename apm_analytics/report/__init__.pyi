from . import pages as pages
from . import records as records
from .records import RECORD_MIME as RECORD_MIME
from .records import NotebookResult as NotebookResult
from .records import locate as locate
from .records import read_records as read_records
from .records import record as record
