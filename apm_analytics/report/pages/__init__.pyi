from . import experiments as experiments
from . import nightly as nightly
from . import quality as quality
from . import sla as sla
