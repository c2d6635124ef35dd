from . import signal_specs as signal_specs
from . import slo_rules as slo_rules
from . import threshold_files as threshold_files
