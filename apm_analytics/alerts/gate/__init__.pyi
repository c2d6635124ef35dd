from . import backtest as backtest
from . import charts as charts
from . import history as history
from . import judge as judge
from . import replayable as replayable
from . import stage as stage
from . import watching as watching
