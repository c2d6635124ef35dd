"""Keep jsonschema from compiling an unused grammar on import.

In:  nothing; import this module before Altair, nbformat or Great Expectations.
Out: `rfc3987_syntax` cannot be imported.

If it finds that module, jsonschema compiles a grammar of internationalised URLs when it is
imported: 2 to 4 s of CPU in the kernel of every notebook, for a format check that none uses.
"""

import sys
from types import ModuleType
from typing import cast

sys.modules.setdefault("rfc3987_syntax", cast(ModuleType, None))
