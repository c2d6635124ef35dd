from .checks import age_clock as age_clock
from .checks import check as check
from .checks import suite as suite
from .checks import table as table
from .result import Expectation as Expectation
from .result import QualityResult as QualityResult
from .result import amount as amount
