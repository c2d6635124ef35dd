from . import job as job
from . import ledger as ledger
from . import notebooks as notebooks
from . import schedule as schedule
