from . import journal as journal
from .journal import Entry as Entry
from .journal import Journal as Journal
from .journal import Segment as Segment
