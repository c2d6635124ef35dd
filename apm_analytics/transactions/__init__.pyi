from . import instances as instances
from . import live as live
from . import report as report
from . import specs as specs
from .hours import Hours as Hours
from .instances import Instances as Instances
from .live import Watcher as Watcher
from .specs import Transaction as Transaction
