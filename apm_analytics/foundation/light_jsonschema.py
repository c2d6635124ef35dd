"""Keep jsonschema from compiling a grammar that nothing here uses.

In:  nothing; importing this module is enough, before Altair, nbformat or Great Expectations.
Out: `rfc3987_syntax` cannot be imported.

jsonschema compiles a grammar of internationalised URLs when it is imported and finds that module:
2 to 4 s of CPU in every kernel of every notebook, for a format check that none of them uses.
"""

import sys
from types import ModuleType
from typing import cast

sys.modules.setdefault("rfc3987_syntax", cast(ModuleType, None))
